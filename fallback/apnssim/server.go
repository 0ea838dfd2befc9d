package apnssim

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/internal/simkit"
)

// Options are what a Server is made of. The zero value is a working one: loopback,
// free ports, any well-formed provider token, any topic.
type Options struct {
	Address        string // of the push endpoint; "127.0.0.1:0"
	ControlAddress string // of the control API; "127.0.0.1:0"; "off": none

	// Keys are the provider keys that are known; requests signed with others are
	// refused. None: any well-formed token is taken, its signature unchecked
	// unless it names the throw-away Key.
	Keys []Key
	// ClientCAs: connections with a client certificate signed by one of these
	// need no provider token. nil: any client certificate will do.
	ClientCAs *x509.CertPool
	// Topics that may be pushed to; others are TopicDisallowed. None: any.
	Topics []string

	// MaxConcurrentStreams of a connection; 1000. A connection gets one until a
	// valid provider token has been seen on it, as Apple does it.
	MaxConcurrentStreams uint32
	// NoFirstStream grants all streams from the start.
	NoFirstStream bool

	// TokenLimit requests for one device token are taken in TokenWindow (1 s), further
	// ones are answered 429 TooManyRequests; 0: any number.
	TokenLimit  int
	TokenWindow time.Duration
	// Reorder delays each request by a random time up to this. Apple promises no order
	// between streams: of requests that are under way together any may be first.
	Reorder time.Duration

	// MaxReceived is how many requests are kept for Received; 100,000. The oldest
	// go first.
	MaxReceived int

	Now    func() time.Time // for the age of provider tokens; nil: time.Now
	Logger *slog.Logger     // nil: none
}

// Key is a provider key as a developer gets it from Apple.
type Key struct {
	PEM    []byte // PKCS #8, the content of a .p8 file
	KeyID  string
	TeamID string
}

// NewKey makes a key that only this simulator knows.
func NewKey(keyID, teamID string) (Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make a provider key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return Key{}, fmt.Errorf("make a provider key: %w", err)
	}
	return Key{PEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), KeyID: keyID, TeamID: teamID}, nil
}

func (k Key) public() (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode(k.PEM)
	if block == nil {
		return nil, fmt.Errorf("key %s is not PEM", k.KeyID)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.KeyID, err)
	}
	priv, ok := key.(*ecdsa.PrivateKey)
	if !ok || priv.Curve != elliptic.P256() {
		return nil, fmt.Errorf("key %s is not a P-256 key", k.KeyID)
	}
	return &priv.PublicKey, nil
}

// Server is a running simulator. Its methods are safe for concurrent use.
// Locks are taken in the order Server.mu, conn.mu, screens.mu.
type Server struct {
	*simkit.Server
	opts    Options
	log     *slog.Logger
	key     Key
	scripts simkit.ScriptList[Script, *Script]
	journal *simkit.Journal[Received]
	screens *screens
	wg      sync.WaitGroup
	streams atomic.Uint32 // that a connection may have

	mu     sync.Mutex
	closed bool
	conns  map[*conn]bool
	dialed int // connections ever
	keys   map[string]providerKey
	topics []string
	auth   authState
	taken  map[string]window // by device token, with TokenLimit
	tokens map[string]string // by device token: the suffix of its first accepted topic
}

type providerKey struct {
	public *ecdsa.PublicKey
	teamID string
}

// Start makes a CA and a certificate, listens, and serves until Close.
func Start(opts Options) (*Server, error) {
	opts.MaxConcurrentStreams = cmp.Or(opts.MaxConcurrentStreams, 1000)
	opts.TokenWindow = cmp.Or(opts.TokenWindow, time.Second)
	opts.MaxReceived = cmp.Or(opts.MaxReceived, 100_000)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Server{
		opts: opts, log: opts.Logger, conns: map[*conn]bool{},
		keys: map[string]providerKey{}, topics: opts.Topics, tokens: map[string]string{},
		journal: simkit.NewJournal[Received](opts.MaxReceived), screens: newScreens(),
	}
	s.journal.Fold = strings.ToLower
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.streams.Store(opts.MaxConcurrentStreams)
	s.auth.init()

	var err error
	if s.key, err = NewKey("SIMULATOR1", "HEARTLINE1"); err != nil {
		return nil, err
	}
	known := opts.Keys
	if len(known) > 0 {
		s.key = known[0]
	} else {
		known = []Key{s.key}
	}
	for _, k := range known {
		pub, err := k.public()
		if err != nil {
			return nil, err
		}
		s.keys[k.KeyID] = providerKey{public: pub, teamID: k.TeamID}
	}

	if s.Server, err = simkit.Open(opts.Address, opts.ControlAddress, s.Control()); err != nil {
		return nil, err
	}
	tlsConfig := &tls.Config{
		Certificates: []tls.Certificate{s.Certificate}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequestClientCert, ClientCAs: opts.ClientCAs,
	}
	if opts.ClientCAs != nil {
		tlsConfig.ClientAuth = tls.VerifyClientCertIfGiven
	}
	s.wg.Go(func() { s.accept(tlsConfig) })
	return s, nil
}

// Run is Start for a command: it serves until ctx ends. started is called once
// it listens.
func Run(ctx context.Context, opts Options, started func(*Server)) error {
	s, err := Start(opts)
	if err != nil {
		return err
	}
	if started != nil {
		started(s)
	}
	<-ctx.Done()
	return s.Close()
}

// Key is a key that the server takes: the first of Options.Keys, or a throw-away
// one.
func (s *Server) Key() Key { return s.key }

// Close ends listeners, connections and waits, and waits for the goroutines. It may be
// called twice.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.close()
	}
	s.mu.Unlock()
	s.journal.Close()
	err := s.Server.Close()
	s.wg.Wait()
	return err
}

func (s *Server) accept(cfg *tls.Config) {
	for {
		nc, err := s.Pushes.Accept()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed {
				return
			}
			s.log.Warn("accept", "err", err)
			time.Sleep(10 * time.Millisecond) // out of file descriptors, most likely
			continue
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = nc.Close() // stopping
			return
		}
		s.dialed++
		c := newConn(s, tls.Server(nc, cfg), s.dialed)
		s.conns[c] = true
		s.wg.Go(func() {
			c.serve()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
		s.mu.Unlock()
	}
}

// Connections tells how many connections are open, and how many ever were.
func (s *Server) Connections() (open, ever int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns), s.dialed
}

func (s *Server) eachConn(fn func(*conn)) {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		fn(c)
	}
}

// GoAway sends GOAWAY on every connection: earlier requests are answered, later ones
// are ignored, and the connection ends.
func (s *Server) GoAway() { s.eachConn(func(c *conn) { c.goAway(math.MaxUint32, "") }) }

// Silence makes every open connection dead without a word: nothing is answered,
// not even pings. New connections work.
func (s *Server) Silence() { s.eachConn((*conn).silence) }

// Disconnect cuts every open connection.
func (s *Server) Disconnect() { s.eachConn((*conn).close) }

// LimitStreams changes the number of concurrent streams, on open connections
// too.
func (s *Server) LimitStreams(n uint32) {
	s.streams.Store(n)
	s.eachConn((*conn).updateLimit)
}

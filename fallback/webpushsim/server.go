package webpushsim

import (
	"cmp"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/heartline-mqtt/heartline/internal/simkit"
)

// Options are what a Server is made of. The zero value is a working one on loopback.
type Options struct {
	Address        string           // of the push endpoint; "127.0.0.1:0"
	ControlAddress string           // of the control API; "127.0.0.1:0"; "off": none
	Service        string           // whose words it refuses another key with; ServiceApple. A real Firefox gets Mozilla's
	MaxReceived    int              // how many requests are kept for Received; 10,000. The oldest go first
	Now            func() time.Time // nil: time.Now
}

// Subscription is what a browser's PushSubscription.toJSON() returns.
type Subscription struct {
	Endpoint       string `json:"endpoint"`
	ExpirationTime *int64 `json:"expirationTime"`
	Keys           struct {
		P256dh string `json:"p256dh"`
		Auth   string `json:"auth"`
	} `json:"keys"`
}

// Received is a request as it came, and what became of it.
type Received struct {
	Number   int             `json:"number"` // 1, 2, … since the start or the last Clear
	Time     time.Time       `json:"time"`
	Token    string          `json:"token"` // the last part of the endpoint
	TTL      string          `json:"ttl,omitempty"`
	Urgency  string          `json:"urgency,omitempty"`
	Topic    string          `json:"topic,omitempty"`
	Message  json.RawMessage `json:"message,omitempty"` // the plain text, if it is JSON and for the simulator
	Tag      string          `json:"tag,omitempty"`
	Status   int             `json:"status"` // 0: no answer
	Reason   string          `json:"reason,omitempty"`
	Protocol string          `json:"protocol"`
	// Unanswered: the client did not get the answer, whatever Status says: a script cut the
	// connection, or the client had gone.
	Unanswered bool `json:"unanswered,omitempty"`
}

// Server is a running simulator. Its methods are safe for concurrent use.
type Server struct {
	*simkit.Server
	now     func() time.Time
	service string
	Scripts Scripts
	journal *simkit.Journal[Received]

	mu       sync.Mutex
	browsers map[string]*browser // by the last part of the endpoint
	gone     map[string]bool
	agents   map[string]*userAgent // real browsers by their uaid
	sockets  map[*websocket.Conn]bool
	closed   bool
	serving  sync.WaitGroup // of sockets
}

// browser is a subscription. That of a real browser has an agent and no keys.
type browser struct {
	agent   *userAgent
	channel string

	key   *ecdh.PrivateKey
	auth  []byte
	vapid string
	shown []Received // oldest first
}

// Start listens and serves until Close.
func Start(o Options) (*Server, error) {
	s := &Server{now: o.Now, service: cmp.Or(o.Service, ServiceApple), journal: simkit.NewJournal[Received](cmp.Or(o.MaxReceived, 10_000)), browsers: map[string]*browser{}, gone: map[string]bool{},
		agents: map[string]*userAgent{}, sockets: map[*websocket.Conn]bool{}}
	if s.now == nil {
		s.now = time.Now
	}
	if otherKey[s.service] == nil {
		return nil, fmt.Errorf("service: must be apple, google or mozilla, got %q", s.service)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /push/{token}", s.push)
	var err error
	if s.Server, err = simkit.Start(o.Address, o.ControlAddress, mux, s.Control()); err != nil {
		return nil, err
	}
	return s, nil
}

// Control is the control API as a handler, also for a server of one's own.
func (s *Server) Control() http.Handler {
	control := simkit.Control(func() []byte { return s.CAPEM() }, &s.Scripts, s.journal)
	control.HandleFunc("POST /subscriptions", s.serveSubscribe)
	control.HandleFunc("DELETE /subscriptions/{token}", func(w http.ResponseWriter, r *http.Request) {
		s.Unsubscribe(r.PathValue("token"))
		w.WriteHeader(http.StatusNoContent)
	})
	control.HandleFunc("GET /browser", s.serveBrowser)
	control.HandleFunc("GET /shown", func(w http.ResponseWriter, r *http.Request) {
		simkit.WriteJSON(w, http.StatusOK, s.Shown(r.FormValue("token")))
	})
	return control
}

// Close stops the server and ends every wait. It may be called twice.
func (s *Server) Close() error {
	s.journal.Close()
	s.mu.Lock()
	s.closed = true
	for conn := range s.sockets {
		_ = conn.Close() // its reader ends
	}
	s.mu.Unlock()
	err := s.Server.Close()
	s.serving.Wait()
	return err
}

// Subscribe is PushManager.subscribe: key is the applicationServerKey, "" for none.
func (s *Server) Subscribe(key string) (Subscription, error) {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return Subscription{}, fmt.Errorf("make a subscription: %w", err)
	}
	b := &browser{key: private, auth: make([]byte, 16), vapid: key}
	_, _ = rand.Read(b.auth) // never fails
	token := rand.Text()
	s.mu.Lock()
	s.browsers[token] = b
	s.mu.Unlock()
	var sub Subscription
	sub.Endpoint = s.URL() + "/push/" + token
	sub.Keys.P256dh = base64.RawURLEncoding.EncodeToString(private.PublicKey().Bytes())
	sub.Keys.Auth = base64.RawURLEncoding.EncodeToString(b.auth)
	return sub, nil
}

// Unsubscribe ends a subscription, named by its endpoint or the endpoint's last part: the
// next push gets 410.
func (s *Server) Unsubscribe(endpoint string) {
	token := Token(endpoint)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.browsers[token] != nil {
		delete(s.browsers, token)
		s.gone[token] = true
	}
}

// Token is the last part of an endpoint, by which the journal knows it.
func Token(endpoint string) string { return endpoint[strings.LastIndexByte(endpoint, '/')+1:] }

// Received lists the pushes received for a subscription, for all of them with "".
func (s *Server) Received(token string) []Received { return s.journal.List(Token(token)) }

// WaitFor returns the pushes received for a subscription (all with "") once there are n.
func (s *Server) WaitFor(ctx context.Context, token string, n int) ([]Received, error) {
	return s.journal.WaitFor(ctx, Token(token), n)
}

// Shown is what the browser would show, oldest first: of two with one tag the later.
func (s *Server) Shown(token string) []Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.browsers[Token(token)]; b != nil {
		return slices.Clone(b.shown)
	}
	return []Received{}
}

func (s *Server) serveSubscribe(w http.ResponseWriter, r *http.Request) {
	var v struct {
		Key string `json:"application_server_key"`
	}
	if err := simkit.ReadJSON(r.Body, &v); err != nil {
		simkit.WriteError(w, http.StatusBadRequest, err)
		return
	}
	sub, err := s.Subscribe(v.Key)
	if err != nil {
		simkit.WriteError(w, http.StatusInternalServerError, err)
		return
	}
	simkit.WriteJSON(w, http.StatusCreated, sub)
}

const maxBody = 4096

// push is the push resource of RFC 8030 §5.
func (s *Server) push(w http.ResponseWriter, r *http.Request) {
	token := r.PathValue("token")
	rec := Received{
		Time: s.now(), Token: token, TTL: r.Header.Get("TTL"), Urgency: r.Header.Get("Urgency"), Topic: r.Header.Get("Topic"), Protocol: r.Proto,
	}
	defer func() {
		s.journal.Add(token, func(n int) Received { rec.Number = n; return rec })
	}()
	refuse := func(f *fault) {
		rec.Status, rec.Reason = f.status, f.reason
		if f.body != "" {
			w.WriteHeader(f.status)
			_, _ = io.WriteString(w, f.body) // the client is gone
			return
		}
		simkit.WriteJSON(w, f.status, map[string]string{"reason": f.reason})
	}
	s.mu.Lock()
	b, gone := s.browsers[token], s.gone[token]
	s.mu.Unlock()
	if b == nil {
		f := &fault{status: http.StatusNotFound, reason: "errno 102: unknown subscription"}
		if gone {
			f = &fault{status: http.StatusGone, reason: "errno 106: unsubscribed"}
		}
		refuse(f)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return // the client is gone
	}
	if len(body) > maxBody {
		refuse(&fault{status: http.StatusRequestEntityTooLarge, reason: "larger than 4096 bytes"})
		return
	}
	if f := checkHeaders(r.Header); f != nil {
		refuse(f)
		return
	}
	service := s.service
	if b.agent != nil {
		service = ServiceMozilla
	}
	if f := checkVAPID(service, r.Header.Get("Authorization"), s.URL(), b.vapid, s.now()); f != nil {
		refuse(f)
		return
	}
	if b.agent == nil {
		plain, err := decrypt(body, b.key, b.auth)
		if err != nil {
			refuse(&fault{status: http.StatusBadRequest, reason: err.Error()})
			return
		}
		if json.Valid(plain) {
			rec.Message = plain
		}
		var f *fault
		if rec.Tag, f = checkMessage(plain); f != nil {
			refuse(f)
			return
		}
	}
	tag := rec.Tag
	script := s.Scripts.Next(token)
	rec.Unanswered = script.Action != ActionAnswer
	status, done := script.Play(w, r, func() {
		if b.agent != nil {
			b.forward(rec.Topic, body)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if tag != "" {
			b.shown = slices.DeleteFunc(b.shown, func(x Received) bool { return x.Tag == tag })
		}
		b.shown = append(b.shown, rec)
	})
	rec.Status = status
	rec.Unanswered = rec.Unanswered || r.Context().Err() != nil
	if done {
		return
	}
	rec.Status = http.StatusCreated
	w.Header().Set("Location", s.URL()+"/message/"+rand.Text())
	w.Header().Set("TTL", rec.TTL)
	w.WriteHeader(http.StatusCreated)
}

// Subscriptions lists the last parts of the live endpoints.
func (s *Server) Subscriptions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.browsers))
}

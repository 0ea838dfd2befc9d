package relay

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/internal/backoff"
)

// Options configure a Mesh. Name, Local, Patience and Log are required.
type Options struct {
	Name    string
	Address string // under which other nodes reach this one
	// Equal is what must be the same at all nodes, Alike what should be: a difference is
	// logged. Both are names and values of the configuration.
	Equal, Alike map[string]string
	Local        Local
	Topics       Topics // nil: this node shares no topics of ordinary MQTT
	// Webhook carries out an order of another node about a webhook that this one sends, as
	// Session.Webhook; nil: this node sends none.
	Webhook func(ctx context.Context, order []byte) (outcome []byte, err error)
	// KeepRoom keeps room for a device that comes at another node, as Session.KeepRoom; nil: this
	// node bounds no devices.
	KeepRoom func(limit int, account, device string) (full bool, err error)
	// Dial opens a stream to a node; nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Beat is how often a node gives a sign of life; 0: never.
	Beat time.Duration
	// Patience is how long a Session lasts without a stream, and how long a call waits for a
	// Core that is being read.
	Patience time.Duration
	Log      *slog.Logger
}

// Member is a life of a node.
type Member struct {
	ID      int64
	Name    string
	Address string
}

// Mesh is the streams of a node to all others: one a pair, dialled by the younger life.
type Mesh struct {
	opts  Options
	tasks sync.WaitGroup
	ctx   context.Context // ends with Close
	close context.CancelFunc

	mu       sync.Mutex
	closed   bool
	life     int64 // 0: none
	sessions map[int64]*Session
	dialled  map[int64]context.CancelFunc
	met      map[int64]time.Time // Sessions that others have begun: when
	streams  map[net.Conn]struct{}
	refused  map[string]string // the last refusal, by node: logged once
	members  []Member          // of the last Update
	counts   map[string]*callCounts
}

// callCounts are of the calls to a node, by its name, over all its lives.
type callCounts struct{ calls, unanswered atomic.Uint64 }

// PeerStatus is what a Mesh knows of another node.
type PeerStatus struct {
	Name       string
	Up         bool   // there is a stream to its present life
	Calls      uint64 // of this node to it
	Unanswered uint64 // calls that it did not take or answer
}

// Status returns a PeerStatus for each node of the last Update, by name.
func (m *Mesh) Status() []PeerStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	byName := map[string]*PeerStatus{}
	for _, p := range m.members {
		s := byName[p.Name]
		if s == nil { // a killed node and its next life may both be there
			s = &PeerStatus{Name: p.Name}
			byName[p.Name] = s
		}
		session := m.sessions[p.ID]
		s.Up = s.Up || session != nil && session.Streaming()
		if c := m.counts[p.Name]; c != nil {
			s.Calls, s.Unanswered = c.calls.Load(), c.unanswered.Load()
		}
	}
	all := make([]PeerStatus, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, *byName[name])
	}
	return all
}

// countsOf returns the counters of a node.
func (m *Mesh) countsOf(name string) *callCounts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.counts[name]
	if c == nil {
		c = &callCounts{}
		m.counts[name] = c
	}
	return c
}

// NewMesh returns a Mesh that has no life yet.
func NewMesh(o Options) *Mesh {
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Mesh{
		opts: o, ctx: ctx, close: cancel,
		sessions: map[int64]*Session{}, dialled: map[int64]context.CancelFunc{}, met: map[int64]time.Time{}, streams: map[net.Conn]struct{}{}, refused: map[string]string{}, counts: map[string]*callCounts{},
	}
}

// Serve accepts streams of other nodes until l is closed, which Close does.
func (m *Mesh) Serve(l net.Listener) {
	closes := m.start(func() {
		<-m.ctx.Done()
		_ = l.Close() // Accept tells
	})
	if !closes {
		_ = l.Close() // nobody has used it
		return
	}
	m.start(func() {
		for {
			conn, err := l.Accept()
			if m.ctx.Err() != nil {
				return
			}
			if err != nil {
				m.opts.Log.Error("relay does not accept, retrying", "error", err)
				select {
				case <-time.After(time.Second):
				case <-m.ctx.Done():
				}
				continue
			}
			m.Handle(conn)
		}
	})
}

// Begin gives this node a life. One before has ended with End.
func (m *Mesh) Begin(life int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life = life
}

// End ends the life of this node, and with it all Sessions.
func (m *Mesh) End() {
	m.mu.Lock()
	m.life = 0
	m.mu.Unlock()
	m.Update(nil)
}

// start runs task on a goroutine that Close waits for. After Close it runs nothing and
// returns false.
func (m *Mesh) start(task func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.startLocked(task)
}

func (m *Mesh) startLocked(task func()) bool {
	if !m.closed { // a Go after Close's Wait has begun would be a race
		m.tasks.Go(task)
	}
	return !m.closed
}

// Close ends everything, and returns when nothing runs any more. It is safe to call
// twice, also at once.
func (m *Mesh) Close() {
	m.close()
	m.End()
	m.mu.Lock()
	m.closed = true
	for conn := range m.streams {
		_ = conn.Close() // one that says hello
	}
	m.mu.Unlock()
	m.tasks.Wait()
}

// Update tells the Mesh which lives there are. It ends the Sessions of others.
func (m *Mesh) Update(members []Member) {
	m.mu.Lock()
	m.members = slices.Clone(members)
	alive := map[int64]bool{}
	for _, p := range members {
		alive[p.ID] = true
		delete(m.met, p.ID)
		if p.ID >= m.life || m.dialled[p.ID] != nil || p.Address == "" || m.ctx.Err() != nil {
			continue
		}
		ctx, cancel := context.WithCancel(m.ctx)
		m.dialled[p.ID] = cancel
		life := m.life
		m.startLocked(func() { m.dial(ctx, life, p) })
	}
	for id, cancel := range m.dialled {
		if !alive[id] {
			cancel()
			delete(m.dialled, id)
		}
	}
	var over []*Session
	for id, s := range m.sessions {
		// One that has just begun may not be in a list that was read before.
		if !alive[id] && (m.life == 0 || time.Since(m.met[id]) > m.opts.Patience) {
			over = append(over, s)
		}
	}
	m.mu.Unlock()
	for _, s := range over {
		m.end(s, errLifeEnded)
	}
}

var (
	errLifeEnded = errors.New("the life of the node has ended")
	errSilent    = errors.New("the node could not be reached")
	errRefused   = errors.New("refused") // and logged
	errNewer     = errors.New("the node has begun another session")
)

// Sessions returns those that have begun.
func (m *Mesh) Sessions() (all []*Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions {
		all = append(all, s)
	}
	return all
}

// add makes a Session the one with a peer.
func (m *Mesh) add(s *Session, life int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != life || life == 0 {
		return false
	}
	m.sessions[s.to.ID] = s
	if !s.dials {
		m.met[s.to.ID] = time.Now()
	}
	return true
}

// end ends a Session, once.
func (m *Mesh) end(s *Session, why error) {
	m.mu.Lock()
	ours := m.sessions[s.to.ID] == s
	if ours {
		delete(m.sessions, s.to.ID)
		m.startLocked(func() {
			<-s.ctx.Done() // nothing more is started then
			s.waiting.Wait()
		})
	}
	m.mu.Unlock()
	if !ours {
		return
	}
	m.opts.Log.Info("relay to a node ended", "node", s.to.Name, "life", s.to.ID, "reason", why.Error())
	s.end(why)
	m.opts.Local.OnDown(s)
}

// endLater ends a Session from a goroutine that its end waits for.
func (m *Mesh) endLater(s *Session, why error) {
	m.start(func() { m.end(s, why) })
}

// hello is this node's of a Session.
func (m *Mesh) hello(life int64, s *Session) *hello {
	return &hello{
		Version: version, From: life, To: s.to.ID, Name: m.opts.Name, Address: m.opts.Address,
		Session: s.nonce, Received: s.arrived(), Equal: m.opts.Equal, Alike: m.opts.Alike,
	}
}

// The pauses between attempts to reach a node. There is none before the first.
const (
	firstPause = 20 * time.Millisecond
	maxPause   = time.Second
)

// dial keeps a Session with an older life until ctx ends.
func (m *Mesh) dial(ctx context.Context, life int64, to Member) {
	var s *Session
	fails := 0
	for ctx.Err() == nil {
		if s != nil && (s.ctx.Err() != nil || s.idle()) {
			m.end(s, errSilent)
			s = nil
		}
		begins := s == nil
		if begins {
			s = newSession(m, to, rand.Uint64(), true)
		}
		known, err := m.connect(ctx, life, s, begins)
		if begins && !known {
			s = nil
		}
		if known {
			fails = 0
		}
		if ctx.Err() != nil {
			break
		}
		m.logLost(to, err, fails)
		if fails > 0 {
			select {
			case <-time.After(backoff.Jitter(backoff.Doubled(firstPause, maxPause, fails-1))):
			case <-ctx.Done():
			}
		}
		fails++
	}
	if s != nil {
		m.end(s, errLifeEnded)
	}
}

func (m *Mesh) logLost(to Member, err error, fails int) {
	if fails == 0 && err != nil && !errors.Is(err, errRefused) {
		m.opts.Log.Warn("relay to a node lost, connecting again", "node", to.Name, "address", to.Address, "error", err)
	}
}

// connect carries a Session over one stream. known: the other side has the Session.
func (m *Mesh) connect(ctx context.Context, life int64, s *Session, begins bool) (known bool, err error) {
	dialling, cancel := context.WithTimeout(ctx, helloPatience)
	defer cancel()
	conn, err := m.opts.Dial(dialling, s.to.Address)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // what uses it tells
	defer stop()
	h := m.hello(life, s)
	h.Begins = begins
	r := bufio.NewReaderSize(conn, flushAt)
	if err := writeHello(conn, h); err != nil {
		_ = conn.Close()
		return false, err
	}
	answer, err := readHello(conn, r)
	if err == nil && answer.Refused == "" {
		answer.Refused = m.opts.refusal(answer)
	}
	switch {
	case err != nil:
	case answer.Ended:
		err = errNewer
		m.endLater(s, err)
		s.cancel(err)
	case answer.Refused != "":
		err = errRefused
		m.logRefused(s.to.Name, answer.Refused)
	case begins && !m.add(s, life):
		err = errLifeEnded
	}
	if err != nil {
		_ = conn.Close()
		return false, err
	}
	if begins {
		m.begun(s, answer)
	}
	return true, s.run(conn, r, answer.Received)
}

// begun tells of a Session that has begun.
func (m *Mesh) begun(s *Session, h *hello) {
	m.mu.Lock()
	delete(m.refused, s.to.Name)
	m.mu.Unlock()
	m.opts.Log.Info("relay to a node", "node", s.to.Name, "life", s.to.ID, "address", s.to.Address)
	if d := differences(m.opts.Alike, h.Alike); len(d) > 0 {
		m.opts.Log.Warn("two nodes are configured differently: what holds for a notification depends on the node", "node", s.to.Name, "differences", strings.Join(d, ", "))
	}
	s.version.Store(int64(h.Version))
	m.opts.Local.OnUp(s)
	if s.shares() {
		m.opts.Topics.Joined(s)
	}
}

func (m *Mesh) logRefused(node, why string) {
	m.mu.Lock()
	again := m.refused[node] == why
	m.refused[node] = why
	m.mu.Unlock()
	if !again {
		m.opts.Log.Error("no relay between this node and another", "node", node, "reason", why)
	}
}

// Handle takes a stream that another node has opened.
func (m *Mesh) Handle(conn net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams[conn] = struct{}{}
	started := m.startLocked(func() {
		s, err := m.accept(conn)
		if err != nil && m.ctx.Err() == nil {
			m.opts.Log.Warn("stream of another node ended", "remote", conn.RemoteAddr().String(), "error", err)
		}
		if s == nil {
			return
		}
		// The other node opens the next stream, or the Session ends.
		patience := time.NewTimer(m.opts.Patience)
		defer patience.Stop()
		select {
		case <-patience.C:
			if s.idle() {
				m.end(s, errSilent)
			}
		case <-s.ctx.Done():
		case <-m.ctx.Done():
		}
	})
	if !started {
		_ = conn.Close() // nobody has used it
	}
}

// accept says hello and carries a Session over conn. The Session is nil if it was
// refused.
func (m *Mesh) accept(conn net.Conn) (*Session, error) {
	r := bufio.NewReaderSize(conn, flushAt)
	h, err := readHello(conn, r)
	m.mu.Lock()
	delete(m.streams, conn)
	life := m.life
	m.mu.Unlock()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	s, begins, answer := m.greet(life, h, foreign(conn, h))
	if err := writeHello(conn, answer); err != nil || s == nil {
		_ = conn.Close()
		if begins {
			m.end(s, errSilent)
			s = nil
		}
		return s, err
	}
	if begins {
		m.begun(s, h)
	}
	return s, s.run(conn, r, h.Received)
}

// greet finds the Session that a stream is to carry. foreign is why it is no node's; "": it may be.
func (m *Mesh) greet(life int64, h *hello, foreign string) (s *Session, begins bool, answer *hello) {
	answer = &hello{Version: version, From: life, To: h.From, Name: m.opts.Name, Address: m.opts.Address, Session: h.Session, Equal: m.opts.Equal, Alike: m.opts.Alike}
	if life == 0 || h.To != life {
		answer.Refused = fmt.Sprintf("life %d is not that of node %s: it has ended", h.To, m.opts.Name)
		return nil, false, answer
	}
	if answer.Refused = cmp.Or(foreign, m.opts.refusal(h)); answer.Refused != "" {
		m.logRefused(h.Name, answer.Refused)
		return nil, false, answer
	}
	m.mu.Lock()
	s = m.sessions[h.From]
	m.mu.Unlock()
	switch {
	case s != nil && s.nonce == h.Session:
		s.detach(errNewer)
		answer.Received = s.arrived()
		return s, false, answer
	case !h.Begins:
		answer.Ended = true
		return nil, false, answer
	case s != nil:
		m.end(s, errNewer)
	}
	s = newSession(m, Member{ID: h.From, Name: h.Name, Address: h.Address}, h.Session, false)
	if !m.add(s, life) {
		answer.Refused = "this life of the node has ended"
		return nil, false, answer
	}
	return s, true, answer
}

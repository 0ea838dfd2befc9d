package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Bounds of the queue for one peer: a slow one holds only its own.
const (
	maxQueued   = 16 << 20 // bytes; above, calls and publications are refused
	maxKept     = 64 << 20 // bytes; above, the Session ends: not even reports fit
	largeAnswer = 1 << 20  // bytes; above, an answer that does not fit is refused
	maxCalls    = 4096     // that wait for their answers
	confirmStep = 64       // frames that may arrive before that is confirmed
	confirmSize = 1 << 20  // bytes of them, likewise: large frames fill the peer's queue before there are so many
	flushAt     = 64 << 10 // bytes gathered for one write
)

// writePatience is how long a peer may take to accept a frameStep before its stream is cut.
const writePatience = 5 * time.Second

var (
	// errFull says that a peer is too slow.
	errFull = fmt.Errorf("%w: too much waits for another node", delivery.ErrOverloaded)
	// errEnded says that a Session has ended: the other node may have lost its life.
	errEnded = fmt.Errorf("the relay to another node has ended: %w", delivery.ErrStopped)
)

// Session is the frames between this life of the node and one of another node. It
// outlives its streams.
type Session struct {
	m     *Mesh
	to    Member
	local Local
	// nonce names the Session: a node that has ended one begins another.
	nonce uint64
	count *callCounts
	dials bool // this node opens the streams
	// version is the other node's; 0: its hello has not come.
	version atomic.Int64

	mu          sync.Mutex
	kept        [][]byte // sent or to be sent, and not confirmed yet
	sent        int      // how many of kept this stream has been given
	base        uint64   // the number of the frame before kept[0]
	keptBytes   int
	received    uint64 // the number of the last frame that was handled
	confirmed   uint64 // what the other side has been told of that
	unconfirmed int    // bytes of the frames since
	doubted     uint64 // a frame that made no sense on the last stream
	stream      *stream
	lost        time.Time // when the last stream ended
	ended       bool
	calls       map[uint64]func(*answer)
	order       []uint64 // of calls, oldest first; answered ones are still in
	lastID      uint64
	ups         map[uint64]*Up       // of devices here, by presence
	presences   map[uint64]*presence // of devices there, likewise
	byDevice    map[string]*presence // the last of each device

	wake    chan struct{}
	waiting sync.WaitGroup  // for calls that read the store
	ctx     context.Context // ends with the Session
	cancel  context.CancelCauseFunc
}

func newSession(m *Mesh, to Member, nonce uint64, dials bool) *Session {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Session{
		m: m, to: to, local: m.opts.Local, nonce: nonce, count: m.countsOf(to.Name), dials: dials, lost: time.Now(), ctx: ctx, cancel: cancel,
		calls: map[uint64]func(*answer){}, ups: map[uint64]*Up{}, presences: map[uint64]*presence{}, byDevice: map[string]*presence{},
		wake: make(chan struct{}, 1),
	}
}

// idle reports whether no stream could be had for so long that the Session is to end.
func (s *Session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream == nil && time.Since(s.lost) >= s.m.opts.Patience
}

// Streaming reports whether a stream carries the Session now.
func (s *Session) Streaming() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream != nil
}

// arrived returns the number of the last frame that was handled.
func (s *Session) arrived() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received
}

// Peer returns the node at the other end.
func (s *Session) Peer() Member { return s.to }

// send queues a frame behind those before it.
func (s *Session) send(k kind, message any, limit int) error {
	return s.sendFrame(newFrame(k, encode(message)), limit)
}

func (s *Session) sendFrame(f []byte, limit int) error {
	s.mu.Lock()
	err := s.sendLocked(f, limit)
	s.mu.Unlock()
	if errors.Is(err, errOverflow) {
		s.m.endLater(s, err)
	}
	return err
}

var errOverflow = errors.New("more is kept for the peer than fits")

func (s *Session) sendLocked(f []byte, limit int) error {
	switch {
	case s.ended:
		return errEnded
	case s.keptBytes+len(f) > limit && limit == maxKept:
		return errOverflow
	case s.keptBytes+len(f) > limit:
		return errFull
	}
	seal(f, s.base+uint64(len(s.kept))+1)
	s.kept = append(s.kept, f)
	s.keptBytes += len(f)
	s.poke()
	return nil
}

// poke wakes the goroutine that writes.
func (s *Session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// call sends a call. done is called once, with nil if the Session ends first, from the
// goroutine that reads or that ends the Session; it must not wait.
func (s *Session) call(c *call, done func(*answer)) (err error) {
	s.count.calls.Add(1)
	defer func() {
		if err != nil {
			s.count.unanswered.Add(1)
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errEnded
	}
	if len(s.calls) >= maxCalls {
		return errFull
	}
	s.lastID++
	c.ID = s.lastID
	if err := s.sendLocked(newFrame(kindCall, encode(c)), maxQueued); err != nil {
		return err
	}
	s.calls[c.ID] = done
	s.order = append(s.order, c.ID)
	if len(s.order) > 2*len(s.calls)+16 {
		s.tidyLocked()
	}
	return nil
}

// tidyLocked drops answered calls from the order.
func (s *Session) tidyLocked() {
	open := s.order[:0]
	for _, id := range s.order {
		if s.calls[id] != nil {
			open = append(open, id)
		}
	}
	s.order = open
}

func (s *Session) onAnswer(a *answer) {
	s.mu.Lock()
	done := s.calls[a.ID]
	delete(s.calls, a.ID)
	s.mu.Unlock()
	if done != nil {
		done(a)
	}
}

// onConfirm drops what the other side has.
func (s *Session) onConfirm(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confirmLocked(number)
}

func (s *Session) confirmLocked(number uint64) {
	n := int(min(number-min(number, s.base), uint64(len(s.kept))))
	for i, f := range s.kept[:n] {
		s.keptBytes -= len(f)
		s.kept[i] = nil
	}
	s.kept = s.kept[n:]
	if len(s.kept) == 0 {
		s.kept = nil
	}
	s.base += uint64(n)
	s.sent = max(0, s.sent-n)
}

// stream is one connection that carries a Session.
type stream struct {
	conn net.Conn
	once sync.Once
	quit chan struct{}
	done sync.WaitGroup
	err  error // why it ended, of whoever noticed first
}

func (st *stream) cut(err error) {
	st.once.Do(func() {
		st.err = err
		close(st.quit)
		_ = st.conn.Close()
	})
}

// run carries the Session over a connection until that ends. received is how many frames
// the other side has had. It returns when nothing uses the connection any more.
func (s *Session) run(conn net.Conn, r *bufio.Reader, received uint64) error {
	st := &stream{conn: conn, quit: make(chan struct{})}
	st.done.Add(2)
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		_ = conn.Close()
		return errEnded
	}
	s.confirmLocked(received)
	s.sent = 0
	s.confirmed, s.unconfirmed = s.received, 0 // hello has told it
	s.stream = st
	s.mu.Unlock()
	s.poke()
	go func() {
		defer st.done.Done()
		st.cut(s.write(st))
	}()
	go func() {
		defer st.done.Done()
		st.cut(s.read(st, r))
	}()
	st.done.Wait()
	s.mu.Lock()
	if s.stream == st {
		s.stream, s.lost = nil, time.Now()
	}
	s.mu.Unlock()
	return st.err
}

// detach cuts the stream, if there is one, and waits until nothing uses it.
func (s *Session) detach(why error) {
	s.mu.Lock()
	st := s.stream
	s.mu.Unlock()
	if st != nil {
		st.cut(why)
		st.done.Wait()
	}
}

// steady writes to a connection with a deadline for each frameStep: a slow one is not cut while its
// bytes pass.
type steady struct{ net.Conn }

func (c steady) Write(b []byte) (written int, err error) {
	for step := range slices.Chunk(b, frameStep) {
		_ = c.SetWriteDeadline(time.Now().Add(writePatience)) // fails with the write
		n, err := c.Conn.Write(step)
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// write sends the kept frames, and confirms those that have arrived.
func (s *Session) write(st *stream) error {
	w := bufio.NewWriterSize(steady{st.conn}, flushAt)
	var beat <-chan time.Time
	if s.m.opts.Beat > 0 {
		tick := time.NewTicker(s.m.opts.Beat)
		defer tick.Stop()
		beat = tick.C
	}
	due := false
	for {
		s.mu.Lock()
		var batch [][]byte
		if s.stream == st {
			size := 0
			for _, f := range s.kept[s.sent:] {
				batch = append(batch, f)
				if size += len(f); size >= flushAt {
					break
				}
			}
			s.sent += len(batch)
		}
		received := s.received
		confirm := due || received > s.confirmed && len(batch) > 0 || s.toConfirmLocked()
		if confirm {
			s.confirmed, s.unconfirmed = received, 0
		}
		s.mu.Unlock()
		due = false
		for _, f := range batch {
			if _, err := w.Write(f); err != nil {
				return err
			}
		}
		if confirm {
			f := newFrame(kindConfirm, encode(received))
			seal(f, 0)
			if _, err := w.Write(f); err != nil {
				return err
			}
		}
		if len(batch) > 0 {
			continue
		}
		if err := w.Flush(); err != nil {
			return err
		}
		select {
		case <-s.wake:
		case <-beat:
			due = true
		case <-st.quit:
			return net.ErrClosed
		}
	}
}

// read handles frames as they come.
func (s *Session) read(st *stream, r *bufio.Reader) error {
	renew := func() {
		if s.m.opts.Beat > 0 {
			_ = st.conn.SetReadDeadline(time.Now().Add(missedBeats * s.m.opts.Beat)) // fails with the read
		}
	}
	for {
		f, err := readFrame(r, renew)
		if err != nil {
			return err
		}
		if f.kind == kindConfirm {
			var received uint64
			if err := decode(f.body, &received); err != nil {
				return err
			}
			s.onConfirm(received)
			continue
		}
		s.mu.Lock()
		expected := s.received + 1
		s.mu.Unlock()
		if f.number != expected {
			return fmt.Errorf("%w: number %d instead of %d", errDamaged, f.number, expected)
		}
		if err := s.handle(f); err != nil {
			// The stream begins again, with this frame. If it makes no more sense then it is
			// of a version that this node does not know.
			s.mu.Lock()
			again := s.doubted == f.number
			s.doubted = f.number
			s.mu.Unlock()
			if !again {
				return err
			}
			s.m.opts.Log.Error("frame of another node skipped: it makes no sense twice, is that a newer version?", "node", s.to.Name, "kind", int(f.kind), "error", err)
			s.refuse(f)
		}
		s.mu.Lock()
		s.received = f.number
		s.unconfirmed += headSize + len(f.body)
		if s.toConfirmLocked() {
			s.poke()
		}
		s.mu.Unlock()
	}
}

// toConfirmLocked reports whether so much has arrived that it is confirmed, although there is nothing
// to send.
func (s *Session) toConfirmLocked() bool {
	return s.received-s.confirmed >= confirmStep || s.unconfirmed >= confirmSize
}

// missedBeats is how many signs of life may be missing, or how many beats a frameStep may take, before
// a stream is cut.
const missedBeats = 4

// end ends the Session: calls fail, devices of the other node are offline. It is called
// once, by the Mesh, which waits for the calls that still read the store.
func (s *Session) end(why error) {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.cancel(why)
	s.detach(why)
	s.mu.Lock()
	order, calls := s.order, s.calls
	s.order, s.calls, s.ups, s.kept, s.keptBytes = nil, nil, nil, nil, 0
	presences := s.presences
	s.presences, s.byDevice = nil, nil
	s.mu.Unlock()
	for _, id := range order { // in their order: they are asked for again, elsewhere
		if done := calls[id]; done != nil {
			s.count.unanswered.Add(1)
			done(nil)
		}
	}
	for _, p := range presences {
		p.closed.Store(true)
		p.do(func(up delivery.Up) { up.Offline("connection to the device's node lost") })
	}
}

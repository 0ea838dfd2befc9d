package hooks_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

var withPrompt = flag.Bool("prompt", false, "run the tests with connections whose writes do not wait, and Hook.Prompt")

// TestSuiteWithPrompt runs all tests of this package again, over connections such as the
// program's own listeners have: what Prompt handles, mochi does not see, and flushers write.
func TestSuiteWithPrompt(t *testing.T) {
	if *withPrompt {
		t.Skip("this process is the second run, and must not start a third")
	}
	args := []string{"-prompt", "-test.timeout=5m"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	if out, err := exec.CommandContext(t.Context(), os.Args[0], args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// prompting is a listener whose connections have packets handled by Hook.Prompt.
type prompting struct {
	*listeners.TCP
	site *site
}

func (p prompting) Serve(establish listeners.EstablishFn) {
	p.TCP.Serve(func(id string, c net.Conn) error {
		return establish(id, &promptConn{Conn: c, site: p.site})
	})
}

// promptConn reads whole packets, and hands those to mochi that Prompt does not handle.
type promptConn struct {
	net.Conn
	site    *site
	client  *mqtt.Client
	connect bool // it has been read
	rest    []byte

	mu      sync.Mutex
	queue   []byte
	closed  bool
	writing chan struct{} // closed when the queue has been written; nil: nothing is being written
}

var prompted atomic.Int64 // packets

func (c *promptConn) Queued() int {
	if c.site.full.Load() == c.RemoteAddr().String() {
		return 1 << 20
	}
	return 0
}

func (c *promptConn) OnDrained(f func()) { c.site.drained.Store(c.RemoteAddr().String(), f) }

// Write does not wait for the peer.
func (c *promptConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.queue = append(c.queue, b...)
	if c.writing == nil {
		c.writing = make(chan struct{})
		go c.write(c.writing)
	}
	return len(b), nil
}

func (c *promptConn) write(done chan struct{}) {
	defer close(done)
	for {
		c.mu.Lock()
		b := c.queue
		c.queue = nil
		if len(b) == 0 {
			c.writing = nil
		}
		c.mu.Unlock()
		if len(b) == 0 {
			return
		}
		_, _ = c.Conn.Write(b) // an error is the reader's, too
	}
}

// SetWriteDeadline does nothing: no write waits.
func (*promptConn) SetWriteDeadline(time.Time) error { return nil }

// Close sends the queue, for a moment.
func (c *promptConn) Close() error {
	c.site.drained.Delete(c.RemoteAddr().String())
	_ = c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	c.mu.Lock()
	c.closed = true
	writing := c.writing
	c.mu.Unlock()
	if writing != nil {
		<-writing
	}
	return c.Conn.Close()
}

func (c *promptConn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		packet, err := c.packet()
		if err != nil {
			c.rest = packet
			if len(packet) == 0 {
				return 0, err
			}
			break
		}
		if !c.handled(packet) {
			c.rest = packet
		}
		c.connect = true
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *promptConn) packet() ([]byte, error) {
	b := make([]byte, 1, 5)
	if _, err := io.ReadFull(c.Conn, b); err != nil {
		return nil, err
	}
	for len(b) == 1 || b[len(b)-1] >= 0x80 {
		b = append(b, 0)
		if _, err := io.ReadFull(c.Conn, b[len(b)-1:]); err != nil {
			return b[:len(b)-1], err
		}
		if len(b) > 5 {
			return b, errors.New("no length")
		}
	}
	size, n := binary.Uvarint(b[1:])
	body := make([]byte, size)
	m, err := io.ReadFull(c.Conn, body)
	return append(b[:1+n], body[:m]...), err
}

func (c *promptConn) handled(packet []byte) bool {
	if !c.connect {
		return false
	}
	if c.client == nil {
		for _, cl := range c.site.server.Clients.GetAll() {
			if cl.Net.Remote == c.RemoteAddr().String() {
				c.client = cl
			}
		}
	}
	if c.client == nil {
		return false
	}
	prompt := c.site.hook.Prompt(c.client)
	if prompt == nil {
		return false
	}
	prompted.Add(1) // before the answer
	if !prompt(packet) {
		prompted.Add(-1)
		return false
	}
	return true
}

// TestAnswersBehind: a client gets the answers to packets that it sent while more than its
// connection takes was on its way to it.
func TestAnswersBehind(t *testing.T) {
	if !*withPrompt {
		t.Skip("about connections whose packets are handled at once: TestSuiteWithPrompt runs it")
	}
	s := newSite(t)
	watch := s.connect(5, rawmqtt.Connect{ID: "watch", Clean: true})
	_, err := watch.Subscribe(1, 0, "n")
	must(t, err)
	c := s.connect(5, rawmqtt.Connect{ID: "c", Clean: true})
	s.full.Store(c.Conn.LocalAddr().String())
	must(t, c.Ping())
	must(t, c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: []packets.Subscription{{Filter: "other"}}}))
	must(t, c.Publish(2, 1, "nobody", nil))
	must(t, c.Publish(0, 0, "n", nil))
	next(t, watch) // all are handled
	s.full.Store("")
	drained, _ := s.drained.Load(c.Conn.LocalAddr().String())
	drained.(func())()
	got := map[byte]bool{}
	for range 3 {
		got[next(t, c).FixedHeader.Type] = true
	}
	if !got[packets.Pingresp] || !got[packets.Suback] || !got[packets.Puback] {
		t.Errorf("got %v", got)
	}
}

// TestPrompt: which packets are handled at once, and which are left to mochi.
func TestPrompt(t *testing.T) {
	if !*withPrompt {
		t.Skip("about connections whose packets are handled at once: TestSuiteWithPrompt runs it")
	}
	s := newSite(t)
	backend := s.connect(5, rawmqtt.Connect{ID: "backend"})
	phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	for _, c := range []struct {
		what   string
		do     func() error
		answer byte // packet type
		prompt bool
	}{
		{"a notification", func() error { return backend.Publish(1, 1, toAnna, []byte(`{"title":"t"}`)) }, packets.Puback, true},
		{"a notification that is refused", func() error { return backend.Publish(2, 1, toAnna, []byte(`{`)) }, packets.Puback, false},
		{"a notification at QoS 2", func() error { return backend.Publish(3, 2, toAnna, []byte(`{"title":"t"}`)) }, packets.Pubrec, false},
		{"PUBREL", func() error {
			return backend.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 3})
		}, packets.Pubcomp, false},
		{"an ordinary message", func() error { return backend.Publish(4, 1, "ordinary", []byte("x")) }, packets.Puback, false},
		{"PINGREQ", backend.Ping, packets.Pingresp, true},
	} {
		before := prompted.Load()
		must(t, c.do())
		if pk := next(t, backend); pk.FixedHeader.Type != c.answer {
			t.Fatalf("%s: answer %+v", c.what, pk)
		}
		if got := prompted.Load() > before; got != c.prompt {
			t.Errorf("%s: handled at once: %v, want %v", c.what, got, c.prompt)
		}
	}
	before := prompted.Load()
	for range 2 {
		must(t, phone.Puback(next(t, phone).PacketID))
	}
	must(t, phone.Ping())
	if pk := next(t, phone); pk.FixedHeader.Type != packets.Pingresp {
		t.Fatalf("got %+v, want PINGRESP", pk)
	}
	if got := prompted.Load() - before; got != 3 {
		t.Errorf("%d of two PUBACKs and a PINGREQ were handled at once", got)
	}
}

// TestFlusherDoesNotWait: a notification that has to be read from the store holds up its
// own connection alone, and those of the connection stay in order.
func TestFlusherDoesNotWait(t *testing.T) {
	s := newSite(t)
	phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	others := make([]*rawmqtt.Client, 2*runtime.GOMAXPROCS(0)) // at every flusher
	for i := range others {
		others[i] = s.device(5, rawmqtt.Connect{ID: fmt.Sprint("other", i), Username: "bert"})
	}
	c := &cold{"anna", make(chan struct{}, 3), make(chan struct{})}
	s.store.cold.Store(c)
	goOn := sync.OnceFunc(func() { close(c.goOn) })
	t.Cleanup(goOn)
	var ids []string
	for range 3 {
		ids = append(ids, s.notify(delivery.Request{Account: "anna"}).ID)
	}
	<-c.reading
	n := s.notify(delivery.Request{Account: "bert"})
	for _, other := range others {
		if got := pseudo(t, next(t, other)).ID; got != n.ID {
			t.Errorf("got %s, want %s", got, n.ID)
		}
	}
	goOn()
	for _, id := range ids {
		if got := pseudo(t, next(t, phone)).ID; got != id {
			t.Errorf("got %s, want %s", got, id)
		}
	}
}

package listener

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

func onlySessions(t *testing.T) {
	t.Helper()
	if !*withSessions {
		t.Skip("about connections without a goroutine: TestSuiteWithSessions runs it")
	}
}

// order lists packets as they are handled.
type order struct {
	mu  sync.Mutex
	all []string
}

func (o *order) add(s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, s)
}

func (o *order) is(want ...string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Equal(o.all, want)
}

// TestPacketsStayInOrder: a packet that has to wait goes to a worker, and everything that
// its client has sent behind it waits, too. The others are served meanwhile.
func TestPacketsStayInOrder(t *testing.T) {
	onlySessions(t)
	var handled order
	var last atomic.Pointer[string] // the goroutine that has handled the last PINGREQ of the other client
	reading, goOn := make(chan struct{}), make(chan struct{})
	h := &hook{
		prompt: func(cl *mqtt.Client, b []byte) bool {
			switch {
			case b[0] != 0xC0:
			case cl.ID == "x":
				handled.add("ping")
			default:
				s := string(debug.Stack())
				last.Store(&s)
			}
			return pong(cl, b)
		},
		onRead: func(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
			switch pk.FixedHeader.Type {
			case packets.Publish:
				handled.add("publish " + pk.TopicName)
				if pk.TopicName == "wait" {
					close(reading)
					<-goOn
				}
			case packets.Pingreq:
				handled.add("ping of mochi")
			}
			return pk, nil
		},
	}
	_, l := ours(t, h, Options{})
	c, other := dial(t, l.Address(), false), dial(t, l.Address(), false)
	c.connect("x")
	other.connect("y")
	c.ping()
	publish := func(topicName string) []byte { return packet(0x30, append(text(topicName), "payload"...)...) }
	ping := []byte{0xC0, 0}
	c.send(slices.Concat(ping, publish("wait"), ping, publish("next"), ping[:1])...)
	<-reading
	c.send(slices.Concat(ping[1:], ping)...)
	for range 10 {
		other.ping()
	}
	if !handled.is("ping", "ping", "publish wait") {
		t.Errorf("handled while a packet waits: %q", handled.all)
	}
	close(goOn)
	for range 4 {
		if p, err := c.packet(patience); err != nil || p[0] != 0xD0 {
			t.Fatalf("PINGRESP %x, %v", p, err)
		}
	}
	if !handled.is("ping", "ping", "publish wait", "ping", "publish next", "ping", "ping") {
		t.Errorf("handled in the end: %q", handled.all)
	}
	onPoller := func() bool {
		other.ping()
		return strings.Contains(*last.Load(), "(*poller).loop(")
	}
	eventually(t, "the poller's goroutine handles packets", onPoller)
	other.send(publish("ordinary")...)
	eventually(t, "and again after one for a worker", onPoller)
}

// TestPromptPieces: packets come in any pieces, and may be larger than a read.
func TestPromptPieces(t *testing.T) {
	onlySessions(t)
	payload := bytes.Repeat([]byte("0123456789abcdef"), 5*readBuffer/16)
	var mu sync.Mutex
	var got []string
	h := &hook{prompt: func(cl *mqtt.Client, b []byte) bool {
		if b[0]>>4 == packets.Publish {
			mu.Lock()
			defer mu.Unlock()
			_, at := binary.Uvarint(b[1:])
			at += 1 + len(text("t"))
			got = append(got, fmt.Sprint(len(b), bytes.Equal(b[at:], payload[:len(b)-at])))
			return true
		}
		return pong(cl, b)
	}}
	s, l := ours(t, h, Options{})
	c := dial(t, l.Address(), false)
	c.connect("x")
	small, large := packet(0x30, append(text("t"), payload[:64]...)...), packet(0x30, append(text("t"), payload...)...)
	before := s.Info.Clone()
	for i := range small {
		c.send(small[i])
	}
	c.send(slices.Concat(small, large, small, large)...)
	c.ping()
	mu.Lock()
	defer mu.Unlock()
	of := func(b []byte) string { return fmt.Sprint(len(b), true) }
	if want := []string{of(small), of(small), of(large), of(small), of(large)}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	eventually(t, "packets are counted", func() bool { // after the last has been handled
		after := s.Info.Clone()
		return after.MessagesReceived == before.MessagesReceived+5 &&
			after.BytesReceived == before.BytesReceived+int64(3*len(small)+2*len(large)+2)
	})
}

// TestPanicOfThePoller: a panic under one connection ends that connection, also where it
// is handled by the goroutine that serves all.
func TestPanicOfThePoller(t *testing.T) {
	onlySessions(t)
	ended := make(chan string, 4)
	h := &hook{
		prompt: func(cl *mqtt.Client, b []byte) bool {
			if cl.ID == "x" && b[0] == 0xC0 {
				panic("prompt")
			}
			return pong(cl, b)
		},
	}
	log := &logs{}
	_, l := ours(t, h, Options{Logger: log.logger(), OnPanic: func(c *Conn) { ended <- c.RemoteAddr().String() }})
	other := dial(t, l.Address(), false)
	other.connect("y")
	c := dial(t, l.Address(), false)
	c.connect("x")
	c.send(0xC0, 0)
	if !c.gone(patience) {
		t.Fatal("still open")
	}
	if got := <-ended; got != c.LocalAddr().String() {
		t.Error("OnPanic was given another connection")
	}
	other.ping()
	eventually(t, "counted", func() bool { return l.Stats().Panics["PINGREQ"] == 1 })
	if n := log.lines(); n != 1 {
		t.Errorf("%d log records, want 1", n)
	}
}

// TestPacketOverTurns: a packet that is read in one turn and handled in the next does not
// leave the next one in the socket, although other connections are read between the turns,
// also where several loops share them.
func TestPacketOverTurns(t *testing.T) {
	onlySessions(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // two loops
	h := &hook{prompt: func(cl *mqtt.Client, b []byte) bool { return b[0] != 0xC0 || pong(cl, b) }}
	_, l := ours(t, h, Options{})
	var others sync.WaitGroup
	defer others.Wait()
	var over atomic.Bool
	defer over.Store(true)
	for i := range 4 {
		other := dial(t, l.Address(), false)
		other.connect(fmt.Sprint("other", i))
		others.Go(func() {
			for !over.Load() {
				other.ping()
			}
		})
	}
	c := dial(t, l.Address(), false)
	c.connect("x")
	filter := append(text(strings.Repeat("f", 1000)), 0)
	subscribe := packet(0x82, append([]byte{0, 1}, bytes.Repeat(filter, 6*readBuffer/len(filter))...)...)
	all := slices.Concat(subscribe, subscribe, []byte{0xC0, 0})
	for range 300 {
		c.send(all...)
		if p, err := c.packet(patience); err != nil || p[0] != 0xD0 {
			t.Fatalf("PINGRESP %x, %v", p, err)
		}
	}
}

package listener

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Each test here shows what a client can do to mochi behind its own listener, and
// that it cannot behind ours.

// A subscriber that stops reading stops everyone who publishes to it: mochi writes
// under the lock that a publisher takes.
func TestReaderThatStops(t *testing.T) {
	payload := make([]byte, 64<<10)
	flood := func(s *mqtt.Server, n int) {
		for range n {
			_ = s.Publish("n/1", payload, false, 1)
		}
	}
	deaf := func(t *testing.T, addr string) *client {
		c := dial(t, addr, false)
		c.connect("deaf")
		c.subscribe("n/#", 1)
		return c
	}

	t.Run("mochi", func(t *testing.T) {
		skipRace(t)
		s, addr := plain(t, nil)
		c := deaf(t, addr)
		ended := make(chan struct{})
		go func() { defer close(ended); flood(s, 400) }()
		select {
		case <-ended:
			t.Error("mochi does not wait for the reader: our sender can go")
		case <-time.After(2 * time.Second):
		}
		// Nor can the device come back.
		again := dial(t, addr, false)
		again.send(connectPacket("deaf", false)...)
		if p, err := again.packet(moment); err == nil {
			t.Errorf("mochi answers %x", p)
		}
		_ = c.Close()
		<-ended
	})
	t.Run("ours", func(t *testing.T) {
		s, l := ours(t, nil, Options{})
		c := deaf(t, l.Address())
		if !done(patience, func() { flood(s, 400) }) {
			t.Fatal("publishers wait for a client that does not read")
		}
		eventually(t, "it is cut", func() bool { return l.Stats().SlowConsumers == 1 })
		_ = c.Close()
	})
	t.Run("ours, take-over", func(t *testing.T) {
		// Fewer bytes than make it slow: the write is stuck when the device returns.
		s, l := ours(t, nil, Options{WriteQueue: 64 << 20})
		deaf(t, l.Address())
		flood(s, 150)
		again := dial(t, l.Address(), false)
		again.connect("deaf")
	})
}

// A socket that says nothing is kept for ever, and Close waits for it.
func TestSilentSocket(t *testing.T) {
	t.Run("mochi", func(t *testing.T) {
		skipRace(t)
		l := listeners.NewTCP(listeners.Config{ID: "plain", Address: "127.0.0.1:0"})
		s := newServer(t, nil, l)
		c := dial(t, l.Address(), false)
		eventually(t, "a client of mochi", func() bool { return runtime.NumGoroutine() > 0 })
		if c.gone(moment) {
			t.Error("mochi closes it")
		}
		closed := make(chan struct{})
		go func() { defer close(closed); _ = s.Close() }()
		select {
		case <-closed:
			t.Error("mochi's Close does not wait")
		case <-time.After(moment):
		}
		_ = c.Close()
		<-closed
	})
	t.Run("ours, deadline", func(t *testing.T) {
		_, l := ours(t, nil, Options{ConnectTimeout: 50 * time.Millisecond})
		if !dial(t, l.Address(), false).gone(patience) {
			t.Error("still open")
		}
		eventually(t, "counted", func() bool { return l.Stats().ConnectTimeouts == 1 && l.Stats().Pending == 0 })
	})
	t.Run("ours, one byte after another", func(t *testing.T) {
		_, l := ours(t, nil, Options{ConnectTimeout: 200 * time.Millisecond})
		c := dial(t, l.Address(), false)
		b := connectPacket(strings.Repeat("x", 1000), false)
		end := time.Now().Add(patience)
		for i := 0; ; i++ {
			if i == len(b) || time.Now().After(end) {
				t.Fatal("each byte gives it more time")
			}
			if _, err := c.Write(b[i : i+1]); err != nil {
				break // closed
			}
			time.Sleep(20 * time.Millisecond) // the attack itself
		}
		eventually(t, "counted", func() bool { return l.Stats().ConnectTimeouts == 1 })
	})
	t.Run("ours, close", func(t *testing.T) {
		_, l := ours(t, nil, Options{})
		var silent []*client
		for range 20 {
			silent = append(silent, dial(t, l.Address(), false))
		}
		half := dial(t, l.Address(), false)
		half.send(connectPacket("half", false)[:9]...)
		served := dial(t, l.Address(), true)
		served.connect("served")
		eventually(t, "all accepted", func() bool { return l.Stats().Pending == 21 })
		if !done(patience, func() { l.Close(nil) }) {
			t.Fatal("Close waits")
		}
		for _, c := range append(silent, half) {
			if !c.gone(patience) {
				t.Fatal("still open after Close")
			}
		}
	})
}

// Five bytes make mochi allocate 256 MiB.
func TestLengthOf256MiB(t *testing.T) {
	header := []byte{0x10, 0xff, 0xff, 0xff, 0x7f}
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	t.Run("mochi", func(t *testing.T) {
		skipRace(t)
		_, addr := plain(t, nil)
		before := allocated()
		c := dial(t, addr, false)
		c.send(header...)
		eventually(t, "256 MiB allocated", func() bool { return allocated()-before > 200<<20 })
		_ = c.Close()
	})
	t.Run("ours", func(t *testing.T) {
		_, l := ours(t, nil, Options{})
		before := allocated()
		c := dial(t, l.Address(), false)
		c.send(header...)
		if !c.gone(patience) {
			t.Error("still open")
		}
		if n := allocated() - before; n > 10<<20 {
			t.Errorf("%d MiB allocated", n>>20)
		}
		eventually(t, "counted", func() bool { return l.Stats().Malformed[Malformed{"CONNECT", "packet_too_large"}] == 1 })
	})
}

// subscribeCut is a SUBSCRIBE of MQTT 5 that ends after its filter.
var subscribeCut = packet(0x82, append([]byte{0, 1, 0}, text("a/b")...)...)

func TestPacketThatPanics(t *testing.T) {
	t.Run("mochi", func(t *testing.T) {
		skipRace(t)
		out, err := runChild("panic").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "SubscribeDecode") {
			t.Errorf("mochi survives it: %v\n%s", err, out)
		}
	})
	t.Run("ours", func(t *testing.T) {
		_, l := ours(t, nil, Options{})
		c := dial(t, l.Address(), true)
		c.connect("x")
		c.send(subscribeCut...)
		p, err := c.packet(patience)
		if err != nil || p[0] != 0xE0 || p[2] != 0x81 || !c.gone(patience) {
			t.Errorf("answer %x, %v; want DISCONNECT with 0x81, and the end", p, err)
		}
		dial(t, l.Address(), true).connect("y")
	})
}

// A panic in a hook, or in mochi, ends the connection it happened under.
func TestPanicIsContained(t *testing.T) {
	h := &hook{onRead: func(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
		if pk.FixedHeader.Type == packets.Pingreq {
			panic("hook")
		}
		return pk, nil
	}}
	log := &logs{}
	told := make(chan *Conn, 2)
	l := New(Options{Address: "127.0.0.1:0", OnPanic: func(c *Conn) { told <- c }})
	s := mqtt.New(&mqtt.Options{Logger: log.logger()})
	_ = s.AddHook(h, nil)
	if err := s.AddListener(l); err != nil {
		t.Fatal(err)
	}
	_ = s.Serve()
	defer s.Close()
	// Prometheus sees an increase only in a series that was there before.
	if n, ok := l.Stats().Panics["PINGREQ"]; n != 0 || !ok {
		t.Errorf("before the first one: %d (counted: %v)", n, ok)
	}
	for i := range 2 {
		c := dial(t, l.Address(), false)
		c.connect(fmt.Sprint(i))
		c.send(0xC0, 0)
		if !c.gone(patience) {
			t.Fatal("still open")
		}
		if got := <-told; got.RemoteAddr().String() != c.LocalAddr().String() {
			t.Error("OnPanic was given another connection")
		}
	}
	eventually(t, "both counted", func() bool { return l.Stats().Panics["PINGREQ"] == 2 })
	if n := log.lines(); n != 1 {
		t.Errorf("%d log records, want one a packet type", n)
	}
}

// One failure of accept makes mochi's listener deaf.
func TestTooManyOpenFiles(t *testing.T) {
	for role, want := range map[string]string{"emfile mochi": "deaf", "emfile ours": "hears"} {
		t.Run(role, func(t *testing.T) {
			out, err := runChild(role).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "RESULT "+want) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func runChild(role string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LISTENER_TEST_CHILD="+role)
	return cmd
}

// child is what this binary does in a process of its own.
func child(role string) {
	t := &childT{}
	switch role {
	case "panic":
		_, addr := plain(t, nil)
		c := dial(t, addr, true)
		c.connect("x")
		c.send(subscribeCut...)
		c.gone(patience)
		time.Sleep(patience) // the process ends before, a moment after its connection
	case "deadlock":
		clients := mqtt.NewClients()
		for range 4 {
			go func() {
				for {
					clients.Delete("x")
				}
			}()
		}
		var n atomic.Int64
		go func() {
			for {
				clients.GetByListener("x")
				n.Add(1)
			}
		}()
		for before := int64(-1); ; {
			time.Sleep(200 * time.Millisecond)
			if before == n.Load() {
				fmt.Println("RESULT deadlock")
				return
			}
			before = n.Load()
		}
	case "emfile mochi":
		_, addr := plain(t, nil)
		emfile(t, addr, func() bool { // its loop has ended
			b := make([]byte, 1<<20)
			return !strings.Contains(string(b[:runtime.Stack(b, true)]), "listeners.(*TCP).Serve(")
		})
	case "emfile ours":
		_, l := ours(t, nil, Options{})
		emfile(t, l.Address(), func() bool { return l.Stats().AcceptErrors > 0 })
	case "dial":
		// Opens sockets until its input ends: address, number, first bytes.
		in := bufio.NewScanner(os.Stdin)
		in.Scan()
		var addr, first string
		var n int
		fmt.Sscan(in.Text(), &addr, &n, &first)
		var keep []net.Conn
		for range n {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				fmt.Println("ERROR", err)
				return
			}
			switch first {
			case "half":
				_, _ = c.Write(connectPacket("someone", false)[:9])
			case "upgrade":
				fmt.Fprintf(c, "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
					"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
			}
			keep = append(keep, c)
		}
		fmt.Println("OPEN")
		in.Scan()
		_ = keep
	}
}

type childT struct{ testing.TB }

func (*childT) Helper()        {}
func (*childT) Cleanup(func()) {}
func (*childT) Fatal(a ...any) { fmt.Println(append([]any{"RESULT failed"}, a...)...); os.Exit(1) }
func (*childT) Fatalf(f string, a ...any) {
	fmt.Printf("RESULT failed "+f+"\n", a...)
	os.Exit(1)
}

// emfile takes all file descriptors, gives them back once accept has failed, and
// sees who still hears.
func emfile(t testing.TB, addr string, failed func() bool) {
	var hold []net.Conn
	server, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	last, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64})
	for {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		hold = append(hold, c)
	}
	// The last is accepted by the system, and there is no descriptor for it here.
	if err := syscall.Connect(last, &syscall.SockaddrInet4{Port: server.Port, Addr: [4]byte(server.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "accept fails", failed)
	_ = syscall.Close(last)
	for _, c := range hold {
		_ = c.Close()
	}
	for range 5 {
		c, err := net.DialTimeout("tcp", addr, 400*time.Millisecond)
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		_, _ = c.Write(connectPacket("a", false))
		_ = c.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err == nil {
			fmt.Println("RESULT hears")
			return
		}
		_ = c.Close()
	}
	fmt.Println("RESULT deaf")
}

// flaky is a listening socket that fails before it gives anything.
type flaky struct {
	net.Listener
	fail int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.fail > 0 {
		f.fail--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func TestAcceptGoesOn(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &logs{}
	l := New(Options{Socket: &flaky{socket, 4}})
	s := mqtt.New(&mqtt.Options{Logger: log.logger()})
	_ = s.AddHook(&hook{}, nil)
	if err := s.AddListener(l); err != nil {
		t.Fatal(err)
	}
	_ = s.Serve()
	defer s.Close()
	dial(t, l.Address(), false).connect("a")
	if n := l.Stats().AcceptErrors; n != 4 {
		t.Errorf("%d counted, want 4", n)
	}
	if n := log.lines(); n != 1 {
		t.Errorf("%d log records, want one an episode", n)
	}
}

// mochi sends a DISCONNECT at a take-over to clients that have no such packet
// from a server.
func TestDisconnectByVersion(t *testing.T) {
	takeOver := func(t *testing.T, addr string, v5 bool) *client {
		c := dial(t, addr, v5)
		c.connect("id")
		c.ping()
		dial(t, addr, v5).connect("id")
		return c
	}
	t.Run("mochi 3.1.1", func(t *testing.T) {
		skipRace(t)
		_, addr := plain(t, nil)
		if p, err := takeOver(t, addr, false).packet(patience); err != nil || p[0] != 0xE0 {
			t.Errorf("mochi sends none: %x, %v", p, err)
		}
	})
	t.Run("3.1.1", func(t *testing.T) {
		_, l := ours(t, nil, Options{})
		if c := takeOver(t, l.Address(), false); !c.gone(patience) {
			t.Error("not closed without a word")
		}
	})
	t.Run("5.0", func(t *testing.T) {
		_, l := ours(t, nil, Options{})
		c := takeOver(t, l.Address(), true)
		if p, err := c.packet(patience); err != nil || p[0] != 0xE0 || p[2] != 0x8E || !c.gone(patience) {
			t.Errorf("%x, %v; want DISCONNECT with 0x8E, and the end", p, err)
		}
	})
	t.Run("5.0, at the end of the server", func(t *testing.T) {
		l := New(Options{Address: "127.0.0.1:0"})
		s := newServer(t, nil, l)
		c := dial(t, l.Address(), true)
		c.connect("id")
		go s.Close()
		if p, err := c.packet(patience); err != nil || p[0] != 0xE0 || p[2] != 0x8B {
			t.Errorf("%x, %v; want DISCONNECT with 0x8B", p, err)
		}
	})
}

// mochi's Close locks the server up when a client comes or goes at the time.
func TestCloseWhileClientsComeAndGo(t *testing.T) {
	t.Run("mochi", func(t *testing.T) {
		skipRace(t)
		out, err := runChild("deadlock").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "RESULT deadlock") {
			t.Errorf("mochi's locks hold: its function can be called in Close: %v\n%s", err, out)
		}
	})
	t.Run("ours", func(t *testing.T) {
		for range 5 {
			l := New(Options{Address: "127.0.0.1:0"})
			s := newServer(t, nil, l)
			stop := make(chan struct{})
			var come sync.WaitGroup
			for i := range 4 {
				come.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						c, err := net.Dial("tcp", l.Address())
						if err != nil {
							continue
						}
						_, _ = c.Write(connectPacket(fmt.Sprint(i), i%2 == 0))
						_, _ = c.Read(make([]byte, 4))
						_ = c.Close()
					}
				})
			}
			eventually(t, "clients come and go", func() bool { return l.Stats().Established > 20 })
			ended := done(patience, func() { _ = s.Close() })
			close(stop)
			come.Wait()
			if !ended {
				t.Fatal("Close waits")
			}
		}
	})
}

// Idle sockets before their CONNECT, from another process.
func TestMemoryBeforeConnect(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 8,000 sockets: not with -short")
	}
	n := 8000
	if raceEnabled {
		n = 500
	}
	for _, first := range []string{"none", "half", "upgrade"} {
		t.Run(first, func(t *testing.T) {
			o := Options{ConnectTimeout: time.Minute, Gate: NewGate(Limits{Pending: n})}
			_, l := ours(t, nil, o)
			addr, stats := l.Address(), l.Stats
			if first == "upgrade" {
				_, w, url := mounted(t, o)
				addr, stats = strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/mqtt"), w.Stats
			}
			before := inUse()
			cmd := runChild("dial")
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(in, addr, n, first)
			line, _ := bufio.NewReader(out).ReadString('\n')
			if line != "OPEN\n" {
				t.Fatal(line)
			}
			eventually(t, "all accepted", func() bool { return stats().Pending == n })
			each := (inUse() - before) / uint64(n)
			t.Logf("%d sockets before CONNECT, first bytes %s: %d bytes each, heap and stacks", n, first, each)
			if each > 10<<10 && !raceEnabled {
				t.Errorf("%d bytes each, want at most 10 KiB", each)
			}
			// Nobody else is kept waiting.
			dial(t, l.Address(), false).connect("someone-else")
			_ = in.Close()
			_ = cmd.Wait()
			eventually(t, "all forgotten", func() bool { return stats().Pending == 0 })
		})
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

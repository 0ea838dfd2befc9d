package listener

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"
)

// takeAll takes every free turn and returns how many there were.
func (t *turnstile) takeAll() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, t.free = t.free, 0
	return n
}

func (t *turnstile) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.goesOn) + len(t.begins)
}

func TestTurnstile(t *testing.T) {
	turns := &turnstile{free: 1}
	turns.enter(&turns.begins)
	entered := make(chan string, 3)
	for i, who := range []struct {
		name  string
		queue *[]chan struct{}
	}{{"first", &turns.begins}, {"second", &turns.begins}, {"one that goes on", &turns.goesOn}} {
		go func() {
			turns.enter(who.queue)
			entered <- who.name
		}()
		eventually(t, who.name+" waits", func() bool { return turns.waiting() == i+1 })
	}
	for _, want := range []string{"one that goes on", "first", "second"} {
		turns.leave()
		if got := <-entered; got != want {
			t.Errorf("%s entered, want %s", got, want)
		}
	}
	turns.leave()
	if n := turns.takeAll(); n != 1 {
		t.Errorf("%d turns are free at the end, want 1", n)
	}
}

func TestHandshakes(t *testing.T) {
	server, roots := certificate(t, "server")
	options := func() Options { return Options{TLS: &tls.Config{Certificates: []tls.Certificate{server}}} }
	client := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}

	t.Run("one that waits for its client holds up no other", func(t *testing.T) {
		o := options()
		o.HandshakeTimeout, o.ConnectTimeout = time.Minute, time.Minute
		s, l := ours(t, nil, o)
		for range newTurnstile().free + 1 {
			silent, err := net.Dial("tcp", l.Address())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = silent.Close() })
			if err := tls.Client(hello{silent}, client).Handshake(); !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
			if _, err := silent.Read(make([]byte, 1)); err != nil { // of the server's answer
				t.Fatal(err)
			}
		}
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", l.Address(), client)
		if err != nil {
			t.Fatal(err)
		}
		newClient(t, conn, true).connect("id")
		connOf(t, s, "id")
	})
	t.Run("the time in the queue is not the client's", func(t *testing.T) {
		o := options()
		o.HandshakeTimeout, o.ConnectTimeout = 3*time.Second, 3*time.Second
		_, l := ours(t, nil, o)
		n := l.turnstile.takeAll()
		dialled := make(chan error, 1)
		go func() {
			conn, err := tls.Dial("tcp", l.Address(), client)
			defer func() { dialled <- err }()
			if err == nil {
				newClient(t, conn, true).connect("id")
			}
		}()
		eventually(t, "the handshake waits", func() bool { return l.turnstile.waiting() == 1 })
		<-time.After(2 * o.HandshakeTimeout) // its time would be over
		for range n {
			l.turnstile.leave()
		}
		if err := <-dialled; err != nil {
			t.Error(err)
		}
	})
}

// hello is a connection that ends the handshake at its first read.
type hello struct{ net.Conn }

func (hello) Read([]byte) (int, error) { return 0, net.ErrClosed }

package broker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

func TestHTTPConnLimit(t *testing.T) {
	for _, c := range []struct{ mqtt, files, want int }{
		{100_000, 0, 0},
		{100_000, 256, 32},
		{0, 256, 32},
		{100, 256, 124},
		{100_000, 20_000, 512},
		{100_000, 1 << 20, 1<<20 - 100_000 - 512},
		{0, 1 << 20, 512},
		{1, 16, 1},
	} {
		if got := httpConnLimit(c.mqtt, c.files); got != c.want {
			t.Errorf("%d MQTT connections, %d files: %d connections, want %d", c.mqtt, c.files, got, c.want)
		}
	}
}

// TestHTTPConns sets a limit of two. The connection that has been idle for longest is
// evicted, before its first request or after its last; one that serves a request is not.
func TestHTTPConns(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := newHTTPConns(0, 0)
	conns.limit = 2
	finish := map[string]chan struct{}{"/1": make(chan struct{}), "/2": make(chan struct{})}
	mux := http.NewServeMux()
	for path, end := range finish {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush() // under way, for all to see
			<-end
		})
	}
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		t.Cleanup(func() { _ = c.Close() })
	})
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	idled := make(chan struct{}, 16)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, ConnState: func(c net.Conn, s http.ConnState) {
		if conns.onState(c, s); s == http.StateIdle {
			idled <- struct{}{}
		}
	}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(socket) }()
	defer func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		for open := 1; open > 0; open, _ = conns.figures() {
			time.Sleep(time.Millisecond) // the server tells of their end in its own time
		}
	}()
	dial := func() *caller { return dialCaller(t, socket.Addr().String()) }

	silent, idle := dial(), dial()
	idle.call("/", http.StatusOK)
	<-idled
	first := dial()
	silent.ended()
	first.call("/1", http.StatusOK)
	second := dial()
	idle.ended()
	second.call("/2", http.StatusOK)
	dial().ended() // both are in the middle of a call
	close(finish["/1"])
	<-idled
	close(finish["/2"])
	<-idled
	first.rest()
	second.rest()

	hijacked := dial()
	first.ended()
	hijacked.call("/hijack", http.StatusSwitchingProtocols)
	third := dial() // second and this one: a WebSocket is not counted here
	third.call("/", http.StatusOK)
	second.call("/", http.StatusOK)
	<-idled
	<-idled
	if _, ended := conns.figures(); ended != 4 {
		t.Errorf("%d were ended", ended)
	}
}

// caller is one HTTP connection.
type caller struct {
	*testing.T
	conn net.Conn
	r    *bufio.Reader
	resp *http.Response
}

func dialCaller(t *testing.T, address string) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &caller{T: t, conn: conn, r: bufio.NewReader(conn)}
}

// call returns when the head of the answer has come.
func (c *caller) call(path string, want int) {
	c.Helper()
	_, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
	if err == nil {
		c.resp, err = http.ReadResponse(c.r, nil)
	}
	if err != nil || c.resp.StatusCode != want {
		c.Fatalf("%s: %v %v", path, c.resp, err)
	}
}

// rest reads the rest of the answer.
func (c *caller) rest() {
	c.Helper()
	if _, err := io.Copy(io.Discard, c.resp.Body); err != nil {
		c.Fatal(err)
	}
}

// ended waits until the server has closed the connection.
func (c *caller) ended() {
	c.Helper()
	if _, err := c.r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.Fatalf("the connection is still there: %v", err)
	}
}

// TestSilentConnectionDoesNotDelayTheStop: http.Server.Shutdown alone would wait 5 s for
// a connection that has sent nothing.
func TestSilentConnectionDoesNotDelayTheStop(t *testing.T) {
	conns := newHTTPConns(0, 0)
	fresh, late := make(chan struct{}), make(chan struct{})
	first := true
	srv := &http.Server{ReadHeaderTimeout: time.Minute, ConnState: func(c net.Conn, s http.ConnState) {
		conns.onState(c, s)
		if s == http.StateNew && first {
			first = false
			close(fresh)
		}
	}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(ln); close(late) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	<-fresh
	conns.closeIdle()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("the stop waited for a silent connection: %v", err)
	}
	<-late
}

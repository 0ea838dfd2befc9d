package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// obedient is the channel of a device that acknowledges all that it gets.
type obedient struct{}

func (obedient) Closed() bool { return false }

func (obedient) Publish(p delivery.Publication) error {
	go p.Acked() // the core is not to be called from under its mutex
	return nil
}

func (s *service) online(account, device string) {
	s.Helper()
	p, err := s.core.Online(delivery.OnlineInfo{
		Device: device, Account: account, Channel: obedient{}, App: delivery.AppForeground, Keepalive: 90 * time.Second, Remote: "10.0.0.1:99",
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { p.Offline("test over") })
}

// streamed is one open stream of events.
type streamed struct {
	*testing.T
	lines *bufio.Reader
}

func (s *service) stream(query string) *streamed {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", s.server.URL+"/v1/events"+query, nil)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := s.server.Client().Do(r)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = resp.Body.Close() })
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || ct != "text/event-stream" {
		s.Fatal(resp.Status, ct)
	}
	e := &streamed{s.T, bufio.NewReader(resp.Body)}
	if first := e.next(); first != ": connected\nretry: 2000\n" {
		s.Fatalf("the stream begins with %q", first)
	}
	return e
}

// next reads up to the next empty line; "" is the end.
func (e *streamed) next() string {
	e.Helper()
	var b strings.Builder
	for {
		line, err := e.lines.ReadString('\n')
		if err == io.EOF && line == "" && b.Len() == 0 {
			return ""
		}
		if err != nil {
			e.Fatalf("%v after %q", err, b.String()+line)
		}
		if line == "\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

// event reads the next event and checks its form.
func (e *streamed) event() (id delivery.Position, v wire.StreamEvent) {
	e.Helper()
	text := e.next()
	lines := strings.Split(text, "\n")
	if len(lines) != 4 {
		e.Fatalf("not an event: %q", text)
	}
	name := strings.TrimPrefix(lines[1], "event: ")
	at, err := delivery.ParseEventID(strings.TrimPrefix(lines[0], "id: "))
	if err != nil || len(at) != 1 {
		e.Fatalf("%v in %q", err, text)
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(lines[2], "data: ")), &v); err != nil {
		e.Fatalf("%v in %q", err, text)
	}
	if v.Event != name {
		e.Errorf("name %s, data %+v", name, v)
	}
	if _, err := time.Parse(wire.Time, v.Time); err != nil {
		e.Error(err)
	}
	return at[0], v
}

func (e *streamed) want(events ...string) {
	e.Helper()
	var last delivery.Position
	for _, want := range events {
		id, v := e.event()
		if got := strings.TrimSpace(fmt.Sprintln(v.ID, v.Account, v.Event, v.Device)); got != want {
			e.Errorf("got %s, want %s", got, want)
		}
		if !last.Less(id) {
			e.Errorf("event %v after %v", id, last)
		}
		last = id
	}
}

func TestEventsAndFilters(t *testing.T) {
	s := serve(t)
	s.online("alice", "phone")
	s.device("alice", "tablet")
	s.device("bob", "watch")
	all, ofBob, ofTablet, ofPhone, ofOne := s.stream(""), s.stream("?account=bob"), s.stream("?device=tablet"), s.stream("?device=phone&account=alice"), s.stream("?id=n3")
	post := func(body string) {
		t.Helper()
		s.want(s.do("POST", "/v1/notifications", body), 202, nil)
	}
	post(`{"account":"alice","title":"x","id":"n1","devices":["tablet"],"fallback":false}`)
	all.want("n1 alice accepted", "n1 alice waiting tablet")
	post(`{"account":"bob","title":"x","id":"n2"}`)
	all.want("n2 bob accepted", "n2 bob waiting watch")
	post(`{"account":"alice","title":"x","id":"n3","devices":["phone"]}`)
	all.want("n3 alice accepted", "n3 alice published phone", "n3 alice received phone")
	s.want(s.do("DELETE", "/v1/notifications/n1", ""), 204, nil)
	all.want("n1 alice cancelled tablet")
	ofBob.want("n2 bob accepted", "n2 bob waiting watch")
	ofTablet.want("n1 alice accepted", "n1 alice waiting tablet", "n1 alice cancelled tablet")
	ofPhone.want("n3 alice accepted", "n3 alice published phone", "n3 alice received phone")
	ofOne.want("n3 alice accepted", "n3 alice published phone", "n3 alice received phone")
}

// sometimes is a core that cannot read notifications while it is told so, and never a damaged one.
type sometimes struct {
	api.Core
	fails, damaged atomic.Bool
}

func (c *sometimes) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	switch {
	case c.fails.Load():
		return nil, delivery.ErrUnavailable
	case c.damaged.Load():
		return nil, delivery.ErrDamaged
	}
	return c.Core.Notification(seq)
}

// TestEventsWhileTheStoreFails: no event goes out without the ID of its notification.
func TestEventsWhileTheStoreFails(t *testing.T) {
	core := &sometimes{}
	s := serve(t, func(o *api.Options, _ *delivery.Options) { o.Core = core })
	core.Core = s.core
	s.device("alice", "phone")
	events := s.stream("")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"one"}`), 202, nil)
	events.want("one alice accepted", "one alice waiting phone")
	core.fails.Store(true)
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"two"}`), 202, nil)
	if text := events.next(); text != "" {
		t.Fatalf("got %q, want the end of the stream", text)
	}
	core.fails.Store(false)
	s.stream("?since=2000-01-01T00:00:00Z").want("one alice accepted", "one alice waiting phone", "two alice accepted", "two alice waiting phone")
}

// TestEventOfADamagedNotification does not hold up the others.
func TestEventOfADamagedNotification(t *testing.T) {
	core := &sometimes{}
	s := serve(t, func(o *api.Options, _ *delivery.Options) { o.Core = core })
	core.Core = s.core
	s.device("alice", "phone")
	events := s.stream("")
	core.damaged.Store(true)
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"one"}`), 202, nil)
	events.want("alice accepted", "alice waiting phone")
	core.damaged.Store(false)
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"two"}`), 202, nil)
	events.want("two alice accepted", "two alice waiting phone")
}

func TestEventStreamBeats(t *testing.T) {
	s := serve(t)
	s.api.Hurry(time.Millisecond, 0, 0)
	e := s.stream("")
	for range 3 {
		if got := e.next(); got != ": heartbeat\n" {
			t.Errorf("%q", got)
		}
	}
}

func TestHeadOfAnEventStreamEnds(t *testing.T) {
	s := serve(t)
	if r := s.do("HEAD", "/v1/events", ""); r.StatusCode != 200 || r.Header.Get("Content-Type") != "text/event-stream" || r.Header.Get("Cache-Control") != "no-store" {
		t.Error(r.Status, r.Header)
	}
	if n := s.metric(`heartline_http_requests_total{method="HEAD",route="/v1/events",status="200"}`); n != "1" {
		t.Errorf("it goes on: %q", n)
	}
}

func TestEventStreamsEnd(t *testing.T) {
	for name, end := range map[string]func(s *service){
		"with the API":  func(s *service) { s.api.Close(); s.api.Close() },
		"with the core": func(s *service) { _ = s.core.Stop(context.Background()) },
	} {
		s := serve(t)
		e := s.stream("")
		end(s)
		if got := e.next(); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestTooManyEventStreams(t *testing.T) {
	s := serve(t)
	for range api.MaxStreams {
		s.stream("")
	}
	r := s.do("GET", "/v1/events", "")
	s.wantProblem(r, 503, "256 streams of events are open, which is the most: close one, or try again")
	if r.Header.Get("Retry-After") == "" {
		t.Error(r.Header)
	}
}

// held is the writer to a reader that is slow: nothing goes through after the greeting,
// before release.
type held struct {
	header  http.Header
	release chan struct{}
	begun   chan struct{} // closed at the first write that is held
	writes  int
	text    strings.Builder
}

func (h *held) Header() http.Header { return h.header }
func (h *held) WriteHeader(int)     {}
func (h *held) Flush()              {}
func (h *held) Write(b []byte) (int, error) {
	if h.writes++; h.writes == 2 {
		close(h.begun)
	}
	if h.writes > 1 {
		<-h.release
	}
	return h.text.Write(b)
}

func TestEventReaderThatLags(t *testing.T) {
	s := serve(t, func(_ *api.Options, rules *delivery.Options) { rules.MaxOutstanding = 10_000 })
	s.device("alice", "phone")
	w := &held{header: http.Header{}, release: make(chan struct{}), begun: make(chan struct{})}
	r, err := http.NewRequest("GET", "http://localhost/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); s.api.ServeHTTP(w, r) }()
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"first"}`), 202, nil)
	<-w.begun
	var accepted sync.WaitGroup
	for range 2500 { // two events each; the buffer holds 4,096
		accepted.Add(1)
		s.core.AcceptAsync(delivery.Request{Account: "alice", Title: "x"}, func(_ delivery.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			accepted.Done()
		})
	}
	accepted.Wait()
	for s.api.TailReaders() > 0 { // until it has been given up
		time.Sleep(time.Millisecond)
	}
	close(w.release)
	<-ended
	if text := w.text.String(); !strings.HasSuffix(text, "\n\nevent: lagged\ndata: {\"detail\":\"this reader was too slow; Last-Event-ID resumes the stream\"}\n\n") {
		t.Errorf("ends with %q", text[max(0, len(text)-300):])
	}
}

func TestEventReaderThatIsStuck(t *testing.T) {
	s := serve(t)
	s.api.Hurry(time.Millisecond, 20*time.Millisecond, 0)
	s.buffer.Store(4 << 10)
	conn, err := net.Dial("tcp", s.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	s.device("alice", "phone")
	// Nothing is read. The heartbeats alone fill the buffers, and the stream ends.
	for s.metric(`heartline_http_requests_total{method="GET",route="/v1/events",status="200"}`) == "" {
		s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","devices":["phone"]}`), 202, nil)
		if err := s.core.ForgetDevice(context.Background(), "alice", "phone"); err != nil { // so that it is never full
			t.Fatal(err)
		}
		s.device("alice", "phone")
	}
}

// metric returns the value of a line of /metrics, "" where it is not there.
func (s *service) metric(name string) string {
	s.Helper()
	r := s.do("GET", "/metrics", "")
	if r.StatusCode != 200 {
		s.Fatal(r.text)
	}
	for line := range strings.SplitSeq(r.text, "\n") {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return value
		}
	}
	return ""
}

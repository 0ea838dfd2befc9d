package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

func manyOutstanding(_ *api.Options, rules *delivery.Options) { rules.MaxOutstanding = 100_000 }

func TestBatch(t *testing.T) {
	s := serve(t, manyOutstanding)
	s.device("alice", "phone")
	var body strings.Builder
	type expected struct {
		line, status int
		id, detail   string
	}
	var want []expected
	for line := 1; line <= 1000; line++ {
		id := fmt.Sprintf("b%04d", line)
		e := expected{line: line, status: 202, id: id}
		text := fmt.Sprintf(`{"account":"alice","title":"x","id":%q}`, id)
		switch {
		case line == 1000:
			text = strings.Replace(text, "b1000", "b0001", 1)
			e.id, e.status = "b0001", 200
		case line%100 == 10:
			text = fmt.Sprintf(`{"account":"alice","title":"x","id":%q,"tll":"5s"}`, id)
			e.status, e.detail = 422, "body.tll: is not a member that is known here"
		case line%100 == 20:
			text, e.status, e.id, e.detail = `{"account":"alice"`, 422, "", "body: must be JSON, and ends too early"
		case line%100 == 30:
			text = fmt.Sprintf(`{"account":"bob","title":"x","id":%q}`, id)
			e.status, e.detail = 404, "account bob has no device"
		case line%100 == 40:
			text = `{"account":"alice","title":"other","id":"b0001"}`
			e.status, e.id, e.detail = 409, "b0001", "notification b0001 was accepted at"
		case line == 50:
			text = `{"account":"alice","title":"` + strings.Repeat("x", 600<<10) + `"}`
			e.status, e.id, e.detail = 413, "", "a notification is at most 524288 bytes of JSON"
		case line%100 == 60:
			body.WriteString([]string{"\n", "  \r\n"}[line/100%2])
			continue
		}
		body.WriteString(text)
		if line < 1000 { // the last one has no end
			body.WriteString([]string{"\n", "\r\n"}[line%2])
		}
		want = append(want, e)
	}
	r := s.do("POST", "/v1/notifications/batch", body.String(), "Content-Type", "application/x-ndjson")
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatal(r.Status, r.Header)
	}
	lines := strings.Split(strings.TrimSuffix(r.text, "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d results, want %d", len(lines), len(want))
	}
	accepted := 0
	for i, line := range lines {
		var got wire.BatchResult
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		e := want[i]
		if got.Line != e.line || got.Status != e.status || got.ID != e.id || !strings.HasPrefix(got.Detail, e.detail) || (got.Detail == "") != (e.detail == "") {
			t.Errorf("got %s\nwant %+v", line, e)
		}
		if got.Status < 300 && (got.Account != "alice" || got.State != "pending" || got.AcceptedAt == "" || len(got.Deliveries) != 1 || got.Title != "") {
			t.Errorf("%s", line)
		}
		if got.Status >= 300 && (got.Title != http.StatusText(got.Status) || got.State != "") {
			t.Errorf("%s", line)
		}
		if got.Status == 202 {
			accepted++
		}
	}
	if n := s.store.engine.applied.Load(); n > int64(accepted)/2 {
		t.Errorf("%d commits for %d notifications: they do not share them", n, accepted)
	}
	var page wire.NotificationList
	s.want(s.do("GET", "/v1/notifications?limit=3", ""), 200, &page)
	if page.Notifications[0].ID != "b0999" {
		t.Errorf("the newest is %s: the order of the lines is lost", page.Notifications[0].ID)
	}
}

// talk opens a batch that is written and read in turn.
func (s *service) talk() (write *io.PipeWriter, results *bufio.Reader) {
	s.Helper()
	body, write := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "POST", s.server.URL+"/v1/notifications/batch", body)
	if err != nil {
		s.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := s.server.Client().Do(r)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = resp.Body.Close() })
	return write, bufio.NewReader(resp.Body)
}

func TestBatchAnswersWhileItIsWritten(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	write, results := s.talk()
	for i := range 20 {
		if _, err := fmt.Fprintf(write, `{"account":"alice","title":"x","id":"t%d"}`+"\n", i); err != nil {
			t.Fatal(err)
		}
		line, err := results.ReadString('\n')
		if err != nil || !strings.Contains(line, fmt.Sprintf(`"status":202,"id":"t%d"`, i)) {
			t.Fatal(line, err)
		}
	}
	_ = write.Close()
	if _, err := results.ReadByte(); err != io.EOF {
		t.Error(err)
	}
}

// TestBatchOfAClientThatGoes: the lines that came are accepted, half a line is not.
func TestBatchOfAClientThatGoes(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	write, results := s.talk()
	if _, err := io.WriteString(write, `{"account":"alice","title":"x","id":"whole"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := results.ReadString('\n'); err != nil || !strings.Contains(line, "202") {
		t.Fatal(line, err)
	}
	// Complete as JSON, and yet not all that was meant: the line has no end.
	if _, err := io.WriteString(write, `{"account":"alice","title":"x","id":"half"}`); err != nil {
		t.Fatal(err)
	}
	_ = write.CloseWithError(errors.New("gone"))
	s.server.CloseClientConnections()
	s.api.Close()
	s.server.Close() // waits for the call
	for id, want := range map[string]bool{"whole": true, "half": false} {
		if _, err := s.core.Get(context.Background(), id); (err == nil) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestBatchEndsWithTheServer(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	write, results := s.talk()
	if _, err := io.WriteString(write, `{"account":"alice","title":"x"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := results.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.api.Close()
	rest, err := io.ReadAll(results) // long before the 30 s of an idle body
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(rest) != `{"line":2,"status":503,"title":"Service Unavailable","code":"stopped","detail":"the server is shutting down and accepts nothing more: try again"}`+"\n" {
		t.Errorf("%s %v", rest, err)
	}
	_ = write.Close()
}

// TestBatchOutlivesItsToken: a token that expires while the batch is read ends it.
func TestBatchOutlivesItsToken(t *testing.T) {
	s := serve(t, manyOutstanding, func(o *api.Options, _ *delivery.Options) {
		o.Bearer = func(_ context.Context, token, _ string) (auth.Identity, error) {
			id := auth.Identity{Service: true, Expires: time.Now().Add(time.Hour)}
			if token == "expiring" { // it expires between the check of the call and the first line
				id.Expires = time.Now()
			}
			return id, nil
		}
	})
	s.device("alice", "phone")
	r := s.do("POST", "/v1/notifications/batch", `{"account":"alice","title":"x","id":"n1"}`, "Content-Type", "application/x-ndjson", "Authorization", "Bearer lasting")
	if r.StatusCode != 200 || !strings.Contains(r.text, `"status":202,"id":"n1"`) {
		t.Errorf("with a token that lasts: %s %s", r.Status, r.text)
	}
	// More than the buffers of the connection hold: a client that still writes gets its result.
	body := strings.Repeat(`{"account":"alice","title":"x","id":"n2"}`+"\n", 100_000)
	req, err := http.NewRequestWithContext(context.Background(), "POST", s.server.URL+"/v1/notifications/batch", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer expiring")
	resp, err := s.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	rest, err := io.ReadAll(resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(rest) != `{"line":1,"status":401,"id":"n2","title":"Unauthorized","code":"unauthenticated","detail":"the credentials have expired since the batch began: get a new token, and send this line and those after it again"}`+"\n" {
		t.Errorf("%s %v", rest, err)
	}
	if _, err := s.core.Get(context.Background(), "n2"); err == nil {
		t.Error("accepted with a token that has expired")
	}
	// Without a line, too: an idle batch would end with 408, and empty lines would keep it open.
	s.api.Hurry(0, 0, 20*time.Millisecond)
	for _, begin := range []string{"", "\n"} {
		body, write := io.Pipe()
		req, err := http.NewRequestWithContext(context.Background(), "POST", s.server.URL+"/v1/notifications/batch", io.MultiReader(strings.NewReader(begin), body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer expiring")
		resp, err := s.server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		results := bufio.NewReader(resp.Body)
		if line, err := results.ReadString('\n'); err != nil || !strings.HasPrefix(line, `{"line":1,"status":401,`) {
			t.Errorf("after %q: %q %v", begin, line, err)
		}
		_ = write.Close()
		if rest, err := io.ReadAll(results); err == nil || len(rest) > 0 { // no proper end
			t.Errorf("after %q: %q %v", begin, rest, err)
		}
	}
}

// closingBody is the body and the connection of a call during which the server closes: right
// before the broken part of its array.
type closingBody struct {
	*httptest.ResponseRecorder
	*testing.T
	close    func()
	reads    int
	deadline chan time.Time // holds the last
}

func (b *closingBody) SetReadDeadline(t time.Time) error {
	select {
	case <-b.deadline:
	default:
	}
	b.deadline <- t
	return nil
}

func (b *closingBody) Read(into []byte) (int, error) {
	switch b.reads++; b.reads {
	case 1:
		return copy(into, "["), nil
	case 2:
		b.close()
		for d := range b.deadline { // until that of the end is set
			if !d.IsZero() && !d.After(time.Now()) {
				break
			}
		}
		return copy(into, `{"account":]`), nil
	}
	b.Error("the server reads the rest of the body while it closes")
	return 0, io.EOF
}

func TestBatchThatIsBrokenWhileTheServerCloses(t *testing.T) {
	s := serve(t)
	b := &closingBody{ResponseRecorder: httptest.NewRecorder(), T: t, close: s.api.Close, deadline: make(chan time.Time, 1)}
	r := httptest.NewRequest("POST", "/v1/notifications/batch", b)
	r.Host = "localhost"
	r.Header.Set("Content-Type", "application/json")
	s.api.ServeHTTP(b, r)
	if d := <-b.deadline; d.IsZero() || d.After(time.Now()) {
		t.Errorf("the deadline of the connection is %s", d)
	}
	if text := b.Body.String(); !strings.Contains(text, "must be a JSON array of notifications") {
		t.Error(text)
	}
}

func TestBatchThatStandsStill(t *testing.T) {
	s := serve(t)
	s.api.Hurry(0, 0, 20*time.Millisecond)
	write, results := s.talk()
	rest, err := io.ReadAll(results)
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(rest) != `{"line":1,"status":408,"title":"Request Timeout","code":"timeout","detail":"nothing came for 20ms: send this line and those after it again"}`+"\n" {
		t.Errorf("%s %v", rest, err)
	}
	_ = write.Close()
}

// TestBatchOfAClientThatDoesNotRead: it is not read from for ever, either.
func TestBatchOfAClientThatDoesNotRead(t *testing.T) {
	s := serve(t, manyOutstanding)
	s.api.Hurry(0, 50*time.Millisecond, 0)
	s.device("alice", "phone")
	s.buffer.Store(4 << 10)
	conn, err := net.Dial("tcp", s.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, "POST /v1/notifications/batch HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
	const line = `{"account":"alice","title":"x"}` + "\n"
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 1000*len(line), strings.Repeat(line, 1000))
	for i := 0; ; i++ {
		if _, err := io.WriteString(conn, chunk); err != nil {
			break // cut off
		}
		if i > 1000 {
			t.Fatal("a million lines were taken without one result being read")
		}
	}
}

func TestBatchIsEmpty(t *testing.T) {
	s := serve(t)
	for _, body := range []string{"", "\n\n"} {
		if r := s.do("POST", "/v1/notifications/batch", body, "Content-Type", "application/x-ndjson"); r.StatusCode != 200 || r.text != "" {
			t.Errorf("%q: %s %s", body, r.Status, r.text)
		}
	}
}

// TestConnectionAfterABatch: the deadlines of one call are not those of the next.
func TestConnectionAfterABatch(t *testing.T) {
	s := serve(t)
	s.api.Hurry(0, 30*time.Millisecond, 30*time.Millisecond)
	s.device("alice", "phone")
	s.server.Client().Transport.(*http.Transport).MaxConnsPerHost = 1
	for range 3 {
		if r := s.do("POST", "/v1/notifications/batch", `{"account":"alice","title":"x"}`, "Content-Type", "application/x-ndjson"); r.StatusCode != 200 {
			t.Fatal(r.Status)
		}
		deadline := time.NewTimer(60 * time.Millisecond) // what is tested is the passing of time itself
		<-deadline.C
		s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x"}`), 202, nil)
	}
}

// TestCallsBetweenBatches: the end of a batch does not end its connection, on which
// the next call would be told that nobody awaits its answer.
func TestCallsBetweenBatches(t *testing.T) {
	s := serve(t, manyOutstanding)
	s.device("alice", "phone")
	s.server.Client().Transport.(*http.Transport).MaxConnsPerHost = 1
	for range 300 {
		if r := s.do("POST", "/v1/notifications/batch", `{"account":"alice","title":"x"}`, "Content-Type", "application/x-ndjson"); r.StatusCode != 200 {
			t.Fatal(r.Status)
		}
		if r := s.do("POST", "/v1/notifications", `{"account":"alice","title":"x"}`); r.StatusCode != 202 {
			t.Fatal(r.Status, r.text)
		}
	}
}

// TestBatchArray: an array of notifications is answered with an array of results.
func TestBatchArray(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	const good = `{"account":"alice","title":"x"}`
	long := `{"account":"alice","title":"` + strings.Repeat("x", 600<<10) + `"}`
	for _, tt := range []struct {
		name, body string
		want       []int
		detail     string // of the last
	}{
		{"two", "[" + good + ",\n " + good + "]", []int{202, 202}, ""},
		{"after spaces", " \r\n\t[" + good + "] \n", []int{202}, ""},
		{"none", "[]", nil, ""},
		{"numbers", `[{"account":"alice","title":"x","ttl":0,"ack_window":0},{"account":"alice","title":"x","ttl":5}]`, []int{202, 422}, "body.ttl: "},
		{"refused alone", `[{"account":"bob","title":"x"},` + good + `, 7]`, []int{404, 202, 422}, "body: "},
		{"broken", "[" + good + `,{"account":` + "]", []int{202, 422}, "body: must be a JSON array of notifications, and is broken in this element"},
		{"no comma", "[" + good + " " + good + "]", []int{202, 422}, "body: must be a JSON array"},
		{"ends early", "[" + good, []int{202, 422}, "body: must be a JSON array"},
		{"goes on", "[" + good + "] []", []int{202, 422}, "body: must be one JSON array, and goes on after its end"},
		{"too long", "[" + good + "," + long + "," + good + "]", []int{202, 413, 202}, ""},
		{"endless", "[" + good + `,"` + strings.Repeat("x", 3<<20) + `"]`, []int{202, 413}, "a notification is at most 524288 bytes of JSON"},
	} {
		r := s.do("POST", "/v1/notifications/batch", tt.body, "Content-Type", "application/json; charset=utf-8")
		if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s %s", tt.name, r.Status, r.Header)
		}
		var results []wire.BatchResult
		if err := json.Unmarshal([]byte(r.text), &results); err != nil || results == nil {
			t.Errorf("%s: %v: %s", tt.name, err, r.text)
			continue
		}
		var got []int
		last := ""
		for i, result := range results {
			got = append(got, result.Status)
			last = result.Detail
			if result.Line != i+1 {
				t.Errorf("%s: element %d is called %d", tt.name, i+1, result.Line)
			}
		}
		if !slices.Equal(got, tt.want) || !strings.HasPrefix(last, tt.detail) || (last == "") != (tt.detail == "") {
			t.Errorf("%s: %v, %q, want %v, %q", tt.name, got, last, tt.want, tt.detail)
		}
	}
	// Lines under the type of one value are lines still.
	r := s.do("POST", "/v1/notifications/batch", good+"\n"+good, "Content-Type", "application/json")
	if ct := r.Header.Get("Content-Type"); ct != "application/x-ndjson" || strings.Count(r.text, "\n") != 2 {
		t.Errorf("lines: %s: %s", ct, r.text)
	}
}

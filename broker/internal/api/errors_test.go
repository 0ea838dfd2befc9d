package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

func TestBrokenBodies(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	big := strings.Repeat("x", 300<<10)
	for _, c := range []struct {
		body   string
		status int
		detail string
	}{
		{``, 422, "body: must be a JSON object, got nothing"},
		{" \n", 422, "body: must be a JSON object, got nothing"},
		{`{"account":"alice","title":"x"`, 422, "body: must be JSON, and ends too early"},
		{`{"account":"alice","title":"x"}}`, 422, "body: must be JSON, and is not at byte 32"},
		{`{"account":"alice"} {"account":"alice"}`, 422, "body: must be JSON, and is not at byte 21"},
		{`[]`, 422, "body: must be a JSON object, got an array"},
		{`"x"`, 422, "body: must be a JSON object, got a string"},
		{`7`, 422, "body: must be a JSON object, got a number"},
		{`true`, 422, "body: must be a JSON object, got a boolean"},
		{`null`, 422, "body: must be a JSON object, got null"},
		{"{\"account\":\"alice\",\"title\":\"\xff\"}", 422, "body: must be UTF-8"},
		{`{"account":"alice","title":"x","tll":"5s"}`, 422, "body.tll: is not a member that is known here"},
		{`{"account":"alice","Title":"x"}`, 422, "body.Title: is not a member that is known here"},
		{`{"account":"alice","title":"x","zz":1,"aa":1}`, 422, "body.aa: is not a member that is known here; body.zz: is not a member that is known here"},
		{`{"title":"x"}`, 422, "body.account: must be given"},
		{`{"account":null,"title":"x"}`, 422, "body.account: must be a string"},
		{`{"account":"","title":"x"}`, 422, "body.account: must not be empty"},
		{`{"account":"..","title":"x"}`, 422, `body.account: must not be "." or ".."`},
		{`{"account":"alice","title":7}`, 422, "body.title: must be a string, got 7"},
		{`{"account":"alice","title":{}}`, 422, "body.title: must be a string, got an object"},
		{`{"account":"alice","title":"x","ttl":5}`, 422, "body.ttl: must be a duration such as 90s or 24h in a string, or the number 0, got 5"},
		{`{"account":"alice","title":"x","ack_window":[]}`, 422, "body.ack_window: must be a duration such as 90s or 24h in a string, or the number 0, got an array"},
		{`{"account":"alice","title":"x","ttl":0.0}`, 422, "body.ttl: must be another kind of value"},
		{`{"account":"alice","title":"x","ttl":"5"}`, 422, `body.ttl: must be a duration such as 90s or 24h, got "5"`},
		{`{"account":"alice","title":"x","ttl":"-1s"}`, 422, "body.ttl: must be 0 to 720h (30 days), got -1s"},
		{`{"account":"alice","title":"x","ttl":"721h"}`, 422, "body.ttl: must be 0 to 720h (30 days), got 721h"},
		{`{"account":"alice","title":"x","ack":"read"}`, 422, `body.ack: must be one of received, displayed, got "read"`},
		{`{"account":"alice","title":"x","urgency":"low"}`, 422, `body.urgency: must be one of high, normal, got "low"`},
		{`{"account":"alice","title":"x","fallback":"no"}`, 422, `body.fallback: must be true or false, got "no"`},
		{`{"account":"alice","title":"x","devices":"phone"}`, 422, `body.devices: must be an array, got "phone"`},
		{`{"account":"alice","title":"x","devices":[]}`, 422, "body.devices: must not be empty: leave it out for all devices"},
		{`{"account":"alice","title":"x","devices":[1]}`, 422, "body.devices[0]: must be a string, got 1"},
		{`{"account":"alice","title":"x","badge":-1}`, 422, `body.badge: must be a whole number of 0 or more, or "auto", got -1`},
		{`{"account":"alice","title":"x","badge":1.5}`, 422, `body.badge: must be a whole number of 0 or more, or "auto", got 1.5`},
		{`{"account":"alice","title":"x","badge":99999999999999999999}`, 422, `body.badge: must be a whole number of 0 or more, or "auto", got 1`},
		{`{"account":"alice","title":"x","badge":1e999}`, 422, "body.badge: must be another kind of value"},
		{`{"account":"alice","title":"x","id":"a b"}`, 422, `body.id: must be 1 to 64 of A-Za-z0-9._:-, got "a b"`},
		{`{"account":"alice","title":"x","collapse_key":"` + strings.Repeat("k", 65) + `"}`, 422, "body.collapse_key: must be 1 to 64 of"},
		{`{"account":"alice"}`, 422, "body.title: title, body or data must be given"},
		{`{"account":"alice","localized":{}}`, 422, "body.title: title, body or data must be given"},
		{`{"account":"alice","localized":{"title_args":["1"]}}`, 422, "body.title: title, body or data must be given"},
		{`{"account":"alice","title":"` + strings.Repeat("x", 2049) + `"}`, 422, "body.title: at most 2048 bytes together with body; put the rest into data, got 2049"},
		{`{"account":"alice","title":"x","ttl":"5","ack":7}`, 422, "body.ack: must be a string, got 7"},
		{`{"account":"alice","title":"x","id":"?","ttl":"9999h"}`, 422, `body.id: must be 1 to 64 of A-Za-z0-9._:-, got "?"; body.ttl: must be 0 to 720h`},
		{`{"account":"alice","title":"x","data":"` + big + `"}`, 422, "body.data: at most 262144 bytes, got"},
		{`{"account":"alice","title":"x","data":"` + big + big + `"}`, 413, "a notification is at most 524288 bytes of JSON"},
		{`{"account":"alice","title":"x","title":"y"}`, 422, "body.title: must be given once, and is given twice"},
		{`{"account":"alice","title":"x","localized":{"title_key":"a","title_key":"b"}}`, 422, "body.localized.title_key: must be given once, and is given twice"},
		{`{"zz":1,"badge":"x","title":7}`, 422, "body.account: must be given; body.title: must be a string, got 7; body.zz: is not a member that is known here"},
		{`{"account":"bob","title":"x"}`, 404, "account bob has no device; a device is registered by"},
		{`{"account":"alice","title":"x","devices":["watch"]}`, 404, "account alice has no device watch"},
	} {
		s.wantProblem(s.do("POST", "/v1/notifications", c.body), c.status, c.detail)
	}
	if n := s.store.engine.applied.Load(); n != 0 {
		t.Errorf("%d of them were accepted", n)
	}
	for _, ok := range []string{
		`{"account":"alice","data":null}`, `{"account":"alice","title":null,"body":"x"}`, `{"account":"alice","title":"x","ttl":0,"ack_window": 0}`, `{"account":"alice","title":"x","ttl":null}`, ` {"account":"alice","title":"x","devices":["phone"]} `,
		`{"account":"alice","body":"` + strings.Repeat("x", 2048) + `"}`, `{"account":"alice","data":"` + strings.Repeat("x", 256<<10-2) + `"}`,
	} {
		s.want(s.do("POST", "/v1/notifications", ok), 202, nil)
	}
}

func TestContentTypes(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	const body = `{"account":"alice","title":"x"}`
	for ct, status := range map[string]int{
		"application/json": 202, "application/json; charset=utf-8": 202, "application/merge-patch+json": 202, "": 202,
		"text/plain": 415, "application/x-www-form-urlencoded": 415, "nonsense;;": 415,
	} {
		r := s.do("POST", "/v1/notifications", body, "Content-Type", ct)
		if status == 202 {
			s.want(r, 202, nil)
		} else {
			s.wantProblem(r, 415, fmt.Sprintf("send the header Content-Type: application/json, not %q", ct))
		}
	}
	s.wantProblem(s.do("POST", "/v1/notifications/batch", body, "Content-Type", "text/csv"), 415, "send the header Content-Type: application/x-ndjson, not")
	// Whatever a caller says it would like: there is JSON.
	s.want(s.do("GET", "/v1/notifications", "", "Accept", "text/html"), 200, nil)
}

func TestTooMuchOutstanding(t *testing.T) {
	s := serve(t, func(_ *api.Options, rules *delivery.Options) { rules.MaxOutstanding = 1 })
	s.device("alice", "phone")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"1"}`), 202, nil)
	r := s.do("POST", "/v1/notifications", `{"account":"alice","title":"2"}`)
	s.wantProblem(r, 429, "every device addressed has 1 unfinished notifications (delivery.max_outstanding_per_device): try again after")
	if r.Header.Get("Retry-After") != "2" {
		t.Error(r.Header)
	}
}

func TestStoreFails(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"zero"}`), 202, nil)
	s.store.engine.sick.Store(true)
	for _, r := range []reply{
		s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"one"}`),
		s.do("PUT", "/v1/accounts/alice/devices/watch", ""), s.do("DELETE", "/v1/accounts/alice/devices/watch", ""),
		s.do("DELETE", "/v1/notifications/zero", ""), s.do("GET", "/v1/notifications/zero", ""), s.do("GET", "/v1/notifications", ""),
	} {
		s.wantProblem(r, 503, "the store takes no changes now: nothing was accepted, and no other change is on record yet")
		if r.Header.Get("Retry-After") != "5" {
			t.Error(r.Header)
		}
	}
	for range 100 { // a disk may be full of the log
		s.do("POST", "/v1/notifications", `{"account":"alice","title":"x"}`)
	}
	if lines := strings.Count(s.log.String(), `msg="store unavailable"`); lines == 0 || lines > 50 {
		t.Errorf("%d lines in the log about 106 refused calls", lines)
	}
	s.store.engine.sick.Store(false) // the device's own changes are to be kept
}

func TestStopped(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	if err := s.core.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, r := range []reply{
		s.do("POST", "/v1/notifications", `{"account":"alice","title":"x"}`), s.do("PUT", "/v1/accounts/alice/devices/watch", ""),
		s.do("GET", "/v1/accounts/alice/devices", ""),
	} {
		s.wantProblem(r, 503, "the server is shutting down and accepts nothing more: try again")
		if r.Header.Get("Retry-After") != "5" {
			t.Error(r.Header)
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	s := serve(t, func(o *api.Options, _ *delivery.Options) {
		o.Handlers = map[string]http.Handler{"/": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "page ", r.URL.Path) })}
	})
	for _, c := range []struct {
		method, path string
		status       int
		detail       string
		allow        string
	}{
		{"GET", "/v1/nothing", 404, "there is nothing at /v1/nothing; /openapi.json lists the calls", ""},
		{"GET", "/v1/", 404, "there is nothing at /v1/;", ""},
		{"PATCH", "/v1/notifications", 405, "/v1/notifications takes GET, HEAD, POST, not PATCH", "GET, HEAD, POST"},
		{"POST", "/v1/events", 405, "/v1/events takes GET, HEAD, not POST", "GET, HEAD"},
		{"DELETE", "/healthz", 405, "/healthz takes GET, HEAD, not DELETE", "GET, HEAD"},
		{"GET", "/v1/notifications?acount=alice", 422, "query.acount: is not a parameter of this call", ""},
		{"GET", "/v1/notifications?limit=0", 422, "query.limit: must be at least 1, got 0", ""},
		{"GET", "/v1/notifications?limit=501", 422, "query.limit: must be at most 500, got 501", ""},
		{"GET", "/v1/notifications?limit=many", 422, `query.limit: must be a whole number, got "many"`, ""},
		{"GET", "/v1/notifications?state=done", 422, `query.state: must be one of pending, published, pushing, pushed, waiting, acked, expired, superseded, cancelled, got "done"`, ""},
		{"GET", "/v1/notifications?cursor=x", 422, "query.cursor: must be next of an earlier page", ""},
		{"GET", "/v1/devices?cursor=%21", 422, "query.cursor: must be next of an earlier page", ""},
		{"GET", "/v1/events?divice=x", 422, "query.divice: is not a parameter of this call", ""},
		{"GET", "/v1/notifications?device=50%off", 422, `query: must be percent-encoded, with % as %25 and ; as %3B: invalid URL escape "%of"`, ""},
		{"GET", "/v1/notifications?account=alice%", 422, `query: must be percent-encoded, with % as %25 and ; as %3B: invalid URL escape "%"`, ""},
		{"GET", "/v1/notifications?account=alice&account=bob", 422, "query.account: must be given once, and is given 2 times", ""},
		{"DELETE", "/v1/notifications/x?erase=true%", 422, "query: must be percent-encoded", ""},
		{"DELETE", "/v1/notifications/x?erase=", 422, "query.erase: must be true or false", ""},
		{"DELETE", "/v1/notifications/x?erase=false&erase=true", 422, "query.erase: must be given once", ""},
		{"POST", "/v1/webhooks/retry?name=backend&id=", 422, "query.id: must not be empty", ""},
		{"POST", "/v1/webhooks/retry?name=backend&id=evt_1&id=evt_2", 404, `there is no webhook "backend"`, ""},
		{"DELETE", "/v1/notifications/x?erase", 404, `there is no notification "x"`, ""},
		{"GET", "/v1/notifications?account=", 422, "query.account: must not be empty", ""},
		{"GET", "/v1/notifications?account", 422, "query.account: must not be empty", ""},
		{"GET", "/v1/notifications?account=alice&device=", 422, "query.device: must not be empty", ""},
		{"GET", "/v1/events?account=", 422, "query.account: must not be empty", ""},
		{"GET", "/v1/events?device=", 422, "query.device: must not be empty", ""},
		{"GET", "/v1/events?id=", 422, "query.id: must not be empty", ""},
		{"GET", "/v1/notifications?cursor=&limit=", 200, "", ""},
	} {
		r := s.do(c.method, c.path, "")
		if c.status == 200 {
			s.want(r, 200, nil)
		} else {
			s.wantProblem(r, c.status, c.detail)
		}
		if r.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: Allow %q", c.method, c.path, r.Header.Get("Allow"))
		}
	}
	if r := s.do("GET", "/dashboard", ""); r.StatusCode != 200 || r.text != "page /dashboard" {
		t.Error(r.StatusCode, r.text)
	}
	if r := s.do("HEAD", "/healthz", ""); r.StatusCode != 200 || r.text != "" {
		t.Error(r.StatusCode, r.text)
	}
}

// TestCrookedPaths: no path is taken for another one. A client that follows a redirect would erase
// the account of a device named "..", or call for another account.
func TestCrookedPaths(t *testing.T) {
	s := serve(t)
	s.device("a+b", "phone")
	for _, c := range []struct{ method, path string }{
		{"DELETE", "/v1/accounts/a%2Bb/devices/.."},
		{"DELETE", "/v1/accounts/a%2Bb/devices/phone/../.."},
		{"DELETE", "/v1/accounts/a%2Bb/./devices/phone"},
		{"PUT", "/v1/accounts//devices/phone"},
		{"POST", "/v1//notifications"},
		{"POST", "//v1//notifications"},
		{"GET", "/v1/../healthz"},
	} {
		s.wantProblem(s.do(c.method, c.path, ""), 404, "there is nothing at")
	}
	var v wire.DeviceView
	if s.want(s.do("PUT", "//v1/accounts/a%2Bb/devices/phone", ""), 200, &v); v.Account != "a+b" {
		t.Error(v.Account)
	}
	s.wantProblem(s.do("DELETE", "/v1/accounts/a%2Bb/devices/%2E%2E", ""), 404, `account "a+b" has no device ".."`)
	s.wantProblem(s.do("PUT", "/v1/accounts/a%2Bb/devices/%2E%2E", ""), 422, `path.device: must not be "." or ".."`)
	s.want(s.do("DELETE", "/v1/accounts/a%2Bb/devices/phone", ""), 204, nil)
}

func TestUnknownPathWithoutPages(t *testing.T) {
	s := serve(t)
	s.wantProblem(s.do("GET", "/", ""), 404, "there is nothing at /;")
}

// TestBodiesThatDoNotCome: neither a call that waits for its body nor one that does
// not want it holds its connection for longer than a body may take.
func TestBodiesThatDoNotCome(t *testing.T) {
	s := serve(t)
	s.api.Hurry(0, 0, 50*time.Millisecond)
	for call, want := range map[string]string{
		"POST /v1/notifications": "408 Request Timeout", "GET /v1/notifications": "200 OK", "POST /v1/nothing": "404 Not Found",
		"POST /v1/notifications/batch": "200 OK",
	} {
		conn, err := net.Dial("tcp", s.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", call)
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
		answer, err := io.ReadAll(conn) // to the end of the connection
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 "+want) {
			t.Errorf("%s: %v %s", call, err, answer)
		}
		_ = conn.Close()
	}
}

// broken fails in the ways that a core should not.
type brokenCore struct{ api.Core }

func (brokenCore) Get(context.Context, string) (*delivery.View, error) {
	return nil, errors.New("secret inner workings")
}

func (brokenCore) Cancel(context.Context, string) error { panic("secret inner workings") }

func TestFaults(t *testing.T) {
	s := serve(t, func(o *api.Options, _ *delivery.Options) { o.Core = brokenCore{} })
	for method, logged := range map[string]string{"GET": "secret inner workings", "DELETE": "errors_test.go"} {
		r := s.do(method, "/v1/notifications/x", "")
		s.wantProblem(r, 500, "the server failed at this call; its log says more")
		if strings.Contains(r.text, "secret") || strings.Contains(r.text, "goroutine") {
			t.Error(r.text)
		}
		if !strings.Contains(s.log.String(), logged) {
			t.Errorf("not in the log: %s", logged)
		}
	}
}

// TestSameRequest: two requests with one id are the same if they mean the same, whichever
// way they are written; otherwise they conflict.
func TestSameRequest(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	for i, c := range []struct {
		first, again string
		same         bool
	}{
		{`"title":"x"`, `"title":"x","fcm":{},"apns":{"payload":{}},"webpush":null,"extra":{}`, true},
		{`"title":"x","extra":{}`, `"title":"x","extra":null`, true},
		{`"title":"x"`, `"title":"x","localized":{}`, true},
		{`"title":"x","localized":{"title_key":"K"}`, `"title":"x","localized":{"title_key":"K","title_args":[]}`, true},
		{`"title":"x","localized":{"title_key":"K"}`, `"title":"x","localized":{"title_key":"K","title_args":["1"]}`, false},
		{`"title":"x"`, `"title":"x","thread":"alice"`, true},
		{`"title":"x"`, `"title":"x","thread":"bob"`, false},
		{`"data":{"a":1,"b":[100,0.5]}`, `"data":{"b":[1e2,0.50],"a":1.0}`, true},
		{`"data":[0,-0]`, `"data":[0.0,0e7]`, true},
		{`"data":9007199254740993`, `"data":9007199254740992`, false},
		{`"data":1`, `"data":-1`, false},
		{`"data":1`, `"data":"1"`, false},
		{`"data":{"a":null}`, `"data":{"b":null}`, false},
		{`"data":1e999999999`, `"data":1e999999998`, false},
		{`"apns":{"push_type":"background"},"title":"x","ack_window":"5s"`, `"title":"x","ack_window":"5s","apns":{"push_type":"background"}`, true},
	} {
		post := func(members string) reply {
			return s.do("POST", "/v1/notifications", fmt.Sprintf(`{"account":"alice","id":"same%d",%s}`, i, members))
		}
		s.want(post(c.first), 202, nil)
		if r := post(c.again); (r.StatusCode == 200) != c.same || r.StatusCode != 200 && r.StatusCode != 409 {
			t.Errorf("%s and %s: %d %s", c.first, c.again, r.StatusCode, r.text)
		}
	}
}

// TestManyFaults: an answer is not many times as long as the body that it is about.
func TestManyFaults(t *testing.T) {
	s := serve(t)
	var body strings.Builder
	body.WriteString(`{"account":"alice"`)
	for i := range 20_000 {
		fmt.Fprintf(&body, `,"m%d":1`, i)
	}
	body.WriteString("}")
	r := s.do("POST", "/v1/notifications", body.String())
	s.wantProblem(r, 422, "body.m0: is not a member that is known here")
	if len(r.text) > 20_000 || !strings.Contains(r.text, "further faults") {
		t.Errorf("%d bytes answer a body of %d", len(r.text), body.Len())
	}
}

// TestManyFaultsAreQuick: what a body costs grows with its length, and not with the square of its
// faults. That took longer than the server gives an answer, and the connection ended without one.
func TestManyFaultsAreQuick(t *testing.T) {
	s := serve(t)
	r := s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","devices":[1`+strings.Repeat(",1", 260_000)+"]}")
	if r.StatusCode != 422 || !strings.Contains(r.text, "has 259951 further faults") {
		t.Error(r.Status, r.text)
	}
}

// TestCompressedBodies: a body that is compressed is refused by the name of the header, and
// never unpacked.
func TestCompressedBodies(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	const body = `{"account":"alice","title":"x"}`
	for _, path := range []string{"/v1/notifications", "/v1/notifications/batch"} {
		for _, coding := range []string{"gzip", "br", "identity, gzip"} {
			s.wantProblem(s.do("POST", path, body, "Content-Encoding", coding), 415, "send the body as it is, without the header Content-Encoding: "+coding)
		}
	}
	s.want(s.do("POST", "/v1/notifications", body, "Content-Encoding", "Identity"), 202, nil)
}

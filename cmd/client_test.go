package cmd

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

const accepted = `{"id":"n-1","account":"alice","state":"pending","accepted_at":"2026-11-23T04:05:06.123Z","deliveries":[{"device":"phone","state":"pending"},{"device":"tablet-in-the-kitchen","state":"pending"}]}`

func TestSend(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.json")
	if err := os.WriteFile(file, []byte(`{"from": "a file"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args  []string
		stdin string
		body  string
	}{
		{[]string{"--title", "Hello <you>"}, "", `{"account":"alice","title":"Hello \u003cyou\u003e"}`},
		{[]string{"--data", "[1]"}, "", `{"account":"alice","data":[1]}`},
		{[]string{"--data", "@" + file}, "", `{"account":"alice","data":{"from":"a file"}}`},
		{[]string{"--data", "@-"}, `"typed"`, `{"account":"alice","data":"typed"}`},
		{
			[]string{"--title", "T", "--body", "B", "--data", "{}", "--id", "n-1", "--collapse-key", "k", "--ttl", "1h", "--ack", "displayed", "--urgency", "normal", "--no-fallback", "--device", "phone", "--device", "tablet,\"old\"", "--badge", "0", "--sound", "ping", "--category", "order"},
			"",
			`{"account":"alice","title":"T","body":"B","data":{},"id":"n-1","collapse_key":"k","ttl":"1h","ack":"displayed","urgency":"normal","fallback":false,"devices":["phone","tablet,\"old\""],"badge":0,"sound":"ping","category":"order"}`,
		},
	} {
		a := serveAPI(t, answer(202, accepted))
		got := command(t, a.environ(), tt.stdin, append([]string{"send", "--account", "alice"}, tt.args...)...)
		check(t, got, 0, "n-1  accepted for alice\nDEVICE                 STATE\nphone                  pending\ntablet-in-the-kitchen  pending\n", "")
		if want := []request{{"POST", "/v1/notifications", "", tt.body}}; !slices.Equal(a.requests(), want) {
			t.Errorf("sent %q\nwant %q", a.requests(), want)
		}
	}

	a := serveAPI(t, answer(200, accepted))
	got := command(t, a.environ(), "", "send", "--account", "alice", "--body", "x", "--json")
	if got.code != 0 || !strings.HasPrefix(got.stdout, "{\n  \"id\": \"n-1\",\n") {
		t.Errorf("got %+v", got)
	}
}

// view is the answer about n-1 with this much of its timeline.
func view(state string, events ...string) string {
	return fmt.Sprintf(`{"id":"n-1","account":"alice","title":"Hello","ack":"received","urgency":"high","accepted_at":"2026-11-23T04:05:06.123Z","expires_at":"2026-11-24T04:05:06.123Z","state":%q,"deliveries":[{"device":"phone","state":%q,"attempts":2,"pushed":true}],"timeline":[%s]}`,
		state, state, strings.Join(events, ","))
}

const (
	evAccepted  = `{"time":"2026-11-23T04:05:06.123Z","event":"accepted"}`
	evPublished = `{"time":"2026-11-23T04:05:06.124Z","event":"published","device":"phone","attempt":1}`
	evTimeout   = `{"time":"2026-11-23T04:05:09.124Z","event":"ack_timeout","device":"phone","attempt":1,"detail":"no PUBACK within 3s"}`
	evReceived  = `{"time":"2026-11-23T06:06:07Z","event":"received","device":"phone","attempt":2,"detail":"late\u001b[2J"}`
)

// TestSendWait: the stream, or without one the ticker, says when to read the timeline;
// the output is the same.
func TestSendWait(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stream bool
		final  string
		code   int
		last   string
		stderr string
	}{
		{"with a stream", true, "acked", 0, "Received by phone 2.0 h after acceptance, over the channel", ""},
		{"without one", false, "acked", 0, "Received by phone 2.0 h after acceptance, over the channel", ""},
		{"in vain", true, "expired", 1, "Expired for phone", "heartline: no device has acknowledged n-1: phone expired\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var gets atomic.Int32
			more := make(chan struct{}, 3)
			a := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodPost:
					answer(202, accepted)(w, r)
				case r.URL.Path == "/v1/events" && tt.stream:
					w.Header().Set("Content-Type", "text/event-stream")
					_ = http.NewResponseController(w).Flush()
					for {
						select {
						case <-r.Context().Done():
							return
						case <-more:
						}
						fmt.Fprint(w, "data: {}\n\n")
						_ = http.NewResponseController(w).Flush()
					}
				case r.URL.Path == "/v1/events":
					answer(404, `{}`)(w, r)
				default:
					switch gets.Add(1) {
					case 1:
						answer(200, view("published", evAccepted, evPublished))(w, r)
					case 2:
						answer(200, view("published", evAccepted, evPublished, evTimeout))(w, r)
					default:
						answer(200, view(tt.final, evAccepted, evPublished, evTimeout, evReceived))(w, r)
					}
					more <- struct{}{}
				}
			})
			got := command(t, a.environ(), "", "send", "--account", "alice", "--title", "Hello", "--wait")
			check(t, got, tt.code, `n-1  to alice
04:05:06.123    +0.000s  accepted
04:05:06.124    +0.001s  published         phone         1
04:05:09.124    +3.001s  ack_timeout       phone         1    no PUBACK within 3s
06:06:07.000    +2h1m0s  received          phone         2    late�[2J
`+tt.last+"\n", tt.stderr)
		})
	}
}

// TestSendWaitHeld: a notification that is held for an account without devices is not over.
func TestSendWaitHeld(t *testing.T) {
	for _, tt := range []struct {
		then, stderr string
		code         int
	}{
		{`{"id":"n-1","account":"alice","title":"Hello","accepted_at":"2026-11-23T04:05:06.123Z","state":"acked","deliveries":[{"device":"phone","state":"acked"}]}`, "", 0},
		{`{"id":"n-1","account":"alice","title":"Hello","accepted_at":"2026-11-23T04:05:06.123Z","state":"expired","deliveries":[]}`, "heartline: no device has acknowledged n-1: expired, the account has had none\n", 1},
	} {
		var gets atomic.Int32
		a := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPost:
				answer(202, accepted)(w, r)
			case r.URL.Path == "/v1/events":
				answer(404, `{}`)(w, r)
			case gets.Add(1) == 1:
				answer(200, `{"id":"n-1","account":"alice","title":"Hello","accepted_at":"2026-11-23T04:05:06.123Z","state":"waiting","deliveries":[]}`)(w, r)
			default:
				answer(200, tt.then)(w, r)
			}
		})
		if got := command(t, a.environ(), "", "send", "--account", "alice", "--title", "Hello", "--wait"); got.code != tt.code || got.stderr != tt.stderr {
			t.Errorf("%d %s%s", got.code, got.stdout, got.stderr)
		}
	}
}

func TestSendWaitInterrupted(t *testing.T) {
	a := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			answer(202, accepted)(w, r)
			return
		}
		answer(200, view("waiting", evAccepted))(w, r)
	})
	s := start(t, nil, a.environ(), "send", "--account", "alice", "--title", "Hello", "--wait")
	s.out.until(t, "accepted")
	s.cancel()
	if code := expect(t, "the end", s.code); code != 1 {
		t.Errorf("exit code %d", code)
	}
	s.errs.until(t, "interrupted before every delivery was final")
}

func TestTimeline(t *testing.T) {
	a := serveAPI(t, answer(200, view("acked", evAccepted, evPublished, evTimeout, evReceived)))
	check(t, command(t, a.environ(), "", "timeline", "n/1"), 0, `notification  n-1
account       alice
title         Hello
accepted      2026-11-23 04:05:06 +00:00
expires       2026-11-24 04:05:06 +00:00
state         acked

DEVICE  STATE  ATTEMPTS  PUSHED
phone   acked  2         yes

TIME          AFTER    EVENT        DEVICE  ATTEMPT  DETAIL
04:05:06.123  +0.000s  accepted
04:05:06.124  +0.001s  published    phone   1
04:05:09.124  +3.001s  ack_timeout  phone   1        no PUBACK within 3s
06:06:07.000  +2h1m0s  received     phone   2        late�[2J

Received by phone 2.0 h after acceptance, over the channel
`, "")
	if got := a.requests()[0]; got.uri != "/v1/notifications/n%2F1" {
		t.Errorf("asked for %s", got.uri)
	}
	got := command(t, a.environ(), "", "timeline", "n-1", "--json")
	if got.code != 0 || !strings.HasPrefix(got.stdout, "{\n  \"id\": \"n-1\",\n") {
		t.Errorf("got %+v", got)
	}
}

func TestDevices(t *testing.T) {
	const up = `{"device":"phone","account":"alice","apns":{"token":"ab","topic":"com.example.app","environment":"sandbox","registered_at":"2026-11-23T04:05:06Z"},"registrations":[{"server":"apns","kind":"alert","environment":"sandbox"}],"app":"foreground","channel":{"state":"up","since":"2020-01-01T00:00:00Z","last_heartbeat":"2020-01-01T00:00:00Z","keepalive":60,"remote":"10.0.0.1:5"},"outstanding":2,"later":"kept"}`
	const down = `{"device":"tablet","account":"bob","channel":{"state":"down"},"outstanding":0}`
	a := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.RequestURI() {
		case "/v1/devices":
			answer(200, `{"devices":[`+up+`],"next":"a b"}`)(w, r)
		case "/v1/devices?cursor=a+b":
			answer(200, `{"devices":[`+down+`]}`)(w, r)
		case "/v1/accounts/a%2Fb/devices":
			answer(200, `{"devices":[]}`)(w, r)
		default:
			answer(404, `{"detail":"no such page"}`)(w, r)
		}
	})
	got := command(t, a.environ(), "", "devices")
	lines := strings.Split(got.stdout, "\n")
	if got.code != 0 || len(lines) != 4 {
		t.Fatalf("got %+v", got)
	}
	for i, want := range []string{
		"ACCOUNT DEVICE CHANNEL SINCE HEARTBEAT KEEPALIVE APP PUSH OUTSTANDING REMOTE",
		"alice phone up AGO AGO 1m0s foreground apns sandbox 2 10.0.0.1:5",
		"bob tablet down - - - - - 0 -",
	} {
		line := strings.Join(strings.Fields(lines[i]), " ")
		if i == 1 {
			f := strings.Fields(lines[i])
			if !strings.HasSuffix(f[3], "d") || f[4] != "ago" {
				t.Errorf("since: %q", lines[i])
			}
			line = strings.Join(slices.Replace(slices.Replace(f, 5, 7, "AGO"), 3, 5, "AGO"), " ")
		}
		if line != want {
			t.Errorf("got  %s\nwant %s", line, want)
		}
	}
	got = command(t, a.environ(), "", "devices", "--json")
	if got.code != 0 || !strings.Contains(got.stdout, `"later": "kept"`) || !strings.Contains(got.stdout, "tablet") {
		t.Errorf("got %+v", got)
	}
	check(t, command(t, a.environ(), "", "devices", "a/b"), 0, "no devices: one is known from its first subscription to its notifications topic, its first push token, or a PUT\n", "")
	check(t, command(t, a.environ(), "", "devices", "a/b", "--json"), 0, "{\n  \"devices\": []\n}\n", "")
}

// TestWatch loses its first stream, and goes on after the last event it has seen.
func TestWatch(t *testing.T) {
	var streams atomic.Int32
	lastIDs := make(chan string, 2)
	a := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
		lastIDs <- r.Header.Get("Last-Event-ID")
		if streams.Add(1) == 1 {
			fmt.Fprint(w, ": hello\n\nid: 7\nevent: published\ndata: {\"time\":\"2026-11-23T04:05:06.124Z\",\"event\":\"published\",\n"+
				"data: \"id\":\"n-1\",\"account\":\"alice\",\"device\":\"phone\",\"attempt\":1}\n\n"+
				"data: {\"time\":\"2026-11-23T04:05:06.2Z\",\"event\":\"cut off\"")
			return
		}
		fmt.Fprint(w, "id: 8\r\ndata: {\"time\":\"2026-11-23T04:05:07Z\",\"event\":\"received\",\"id\":\"n-1\",\"account\":\"alice\",\"detail\":\"late\"}\r\n\r\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	s := start(t, nil, a.environ(), "watch", "--account", "alice", "--device", "phone", "--id", "n-1")
	s.out.until(t, "late")
	s.cancel()
	if code := expect(t, "the end", s.code); code != 0 {
		t.Errorf("exit code %d", code)
	}
	want := "04:05:06.124  published         alice         phone         n-1  attempt 1\n" +
		"04:05:07.000  received          alice         -             n-1  late\n"
	if got := s.out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if errs := s.errs.String(); !strings.Contains(errs, "the connection is lost") || !strings.Contains(errs, "connected again") {
		t.Errorf("stderr: %s", errs)
	}
	if first, second := <-lastIDs, <-lastIDs; first != "" || second != "7" {
		t.Errorf("Last-Event-ID: %q, %q", first, second)
	}
	q, err := url.Parse(a.requests()[0].uri)
	if err != nil || q.RawQuery != "account=alice&device=phone&id=n-1" {
		t.Errorf("asked for %s", a.requests()[0].uri)
	}
}

func TestWatchJSON(t *testing.T) {
	a := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "data: {\"event\":\"published\"}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	s := start(t, nil, a.environ(), "watch", "--json")
	if got := s.out.until(t, "\n"); got != "{\"event\":\"published\"}\n" {
		t.Errorf("got %q", got)
	}
	s.cancel()
	expect(t, "the end", s.code)
}

// TestWatchRevoked: a watch whose token has been revoked ends. Each attempt would count as a
// failed login of its address.
func TestWatchRevoked(t *testing.T) {
	var streams atomic.Int32
	a := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
		switch streams.Add(1) {
		case 1:
			fmt.Fprint(w, "data: {\"event\":\"published\"}\n\n")
		case 2: // a proxy, while the server starts again
			answer(503, `{"detail":"starting"}`)(w, r)
		default:
			answer(401, `{"detail":"unknown token"}`)(w, r)
		}
	})
	s := start(t, nil, a.environ(), "watch", "--json")
	if code := expect(t, "the end", s.code); code != 1 || !strings.Contains(s.errs.String(), "unknown token (HTTP 401)") || streams.Load() != 3 {
		t.Errorf("exit code %d after %d streams: %s", code, streams.Load(), s.errs)
	}
}

// A watch that could not begin is a failure, and not tried for ever.
func TestWatchRefused(t *testing.T) {
	a := serveAPI(t, answer(403, `{"detail":"role device may not"}`))
	check(t, command(t, a.environ(), "", "watch"), 1, "", "heartline: role device may not (HTTP 403)\n")

	// An empty filter, as of a variable that is not set, is sent: the server refuses it.
	check(t, command(t, a.environ(), "", "watch", "--account", "", "--device", "phone"), 1, "", "heartline: role device may not (HTTP 403)\n")
	if got := a.requests()[1].uri; got != "/v1/events?account=&device=phone" {
		t.Errorf("asked for %s", got)
	}
}

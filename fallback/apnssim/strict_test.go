package apnssim

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func headers(pairs ...string) func(*http.Request) {
	return func(q *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			q.Header.Set(pairs[i], pairs[i+1])
		}
	}
}

func both(edits ...func(*http.Request)) func(*http.Request) {
	return func(q *http.Request) {
		for _, edit := range edits {
			edit(q)
		}
	}
}

// TestPushTypes: topic and payload are those of the push type.
func TestPushTypes(t *testing.T) {
	s := start(t, Options{})
	c := client(t, s)
	const alert = `{"aps":{"alert":"x"}}`
	for i, row := range []struct {
		kind, topic, payload string
		want                 string
	}{
		{"alert", "com.a", alert, "200 "},
		{"alert", "com.a", `{"aps":{"badge":0}}`, "200 "},
		{"alert", "com.a", `{"aps":{"content-available":1}}`, "400 InvalidPushType"},
		{"alert", "com.a", `{"aps":7}`, "400 InvalidPushType"},
		{"alert", "com.a.voip", alert, "400 BadTopic"},
		{"background", "com.a", `{"aps":{"content-available":1}}`, "200 "},
		{"background", "com.a", alert, "400 InvalidPushType"},
		{"background", "com.a", `{"aps":{"content-available":1,"badge":3}}`, "400 InvalidPushType"},
		{"voip", "com.a.voip", `{"x":1}`, "200 "},
		{"voip", "com.a", `{"x":1}`, "400 BadTopic"},
		{"location", "com.a.location-query", `{}`, "200 "},
		{"liveactivity", "com.a.push-type.liveactivity", `{"aps":{"timestamp":1,"event":"update","content-state":{}}}`, "200 "},
		{"liveactivity", "com.a.push-type.liveactivity", alert, "400 InvalidPushType"},
		{"liveactivity", "com.a", alert, "400 BadTopic"},
		{"pushtotalk", "com.a.voip-ptt", `{"aps":{}}`, "200 "},
		{"widgets", "com.a.push-type.widgets", `{"aps":{"content-changed":true}}`, "200 "},
	} {
		a := post(t, s, c, both(path(fmt.Sprintf("/3/device/%04x", i)), headers("apns-push-type", row.kind, "apns-topic", row.topic, "apns-priority", "5"), body(row.payload)))
		if got := fmt.Sprintf("%d %s", a.status, a.reason); got != row.want {
			t.Errorf("%s to %s: %s: got %s, want %s", row.kind, row.topic, row.payload, got, row.want)
		}
	}
}

// TestTokenOfOneTopic: a token is of the kind of the first topic that it was used with. A request
// that is refused, or gets no answer, says nothing about it.
func TestTokenOfOneTopic(t *testing.T) {
	s := start(t, Options{})
	c := client(t, s)
	s.Script(Script{Token: "00cc", Action: ActionReset, Times: 1})
	const alert, background, voip = `{"aps":{"alert":"x"}}`, `{"aps":{"content-available":1}}`, `{"x":1}`
	if a, err := tryPost(t, s, c, both(path("/3/device/00cc"), headers("apns-push-type", "voip", "apns-topic", "com.a.voip"), body(voip))); err == nil {
		t.Errorf("answered %d", a.status)
	}
	for i, row := range []struct{ token, kind, topic, payload, want string }{
		{"00aa", "voip", "com.a.voip", "{", "400 PayloadEmpty"},
		{"00aa", "alert", "com.a", alert, "200 "},
		{"00AA", "voip", "com.a.voip", voip, "400 DeviceTokenNotForTopic"},
		{"00aa", "background", "com.a", background, "200 "},
		{"00bb", "voip", "com.a.voip", voip, "200 "},
		{"00bb", "pushtotalk", "com.a.voip-ptt", background, "400 DeviceTokenNotForTopic"},
		{"00bb", "alert", "com.a", alert, "400 DeviceTokenNotForTopic"},
		{"00bb", "voip", "com.a.voip", voip, "200 "},
		{"00cc", "alert", "com.a", alert, "200 "},
	} {
		a := post(t, s, c, both(path("/3/device/"+row.token), headers("apns-push-type", row.kind, "apns-topic", row.topic, "apns-priority", "5"), body(row.payload)))
		if got := fmt.Sprintf("%d %s", a.status, a.reason); got != row.want {
			t.Errorf("%d: %s to %s: got %s, want %s", i, row.kind, row.token, got, row.want)
		}
	}
}

// TestTokenLimit: too many requests for one token are refused, others are not.
func TestTokenLimit(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	s := start(t, Options{TokenLimit: 2, TokenWindow: time.Minute, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	c := client(t, s)
	var got []int
	for range 4 {
		got = append(got, post(t, s, c, nil).status)
	}
	got = append(got, post(t, s, c, path("/3/device/00bb")).status)
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	got = append(got, post(t, s, c, nil).status)
	if !slices.Equal(got, []int{200, 200, 429, 429, 200, 200}) {
		t.Errorf("%v", got)
	}
}

// TestPhoneOff: of the pushes that come while it is off it shows the last one.
func TestPhoneOff(t *testing.T) {
	s := start(t, Options{})
	c := client(t, s)
	id := func(id string) func(*http.Request) { return header("apns-collapse-id", id) }
	post(t, s, c, id("before"))
	s.SwitchDevice("00AA", false)
	for _, x := range []string{"one", "two", "three"} {
		post(t, s, c, id(x))
	}
	post(t, s, c, both(id("now or never"), header("apns-expiration", "0")))
	if got := s.Shown("00aa"); len(got) != 1 {
		t.Errorf("a phone that is off shows %d", len(got))
	}
	s.SwitchDevice("00aa", true)
	var shown []string
	for _, r := range s.Shown("00aa") {
		shown = append(shown, r.CollapseID)
	}
	if !slices.Equal(shown, []string{"before", "three"}) {
		t.Errorf("%v", shown)
	}
	// One that has expired meanwhile is not shown.
	s.SwitchDevice("00aa", false)
	post(t, s, c, both(id("old"), header("apns-expiration", fmt.Sprint(time.Now().Add(-time.Hour).Unix()))))
	s.SwitchDevice("00aa", true)
	if got := s.Shown("00aa"); len(got) != 2 {
		t.Errorf("%+v", got)
	}
}

// TestReorder: requests that are under way together may change places.
func TestReorder(t *testing.T) {
	s := start(t, Options{Reorder: 20 * time.Millisecond, NoFirstStream: true})
	c := client(t, s)
	post(t, s, c, nil)
	for range 20 {
		s.Clear()
		var sent sync.WaitGroup
		for i := range 10 {
			sent.Go(func() { post(t, s, c, header("apns-collapse-id", fmt.Sprint(i))) })
		}
		sent.Wait()
		var came, shown []string
		for _, r := range s.Received() {
			came = append(came, r.CollapseID)
		}
		for _, r := range s.Shown("00aa") {
			shown = append(shown, r.CollapseID)
		}
		if len(shown) == 10 && !slices.Equal(came, shown) {
			return
		}
	}
	t.Error("never reordered")
}

// TestControlIsNotForOtherSites: a web page elsewhere can neither script nor read it.
func TestControlIsNotForOtherSites(t *testing.T) {
	s := start(t, Options{})
	for name, row := range map[string]struct {
		host, origin string
		want         int
	}{
		"by address":    {"127.0.0.1:2198", "", 204},
		"as localhost":  {"localhost:2198", "", 204},
		"its own page":  {"127.0.0.1:2198", "http://127.0.0.1:2198", 204},
		"another site":  {"127.0.0.1:2198", "https://example.com", 403},
		"a null origin": {"127.0.0.1:2198", "null", 403},
		"DNS rebinding": {"evil.example:2198", "", 403},
	} {
		for _, call := range []string{"/goaway", "/limit", "/device"} {
			q := httptest.NewRequest(http.MethodPost, call, strings.NewReader(map[string]string{"/limit": `{"requests":0}`, "/device": `{"token":"aa","off":false}`}[call]))
			q.Host = row.host
			if row.origin != "" {
				q.Header.Set("Origin", row.origin)
			}
			w := httptest.NewRecorder()
			s.Control().ServeHTTP(w, q)
			if w.Code != row.want {
				t.Errorf("%s %s: %d, want %d: %s", name, call, w.Code, row.want, w.Body)
			}
		}
	}
}

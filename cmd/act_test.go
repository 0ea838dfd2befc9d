package cmd

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/wire"
)

func TestActs(t *testing.T) {
	for _, tt := range []struct {
		args  []string
		stdin string
		want  request
		out   string
	}{
		{[]string{"cancel", "n/1"}, "", request{"DELETE", "/v1/notifications/n%2F1", "", ""}, "n/1  cancelled\n"},
		{[]string{"cancel", "n-1", "--erase"}, "", request{"DELETE", "/v1/notifications/n-1?erase=true", "", ""}, "n-1  cancelled and erased\n"},
		{[]string{"dismiss", "n/1"}, "", request{"POST", "/v1/notifications/n%2F1/dismissal", "", ""}, "n/1  dismissed\n"},
		{[]string{"devices", "put", "+49/ann", "phone"}, "", request{"PUT", "/v1/accounts/+49%2Fann/devices/phone", "", ""}, "phone  registered for +49/ann\n"},
		{[]string{"devices", "put", "alice", "phone", "--registration", "@-"}, `{"apns":null}`, request{"PUT", "/v1/accounts/alice/devices/phone", "", `{"apns":null}`}, "phone  registered for alice\n"},
		{[]string{"devices", "forget", "alice", "phone"}, "", request{"DELETE", "/v1/accounts/alice/devices/phone", "", ""}, "phone  forgotten\n"},
		{[]string{"devices", "forget", "alice", ".."}, "", request{"DELETE", "/v1/accounts/alice/devices/%2E%2E", "", ""}, "..  forgotten\n"},
		{[]string{"devices", "disconnect", "phone"}, "", request{"POST", "/v1/devices/phone/disconnect", "", ""}, "phone  disconnected\n"},
	} {
		a := serveAPI(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		check(t, command(t, a.environ(), tt.stdin, tt.args...), 0, tt.out, "")
		if got := a.requests(); !slices.Equal(got, []request{tt.want}) {
			t.Errorf("sent %q, want %q", got, tt.want)
		}
	}
	a := serveAPI(t, answer(404, `{"detail":"there is no notification \"x\"","code":"unknown_notification"}`))
	check(t, command(t, a.environ(), "", "cancel", "x"), 1, "", "heartline: there is no notification \"x\" (HTTP 404)\n")
	got := command(t, nil, "", "devices", "forget", "alice")
	if got.code != 2 || !strings.HasPrefix(got.stderr, "heartline: give 2 arguments: heartline devices forget ACCOUNT DEVICE\n") {
		t.Errorf("got %+v", got)
	}
}

func TestCAFile(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, command(t, nil, "", "cancel", "n", "--server", server.URL, "--ca-file", file), 0, "n  cancelled\n", "")
	if got := command(t, nil, "", "cancel", "n", "--server", server.URL); got.code != 1 || !strings.Contains(got.stderr, "certificate") {
		t.Errorf("without the CA: %+v", got)
	}
	if got := command(t, nil, "", "cancel", "n", "--ca-file", "missing.pem"); got.code != 2 || !strings.Contains(got.stderr, "--ca-file") {
		t.Errorf("a CA file that is missing: %+v", got)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestVerdict(t *testing.T) {
	p := newProgram(IO{})
	p.local = time.UTC
	at := func(s, event, detail string) wire.TimelineEvent {
		return wire.TimelineEvent{Time: "2026-11-23T14:" + s + "Z", Event: event, Device: "phone", Detail: detail}
	}
	for _, tt := range []struct {
		ack, state string
		timeline   []wire.TimelineEvent
		want       string
	}{
		{"displayed", "acked", []wire.TimelineEvent{at("00:00.1", "published", ""), at("00:00.2", "received", ""), at("00:00.4", "displayed", "")}, "Shown on phone 0.4 s after acceptance, over the channel"},
		{"received", "acked", []wire.TimelineEvent{at("00:03", "push_requested", ""), at("00:04", "pushed", "200"), at("05:00", "received", "")}, "Received by phone 5 min after acceptance, by push"},
		{"received", "acked", []wire.TimelineEvent{at("00:01", "published", ""), at("00:04", "pushed", "200"), at("00:07", "received", "late")}, "Received by phone 7.0 s after acceptance, over the channel or by push"},
		{"received", "acked", []wire.TimelineEvent{at("00:04", "pushed", "200"), at("05:00", "redelivered", ""), at("05:01", "received", "late"), at("06:00", "pushed", "")}, "Received by phone 5 min after acceptance, over the channel"},
		{"received", "waiting", []wire.TimelineEvent{at("02:00", "pushed", "200"), at("05:00", "waiting", "offline")}, "Waiting for phone since 14:05:00, a push was accepted at 14:02:00"},
		{"received", "waiting", []wire.TimelineEvent{at("05:00", "waiting", "no registration")}, "Waiting for phone since 14:05:00 (no registration)"},
		{"received", "published", []wire.TimelineEvent{at("05:00", "published", "")}, "Published to phone at 14:05:00, not acknowledged yet"},
		{"received", "pushing", []wire.TimelineEvent{at("05:00", "push_retry", "503 in 2s")}, "Being pushed to phone: 503 in 2s"},
		{"received", "pushed", []wire.TimelineEvent{at("05:00", "pushed", "200")}, "Pushed to phone at 14:05:00, not acknowledged yet"},
		{"received", "cancelled", []wire.TimelineEvent{at("05:00", "cancelled", "signed out")}, "Cancelled for phone (signed out)"},
		{"received", "pending", nil, "Accepted for phone, not tried yet"},
	} {
		n := &wire.NotificationView{Ack: tt.ack, AcceptedAt: "2026-11-23T14:00:00Z", Timeline: tt.timeline, Deliveries: []wire.DeliveryView{{Device: "phone", State: tt.state}}}
		if got := plain(wire.Verdict(n, p.minute)); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	if got := wire.Verdict(&wire.NotificationView{}, p.minute); got != "Waiting: the account has no device yet" {
		t.Error(got)
	}
}

// TestWideCharacters: columns stay aligned with characters that take two cells.
func TestWideCharacters(t *testing.T) {
	var out strings.Builder
	p := newProgram(IO{Stdout: &out})
	p.table([][]string{{"A", "B"}, {"通知", "x"}, {"e\u0301", "y"}, {"abcd", "z"}})
	if want := "A     B\n通知  x\ne\u0301     y\nabcd  z\n"; out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

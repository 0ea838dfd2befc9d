package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/wire"
)

// receiver is a backend that takes events.
type receiver struct {
	*testing.T
	server *httptest.Server

	mu      sync.Mutex
	answer  func(w http.ResponseWriter, r *http.Request) bool // false: it has answered otherwise
	ids     map[string]string                                 // webhook-id: notification and event
	events  map[string][]string                               // of each notification, as they first came
	repeats int
	changed chan struct{}
}

func newReceiver(t *testing.T) *receiver {
	v := &receiver{T: t, ids: map[string]string{}, events: map[string][]string{}, changed: make(chan struct{})}
	v.server = httptest.NewServer(v)
	t.Cleanup(v.server.Close)
	return v
}

func (v *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	v.mu.Lock()
	answer := v.answer
	v.mu.Unlock()
	if answer != nil && !answer(w, r) {
		return
	}
	var m struct {
		Type string
		Data wire.StreamEvent
	}
	if err := json.Unmarshal(body, &m); err != nil || !strings.HasPrefix(r.Header.Get("webhook-signature"), "v1,") {
		v.Errorf("%s: %v", body, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	id, what := r.Header.Get("webhook-id"), m.Data.ID+" "+m.Type
	if known, ok := v.ids[id]; ok {
		v.repeats++
		if known != what {
			v.Errorf("%s is of %s and of %s", id, known, what)
		}
		return
	}
	v.ids[id] = what
	v.events[m.Data.ID] = append(v.events[m.Data.ID], m.Type)
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *receiver) answers(fn func(w http.ResponseWriter, r *http.Request) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answer = fn
}

// await returns when the events of a notification hold these, in this order.
func (v *receiver) await(id string, want []string) {
	v.Helper()
	late := time.After(2 * patience)
	for {
		v.mu.Lock()
		rest := want
		for _, e := range v.events[id] {
			if len(rest) > 0 && rest[0] == e {
				rest = rest[1:]
			}
		}
		got, changed := slices.Clone(v.events[id]), v.changed
		v.mu.Unlock()
		if len(rest) == 0 {
			return
		}
		select {
		case <-changed:
		case <-late:
			v.Fatalf("of %s came %v, want %v", id, got, want)
		}
	}
}

// webhookConfig writes a configuration with one webhook.
func webhookConfig(t *testing.T, url, more string) (file string) {
	t.Helper()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	file = filepath.Join(dir, "heartline.yaml")
	text := fmt.Sprintf("receipts: {webhooks: [{name: backend, url: %q, secret_file: %q}]}\n%s", url, secret, more)
	for name, content := range map[string]string{secret: credentials.NewWebhookSecret() + "\n", file: text} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// TestWebhooksOverKill: while Heartline is killed again and again, and the receiver
// answers 500, cuts connections, redirects and is slow, each event of each accepted
// notification arrives, in order, and again only under the same webhook-id.
func TestWebhooksOverKill(t *testing.T) {
	t.Parallel()
	v := newReceiver(t)
	v.answers(func(w http.ResponseWriter, r *http.Request) bool {
		switch rand.IntN(12) {
		case 0:
			http.Error(w, "out of order", http.StatusInternalServerError)
			return false
		case 1:
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return false
		case 2:
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
				_ = c.Close()
			}
			return rand.IntN(2) == 0 // it may have taken the event
		case 3:
			time.Sleep(20 * time.Millisecond) // a slow receiver
		}
		return true
	})
	s := serve(t, "HEARTLINE_CONFIG="+webhookConfig(t, v.server.URL, ""), "HEARTLINE_DELIVERY_MAX_OUTSTANDING_PER_DEVICE=100000")
	accounts := []string{"alice", "bob"}
	for _, a := range accounts {
		s.register(a, a+"-phone", deviceToken(1+len(a)))
	}
	got := newAccepted()
	for round := range 3 {
		busy := load(s, round, 4, accounts, got)
		<-got.any
		time.Sleep(time.Duration(100+rand.IntN(300)) * time.Millisecond) // the kill comes at any moment
		s.kill()
		busy.Wait()
		s.start()
	}
	v.answers(nil) // then it works, and nobody waits for the next attempt in 5 min
	if r := s.heartline("webhooks", "retry", "backend"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	for _, ids := range got.ids {
		for _, id := range ids {
			v.await(id, kinds(s.notification(id)))
		}
	}
	v.mu.Lock()
	t.Logf("%d notifications, %d events, %d again", got.n, len(v.ids), v.repeats)
	v.mu.Unlock()
}

// TestWebhooksReload: a webhook is added, moved and refused at a reload; 410 disables
// one until it is retried.
func TestWebhooksReload(t *testing.T) {
	t.Parallel()
	v := newReceiver(t)
	file := webhookConfig(t, v.server.URL, "")
	with, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("log: {level: info}\n"))
	s := serve(t, "HEARTLINE_CONFIG="+file)
	s.register("alice", "phone", deviceToken(1))
	s.notify(`{"account":"alice","title":"before","id":"before"}`)
	if r := s.heartline("webhooks", "list"); r.code != 0 || !strings.HasPrefix(r.out, "no webhooks") {
		t.Errorf("%+v", r)
	}
	write(with)
	s.signal(t, syscall.SIGHUP)
	s.stderr.until(t, `"msg":"configuration reloaded","changed_since_start":"receipts.webhooks"`)
	s.notify(`{"account":"alice","title":"after","id":"after"}`)
	v.await("after", []string{"accepted"})
	v.mu.Lock()
	if n := len(v.events["before"]); n > 0 && slices.Contains(v.events["before"], "accepted") {
		t.Errorf("a new webhook began before its time: %v", v.events)
	}
	v.mu.Unlock()

	// Two mistakes are both named, and the webhook stays.
	write(bytes.Replace(with, []byte("name: backend"), []byte("name: backend, events: [acked], timeout: 1h"), 1))
	status, body := s.call(http.MethodPost, "/v1/reload", "")
	for _, part := range []string{`"location":"receipts.webhooks[0].events"`, `"location":"receipts.webhooks[0].timeout"`} {
		if status != http.StatusUnprocessableEntity || !strings.Contains(string(body), part) {
			t.Errorf("got %d %s, want %s in it", status, body, part)
		}
	}
	v.answers(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusGone); return false })
	s.notify(`{"account":"alice","title":"gone","id":"gone"}`)
	s.stderr.until(t, "webhook disabled: its receiver answered 410 Gone")
	if r := s.heartline("webhooks", "list"); r.code != 0 || !strings.Contains(r.out, "disabled") || !strings.Contains(r.out, "answered 410") {
		t.Errorf("%+v", r)
	}
	if r := s.heartline("webhooks", "test", "backend"); r.code != 1 || !strings.Contains(r.errors, "answered 410") {
		t.Errorf("%+v", r)
	}
	v.answers(nil)
	if r := s.heartline("webhooks", "retry", "backend"); r.code != 0 || !strings.Contains(r.out, "0 parked events") {
		t.Errorf("%+v", r)
	}
	v.await("gone", []string{"accepted"})
	if r := s.heartline("webhooks", "parked", "backend"); r.code != 0 || !strings.HasPrefix(r.out, "nothing is parked") {
		t.Errorf("%+v", r)
	}
	if r := s.heartline("webhooks", "retry", "other"); r.code == 0 || !strings.Contains(r.errors, `there is no webhook "other"`) {
		t.Errorf("%+v", r)
	}
	if _, metrics := s.call(http.MethodGet, "/metrics", ""); !strings.Contains(string(metrics), `heartline_webhook_up{webhook="backend"} 1`) {
		t.Error("no metric of the webhook")
	}
}

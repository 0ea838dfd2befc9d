package receipts_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = bytes.Repeat([]byte("s"), 32)

const (
	history  = time.Hour
	maxAside = 300
)

// world is a store with events, and a receiver that answers as it is told. It lives in a
// synctest bubble.
type world struct {
	*testing.T
	outbox *store.Outbox
	core   *delivery.Core
	tail   *receipts.Tail
	r      *receipts.Receipts
	state  *state
	hold   *receipts.Hold
	hooks  []receipts.Webhook
	pause  time.Duration

	clock   func() time.Time // of the events, where it is not time.Now
	number  uint64
	damaged atomic.Bool // no notification can be made out

	mu     sync.Mutex
	answer func(m received) (int, http.Header, error)
	got    []received // taken with 2xx
	asked  []received
}

// reading is a Core that cannot make out a notification while damaged is set.
type reading struct {
	*delivery.Core
	damaged *atomic.Bool
}

func (r reading) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	if r.damaged.Load() {
		return nil, delivery.ErrDamaged
	}
	return r.Core.Notification(seq)
}

// received is one request.
type received struct {
	id, kind, notification string
	host                   string // that was asked
	at                     time.Time
	data                   map[string]any
}

// state is a store.State that survives its Receipts.
type state struct {
	mu     sync.Mutex
	values map[string][]byte
	fails  bool
}

var errState = errors.New("the disk is full")

func (s *state) ScanState(prefix string, fn func(string, []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.values {
		if strings.HasPrefix(k, prefix) {
			if err := fn(k, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *state) ApplyState(changes []store.StateChange) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails {
		return errState
	}
	for _, c := range changes {
		switch {
		case !c.Remove:
			s.values[c.Key] = bytes.Clone(c.Value)
		case !c.Prefix:
			delete(s.values, c.Key)
		default:
			maps.DeleteFunc(s.values, func(k string, _ []byte) bool { return strings.HasPrefix(k, c.Key) })
		}
	}
	return nil
}

func (s *state) copy() *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &state{values: maps.Clone(s.values)}
}

func (s *state) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for k, v := range s.values {
		fmt.Fprintf(&b, "%q %s\n", k, v)
	}
	return b.String()
}

func inWorld(t *testing.T, test func(w *world)) {
	testtool.Bubble(t, func(t *testing.T) { newWorld(t, test) })
}

func newWorld(t *testing.T, test func(w *world)) {
	w := &world{
		T: t, state: &state{values: map[string][]byte{}}, hold: &receipts.Hold{}, pause: 20 * time.Millisecond,
		hooks: []receipts.Webhook{{Name: "backend", URL: "https://backend.example/hook?key=k", Secrets: [][]byte{secret}}},
	}
	var err error
	w.outbox, err = store.New(store.Options{Open: memory.Open, GuardInterval: 100 * time.Hour, History: history, HousekeepingInterval: time.Hour, Unread: w.hold.Oldest})
	if err != nil {
		t.Fatal(err)
	}
	w.core = delivery.New(delivery.Options{}, w.outbox, nil, slog.New(slog.DiscardHandler))
	w.start()
	test(w)
	w.stop()
	if err := errors.Join(w.core.Stop(context.Background()), w.outbox.Close()); err != nil {
		t.Error(err)
	}
}

func (w *world) start() {
	w.Helper()
	w.tail = receipts.NewSlowTail(w.core, w.pause)
	var err error
	w.r, err = receipts.New(receipts.Options{
		Core: reading{w.core, &w.damaged}, Now: w.clock, State: w.state, Tail: w.tail, Hold: w.hold, Retain: 7 * 24 * time.Hour, Agent: "test", Logger: slog.New(slog.DiscardHandler),
	}.WithTransport(w).WithMaxAside(maxAside), w.hooks)
	if err != nil {
		w.Fatal(err)
	}
	w.r.Start()
}

func (w *world) stop() {
	w.r.Stop(context.Background())
	w.tail.Stop()
}

// crash ends the process without a stop: only the state written until now survives.
func (w *world) crash() {
	w.Helper()
	left := w.state.copy()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w.r.Stop(ctx)
	w.tail.Stop()
	w.state = left
	w.start()
}

// commit puts a batch into the store.
func (w *world) commit(b *delivery.Batch) {
	w.Helper()
	done := make(chan error, 1)
	w.outbox.Commit(b, func(err error) { done <- err })
	if err := <-done; err != nil {
		w.Fatal(err)
	}
}

func (w *world) next() uint64 {
	w.number = max(w.number+1, uint64(time.Now().UnixNano()))
	return w.number
}

// notify accepts a notification.
func (w *world) notify(account string) delivery.Seq {
	w.Helper()
	seq := delivery.Seq(w.next())
	w.commit(&delivery.Batch{Accept: []delivery.Acceptance{{Notification: &delivery.Notification{
		Seq: seq, ID: fmt.Sprint("n", seq), Account: account, Title: "t", AcceptedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), Devices: []string{"phone-of-" + account},
	}}}})
	return seq
}

// events adds events to a notification.
func (w *world) events(seq delivery.Seq, kinds ...delivery.EventKind) {
	w.Helper()
	b := &delivery.Batch{}
	for _, kind := range kinds {
		b.Events = append(b.Events, delivery.Event{Seq: seq, Number: w.next(), Time: time.Now(), Kind: kind, Device: "phone"})
	}
	w.commit(b)
}

func (w *world) finish(seq delivery.Seq, account string) {
	w.Helper()
	w.commit(&delivery.Batch{Finish: []delivery.Finish{{Key: delivery.Key{Seq: seq, Device: "phone-of-" + account}, At: time.Now(), State: delivery.StateAcked}}})
}

// RoundTrip implements http.RoundTripper: it is the receiver.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want {
		w.Errorf("signature %s, want %s", r.Header.Get("webhook-signature"), want)
	}
	m := received{id: r.Header.Get("webhook-id"), at: time.Now(), host: r.URL.Host}
	var text struct {
		Type, Timestamp string
		Data            map[string]any
	}
	if err := json.Unmarshal(body, &text); err != nil {
		w.Errorf("%s: %v", body, err)
	}
	m.kind, m.data = text.Type, text.Data
	m.notification, _ = text.Data["id"].(string)
	w.mu.Lock()
	w.asked = append(w.asked, m)
	answer := w.answer
	w.mu.Unlock()
	status, header := 204, http.Header(nil)
	if answer != nil {
		if status, header, err = answer(m); err != nil {
			return nil, err
		}
	}
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	if status/100 == 2 {
		w.mu.Lock()
		w.got = append(w.got, m)
		w.mu.Unlock()
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader("because")), Request: r}, nil
}

func (w *world) answers(fn func(m received) (int, http.Header, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = fn
}

func (w *world) requests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// deliveries returns the events taken, as "notification kind", in the order of their
// first delivery.
func (w *world) deliveries() (all []string, repeats int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := map[string]string{}
	for _, m := range w.got {
		what := m.notification + " " + m.kind
		switch of, known := ids[m.id]; {
		case !known:
			ids[m.id] = what
			all = append(all, what)
		case of != what:
			w.Errorf("%s is of %s and of %s", m.id, of, what)
		default:
			repeats++
		}
	}
	return all, repeats
}

// of returns those of one notification.
func of(all []string, seq delivery.Seq) string {
	var kinds []string
	for _, what := range all {
		if id, kind, _ := strings.Cut(what, " "); id == fmt.Sprint("n", seq) {
			kinds = append(kinds, kind)
		}
	}
	return strings.Join(kinds, " ")
}

// settle lets time pass.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func status(code int) func(received) (int, http.Header, error) {
	return func(received) (int, http.Header, error) { return code, nil, nil }
}

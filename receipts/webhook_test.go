package receipts_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/receipts"
)

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"ann", "ann", true}, {"ann", "anna", false}, {"*", "", true}, {"eu-*", "eu-1", true}, {"eu-*", "us-1", false},
		{"*-test", "a-test", true}, {"a*b*c", "abc", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "acb", false}, {"a*a", "a", false},
	} {
		if got := receipts.Matches(c.pattern, c.text); got != c.want {
			t.Errorf("%q, %q: %v", c.pattern, c.text, got)
		}
	}
}

func TestEventsGoOut(t *testing.T) {
	inWorld(t, func(w *world) {
		a, b := w.notify("ann"), w.notify("bob")
		w.events(a, delivery.EventPublished, delivery.EventReceived)
		w.events(b, delivery.EventPushRequested, delivery.EventPushed)
		settle(time.Second)
		all, repeats := w.deliveries()
		if len(all) != 6 || repeats != 0 || of(all, a) != "accepted published received" || of(all, b) != "accepted push_requested pushed" {
			t.Errorf("%v, %d repeats", all, repeats)
		}
		m := w.got[slices.IndexFunc(w.got, func(m received) bool { return m.data["account"] == "ann" && m.kind == "accepted" })]
		if m.data["account"] != "ann" || m.data["event"] != "accepted" || m.data["time"] == "" || !strings.HasPrefix(m.id, "evt_") {
			t.Errorf("%+v", m)
		}
		s := w.r.Statuses()
		if len(s) != 1 || s[0].State != receipts.StateOK || s[0].Delivered != 6 || s[0].Lag != 0 || s[0].URL != "https://backend.example/hook?..." {
			t.Errorf("%+v", s)
		}
	})
}

func TestFilters(t *testing.T) {
	inWorld(t, func(w *world) {
		w.hooks[0].Events, w.hooks[0].Accounts = []string{"received", "displayed"}, []string{"eu-*", "ann"}
		w.hooks = append(w.hooks, receipts.Webhook{Name: "all", URL: "https://all.example/", Secrets: [][]byte{secret}})
		if err := w.r.Reconfigure(w.Context(), w.hooks, time.Hour); err != nil {
			t.Fatal(err)
		}
		for _, account := range []string{"ann", "bob", "eu-1"} {
			n := w.notify(account)
			w.events(n, delivery.EventPublished, delivery.EventReceived, delivery.EventDisplayed)
		}
		settle(time.Second)
		s := w.r.Statuses()
		if len(s) != 2 || s[0].Name != "all" || s[0].Delivered != 12 || s[1].Delivered != 4 {
			t.Errorf("%+v", s)
		}
	})
}

// TestDownForAMinute: while the receiver is down it is asked seldom. Afterwards it gets
// everything, in order.
func TestDownForAMinute(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(func(received) (int, http.Header, error) { return 0, nil, errors.New("connection refused") })
		var seqs []delivery.Seq
		for range 100 {
			n := w.notify("ann")
			w.events(n, delivery.EventPublished, delivery.EventReceived)
			seqs = append(seqs, n)
			settle(600 * time.Millisecond)
		}
		if n := w.requests(); n > 20 {
			t.Errorf("%d requests in the minute", n)
		}
		if s := w.r.Statuses()[0]; s.State != receipts.StateFailing || s.Lag < 50*time.Second || s.LastError != "connection refused" {
			t.Errorf("%+v", s)
		}
		w.answers(nil)
		settle(31 * time.Second)
		all, _ := w.deliveries()
		if len(all) != 300 {
			t.Fatalf("%d events delivered, want 300", len(all))
		}
		for _, n := range seqs {
			if got := of(all, n); got != "accepted published received" {
				t.Fatalf("%d: %s", n, got)
			}
		}
		if s := w.r.Statuses()[0]; s.State != receipts.StateOK || s.Lag != 0 || s.Deferred != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestCatchUp: a webhook that is behind leaves time to others, a second for each thousand
// events.
func TestCatchUp(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		for range 6000 {
			w.notify("ann")
		}
		time.Sleep(time.Minute)
		w.start()
		began := time.Now()
		for w.r.Statuses()[0].Lag > 0 {
			settle(100 * time.Millisecond)
		}
		if took := time.Since(began); took < 5*time.Second || took > 8*time.Second {
			t.Errorf("6,000 events took %s", took)
		}
		if all, _ := w.deliveries(); len(all) != 6000 {
			t.Errorf("%d events delivered", len(all))
		}
	})
}

// TestOneEventAlone: with nothing else to send, a passing failure does not cost minutes.
func TestOneEventAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(status(500))
		w.notify("ann")
		settle(10 * time.Second)
		w.answers(nil)
		settle(20 * time.Second)
		if all, _ := w.deliveries(); len(all) != 1 {
			t.Errorf("%v", all)
		}
	})
}

// TestPoison: an event that the receiver never takes is retried in the intervals of
// Standard Webhooks while the others go on; its notification's later events wait behind
// it. Then it is parked, and they go on. It is sent again when asked for.
func TestPoison(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.pause = 10 * time.Second
		w.start()
		bad := w.notify("ann")
		w.answers(func(m received) (int, http.Header, error) {
			if m.notification == fmt.Sprint("n", bad) && m.kind == "published" {
				return 400, nil, nil
			}
			return 200, nil, nil
		})
		w.events(bad, delivery.EventPublished, delivery.EventReceived)
		var others int
		for range 100 * 60 { // 100 h
			n := w.notify("bob")
			w.finish(n, "bob")
			others++
			settle(time.Minute)
		}
		all, _ := w.deliveries()
		if got := of(all, bad); got != "accepted received" || len(all) != others+2 {
			t.Errorf("of the bad one %q, %d others of %d", got, len(all)-2, others)
		}
		var attempts []time.Time
		var behind time.Time
		for _, m := range w.asked {
			switch {
			case m.notification == fmt.Sprint("n", bad) && m.kind == "published":
				attempts = append(attempts, m.at)
			case m.notification == fmt.Sprint("n", bad) && m.kind == "received":
				behind = m.at
			}
		}
		if len(attempts) < 10 || len(attempts) > 22 {
			t.Errorf("%d attempts at %v", len(attempts), attempts)
		}
		if last := attempts[len(attempts)-1]; behind.Before(last) {
			t.Errorf("the event behind went out at %v, before the last attempt at %v", behind, last)
		}
		if d := attempts[len(attempts)-1].Sub(attempts[0]); d < 75*time.Hour || d > 84*time.Hour {
			t.Errorf("given up after %v", d)
		}
		parked, err := w.r.Parked("backend", 10)
		if err != nil || len(parked) != 1 || parked[0].Notification != fmt.Sprint("n", bad) || parked[0].Event != "published" || parked[0].Error != "answered 400" {
			t.Fatalf("%+v, %v", parked, err)
		}
		if s := w.r.Statuses()[0]; s.Parked != 1 || s.Deferred != 0 || s.State != receipts.StateOK || s.Lag != 0 {
			t.Errorf("%+v", s)
		}
		if text := w.state.text(); strings.Contains(text, "ann") || strings.Contains(text, "phone") || strings.Contains(text, "because") {
			t.Errorf("the state tells of an account: %s", text)
		}
		w.stop()
		w.start() // it is still there
		w.answers(nil)
		if n, err := w.r.Retry(context.Background(), "backend", []string{"evt_unknown"}); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := w.r.Retry(context.Background(), "backend", []string{parked[0].ID}); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		settle(time.Minute)
		if all, _ := w.deliveries(); of(all, bad) != "accepted received published" {
			t.Errorf("after the retry: %s", of(all, bad))
		}
		if s := w.r.Statuses()[0]; s.Parked != 0 {
			t.Errorf("%+v", s)
		}
		if _, err := w.r.Retry(context.Background(), "other", nil); !errors.Is(err, receipts.ErrUnknownWebhook) {
			t.Error(err)
		}
	})
}

// TestManyPoison: a receiver that refuses every tenth notification for good gets the
// others without delay.
func TestManyPoison(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(func(m received) (int, http.Header, error) {
			if n, _ := m.data["account"].(string); n == "bad" {
				return 422, nil, nil
			}
			return 200, nil, nil
		})
		good := 0
		for i := range 3000 {
			account := "ann"
			if i%10 == 0 {
				account = "bad"
			} else {
				good++
			}
			w.notify(account)
			if i%10 == 9 {
				time.Sleep(200 * time.Millisecond)
			}
		}
		settle(20 * time.Second)
		if all, _ := w.deliveries(); len(all) != good {
			t.Errorf("%d delivered, want %d", len(all), good)
		}
		if n := w.requests() - good; n > 300*6 {
			t.Errorf("%d requests for the 300 refused", n)
		}
	})
}

func TestGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(status(410))
		n := w.notify("ann")
		settle(time.Minute)
		asked := w.requests()
		w.events(n, delivery.EventPublished, delivery.EventReceived)
		settle(time.Hour)
		if s := w.r.Statuses()[0]; s.State != receipts.StateDisabled || s.Reason != "answered 410" || asked == 0 || w.requests() != asked {
			t.Errorf("%+v, %d requests", s, w.requests())
		}
		w.stop()
		w.start()
		settle(time.Hour)
		if s := w.r.Statuses()[0]; s.State != receipts.StateDisabled || w.requests() != asked {
			t.Errorf("after a restart: %+v, %d requests", s, w.requests())
		}
		w.answers(nil)
		if _, err := w.r.Retry(context.Background(), "backend", nil); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		if all, _ := w.deliveries(); of(all, n) != "accepted published received" {
			t.Errorf("%v", all)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	for _, code := range []int{429, 503} {
		inWorld(t, func(w *world) {
			begun := time.Now()
			w.answers(func(received) (int, http.Header, error) { return code, http.Header{"Retry-After": {"600"}}, nil })
			for range 20 {
				w.notify("ann")
			}
			settle(time.Minute)
			asked := w.requests() // those under way at once
			w.answers(nil)
			settle(500 * time.Second)
			if asked > 8 || w.requests() != asked {
				t.Errorf("%d requests, %d after a minute", w.requests(), asked)
			}
			settle(time.Minute)
			if all, _ := w.deliveries(); len(all) != 20 {
				t.Errorf("%d delivered after %v", len(all), time.Since(begun))
			}
		})
	}
}

// TestRetain: events that are too old are dropped, counted, and reported to the receiver when it is
// back. Until then the store keeps it.
func TestRetain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.pause = 10 * time.Second
		w.start()
		w.answers(status(500))
		for range 10 * 6 { // 10 days, six a day
			n := w.notify("ann")
			w.finish(n, "ann")
			settle(4 * time.Hour)
		}
		if s := w.r.Statuses()[0]; s.Dropped < 16 || s.Dropped > 19 {
			t.Errorf("%d dropped, want those of 3 days: %+v", s.Dropped, s)
		}
		w.answers(nil)
		settle(time.Hour)
		told, events := 0, 0
		for _, m := range w.got {
			if m.kind == "gap" {
				told += int(m.data["dropped"].(float64))
			} else {
				events++
			}
		}
		s := w.r.Statuses()[0]
		if int(s.Dropped)+events != 60 || told != int(s.Dropped) || s.Parked != 0 {
			t.Errorf("%d events, told of %d dropped: %+v", events, told, s)
		}
	})
}

// TestHousekeepingWaits: the store keeps what a webhook has not got, and no longer.
func TestHousekeepingWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(status(500))
		n := w.notify("ann")
		w.finish(n, "ann")
		settle(10 * history)
		if _, err := w.outbox.Notification(n); err != nil {
			t.Error("pruned:", err)
		}
		w.answers(nil)
		settle(3 * history)
		if _, err := w.outbox.Notification(n); !errors.Is(err, delivery.ErrNotFound) {
			t.Error("kept:", err)
		}
		if all, _ := w.deliveries(); len(all) != 1 {
			t.Errorf("%v", all)
		}
	})
}

func TestErasedIsNotSent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(status(500))
		a, b := w.notify("ann"), w.notify("bob")
		settle(10 * time.Second)
		w.commit(&delivery.Batch{Erase: []delivery.Seq{a}, Sync: true})
		w.answers(nil)
		settle(time.Minute)
		if all, _ := w.deliveries(); !slices.Equal(all, []string{fmt.Sprint("n", b, " accepted")}) {
			t.Errorf("%v", all)
		}
		if s := w.r.Statuses()[0]; s.Lag != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestCrash: after a crash, events from before the last written position come again,
// under the same ID; nothing is lost.
func TestCrash(t *testing.T) {
	inWorld(t, func(w *world) {
		var seqs []delivery.Seq
		for range 20 {
			for range 5 {
				n := w.notify("ann")
				w.events(n, delivery.EventPublished, delivery.EventReceived)
				seqs = append(seqs, n)
			}
			settle(130 * time.Millisecond)
			w.crash()
		}
		settle(time.Second)
		all, repeats := w.deliveries()
		if len(all) != 300 || repeats == 0 {
			t.Errorf("%d events, %d repeats", len(all), repeats)
		}
		for _, n := range seqs {
			if got := of(all, n); got != "accepted published received" {
				t.Errorf("%d: %s", n, got)
			}
		}
	})
}

// TestStateFails: a position that cannot be written holds nothing up.
func TestStateFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.state.mu.Lock()
		w.state.fails = true
		w.state.mu.Unlock()
		for range 3000 {
			w.notify("ann")
		}
		settle(10 * time.Second)
		if all, _ := w.deliveries(); len(all) != 3000 {
			t.Errorf("%d delivered", len(all))
		}
		w.state.mu.Lock()
		w.state.fails = false
		w.state.mu.Unlock()
		settle(time.Second)
		w.crash()
		settle(time.Second)
		if all, repeats := w.deliveries(); len(all) != 3000 || repeats != 0 {
			t.Errorf("%d delivered, %d again", len(all), repeats)
		}
	})
}

// TestReconfigure: a new webhook begins with the next event, one that stays goes on, one
// that goes is forgotten.
func TestReconfigure(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(status(410))
		w.notify("ann")
		settle(time.Second)
		other := receipts.Webhook{Name: "other", URL: "https://other.example/", Secrets: [][]byte{secret}}
		reconfigure := func(hooks ...receipts.Webhook) {
			t.Helper()
			w.hooks = hooks
			if err := w.r.Reconfigure(w.Context(), hooks, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		reconfigure(w.hooks[0], other)
		settle(time.Minute)
		if s := w.r.Statuses(); len(s) != 2 || s[0].State != receipts.StateDisabled || s[1].Failed != 0 {
			t.Errorf("%+v", s)
		}
		w.answers(nil)
		moved := w.hooks[0]
		moved.URL = "https://moved.example/"
		reconfigure(moved, other)
		settle(time.Minute)
		if s := w.r.Statuses(); s[0].State != receipts.StateOK || s[0].Delivered != 1 || s[1].Delivered != 0 {
			t.Errorf("after the move: %+v", s)
		}
		w.stop() // while down, one is taken out
		w.notify("ann")
		w.hooks = []receipts.Webhook{other}
		w.start()
		settle(time.Second)
		if s := w.r.Statuses(); len(s) != 1 || s[0].Delivered != 1 {
			t.Errorf("after the restart: %+v", s)
		}
		reconfigure(moved, other)
		settle(time.Second)
		if s := w.r.Statuses(); len(s) != 2 || s[0].Delivered != 0 {
			t.Errorf("a webhook that is back: %+v", s)
		}
		reconfigure()
		settle(time.Second)
		if text := w.state.text(); text != "" {
			t.Errorf("left: %s", text)
		}
		if at, held := w.hold.Oldest(); held {
			t.Errorf("held from %v", at)
		}
	})
}

// TestFormerReceiverAnswersLate: an answer that comes after the URL has changed is not about the new
// receiver.
func TestFormerReceiverAnswersLate(t *testing.T) {
	for code, header := range map[int]http.Header{410: nil, 503: {"Retry-After": {"86400"}}, 500: nil} {
		inWorld(t, func(w *world) {
			w.answers(func(m received) (int, http.Header, error) {
				if m.host != "backend.example" {
					return 204, nil, nil
				}
				time.Sleep(10 * time.Second)
				return code, header, nil
			})
			n := w.notify("ann")
			settle(time.Second)
			w.hooks[0].URL = "https://moved.example/"
			if err := w.r.Reconfigure(w.Context(), w.hooks, time.Hour); err != nil {
				t.Fatal(err)
			}
			settle(10 * time.Second)
			later := w.notify("bob")
			settle(time.Second)
			all, _ := w.deliveries()
			if s := w.r.Statuses()[0]; s.State != receipts.StateOK || s.Failed != 0 || of(all, n) != "accepted" || of(all, later) != "accepted" {
				t.Errorf("%d: %+v, %v", code, s, all)
			}
		})
	}
}

// TestGoneAndMovedByARestart: a webhook with another URL is not disabled, as after a reload.
func TestGoneAndMovedByARestart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(status(410))
		n := w.notify("ann")
		settle(time.Second)
		w.stop()
		w.hooks[0].URL = "https://moved.example/"
		w.answers(nil)
		w.start()
		settle(time.Second)
		all, _ := w.deliveries()
		if s := w.r.Statuses()[0]; s.State != receipts.StateOK || of(all, n) != "accepted" {
			t.Errorf("%+v, %v", s, all)
		}
		w.stop()
		w.start()
		settle(time.Second)
		if s := w.r.Statuses()[0]; s.State != receipts.StateOK {
			t.Errorf("after another restart: %+v", s)
		}
	})
}

// TestClockWasAhead: a retry that was planned by a clock that was years ahead is made.
func TestClockWasAhead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.pause = 10 * time.Second
		w.answers(status(400))
		w.start()
		n := w.notify("ann")
		settle(time.Minute)
		w.stop()
		changed := 0
		due := regexp.MustCompile(`"due":"[^"]*"`)
		for k, v := range w.state.values {
			if later := due.ReplaceAll(v, []byte(`"due":"2100-01-01T00:00:00Z"`)); !bytes.Equal(later, v) {
				w.state.values[k] = later
				changed++
			}
		}
		w.answers(nil)
		w.start()
		settle(28 * time.Hour)
		if all, _ := w.deliveries(); changed != 1 || of(all, n) != "accepted" {
			t.Errorf("%d retries, %v", changed, all)
		}
	})
}

// TestClockOfTheStore: an event is as old as the clock says that it was stored by.
func TestClockOfTheStore(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.clock = func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
		w.start()
		n := w.notify("ann")
		settle(time.Second)
		if all, _ := w.deliveries(); of(all, n) != "" || w.r.Statuses()[0].Dropped != 1 {
			t.Errorf("%+v, %v", w.r.Statuses()[0], all)
		}
	})
}

// TestDamagedNotification: its events go out without its ID, and do not hold up the others.
func TestDamagedNotification(t *testing.T) {
	inWorld(t, func(w *world) {
		w.damaged.Store(true)
		w.notify("ann")
		settle(10 * time.Second)
		w.damaged.Store(false)
		if all, _ := w.deliveries(); len(w.got) != 1 || w.got[0].data["account"] != "ann" || w.got[0].data["id"] != nil || w.r.Statuses()[0].Lag != 0 {
			t.Errorf("%+v, %v", w.r.Statuses()[0], all)
		}
	})
}

// TestNarrowed: an event that waits is not sent once the configuration excludes it.
func TestNarrowed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(status(500))
		a, b := w.notify("ann"), w.notify("bob")
		w.events(b, delivery.EventPublished, delivery.EventReceived)
		settle(10 * time.Second)
		w.hooks[0].Accounts, w.hooks[0].Events = []string{"bob"}, []string{"received"}
		if err := w.r.Reconfigure(w.Context(), w.hooks, time.Hour); err != nil {
			t.Fatal(err)
		}
		w.answers(nil)
		settle(time.Minute)
		all, _ := w.deliveries()
		if s := w.r.Statuses()[0]; of(all, a) != "" || of(all, b) != "received" || s.Lag != 0 || s.Dropped != 0 {
			t.Errorf("%+v, %v", s, all)
		}
	})
}

// TestAsideIsBounded: a receiver that refuses too much loses the oldest, and is told.
func TestAsideIsBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(func(m received) (int, http.Header, error) {
			if m.data["account"] == "bad" {
				return 400, nil, nil
			}
			return 200, nil, nil
		})
		for i := range maxAside / 50 {
			for range 100 {
				w.notify("bad")
			}
			for range 100 {
				w.notify(fmt.Sprint("ann", i))
			}
			settle(10 * time.Second)
		}
		settle(15 * time.Minute)
		s := w.r.Statuses()[0]
		if s.Deferred > maxAside || s.Dropped == 0 {
			t.Errorf("%+v", s)
		}
		at := slices.IndexFunc(w.got, func(m received) bool { return m.kind == "gap" })
		if at < 0 || !strings.Contains(fmt.Sprint(w.got[at].data["detail"]), "too many") {
			t.Error("the receiver is not told why")
		}
	})
}

// TestLatestAsideIsDropped: the event that is deferred last is the oldest of too many, and is
// dropped at once. It is not sent any more, also not after a crash.
func TestLatestAsideIsDropped(t *testing.T) {
	for _, crash := range []bool{false, true} {
		inWorld(t, func(w *world) {
			oldest := w.notify("bad")
			var asked atomic.Int32
			w.answers(func(m received) (int, http.Header, error) {
				if m.notification == fmt.Sprint("n", oldest) && asked.Add(1) == 2 {
					time.Sleep(10 * time.Second) // the others are deferred meanwhile
				}
				return 400, nil, nil
			})
			for range maxAside {
				w.notify("bad")
			}
			settle(time.Minute)
			if s := w.r.Statuses()[0]; s.Deferred > maxAside || s.Dropped == 0 || asked.Load() != 2 {
				t.Fatalf("%+v after %d attempts", s, asked.Load())
			}
			if crash {
				w.crash()
			}
			w.answers(nil)
			settle(time.Hour)
			if all, _ := w.deliveries(); of(all, oldest) != "" {
				t.Errorf("crash %v: sent after it was dropped", crash)
			}
		})
	}
}

func TestStop(t *testing.T) {
	inWorld(t, func(w *world) {
		w.answers(func(received) (int, http.Header, error) { time.Sleep(time.Second); return 200, nil, nil })
		w.notify("ann")
		settle(100 * time.Millisecond)
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { w.r.Stop(context.Background()) })
		}
		both.Wait()
		if all, _ := w.deliveries(); len(all) != 1 {
			t.Errorf("the request under way was cut off: %v", all)
		}
		if err := w.r.Reconfigure(w.Context(), nil, 0); !errors.Is(err, delivery.ErrStopped) {
			t.Error(err)
		}
		never, err := receipts.New(receipts.Options{Core: w.core, Tail: w.tail, Retain: time.Hour, Logger: slog.New(slog.DiscardHandler)}, w.hooks)
		if err != nil {
			t.Fatal(err)
		}
		never.Stop(context.Background())
		never.Start()
		never.Stop(context.Background())
	})
}

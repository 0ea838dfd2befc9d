package delivery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// pushedIDs are the IDs of the notifications that the notification server was asked
// for, in order.
func (w *world) pushedIDs() (ids []string) {
	w.Helper()
	synctest.Wait()
	w.apple.mu.Lock()
	defer w.apple.mu.Unlock()
	for _, p := range w.apple.asked {
		n, err := w.store.Notification(p.Seq)
		if err != nil {
			w.Fatal(err)
		}
		ids = append(ids, n.ID)
	}
	return ids
}

// TestPushesKeepTheOrder: to one registration, one at a time, in the order of
// acceptance, over refusals to take one now.
func TestPushesKeepTheOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.script = []delivery.PushResult{
			{Outcome: delivery.PushRetry, RetryAfter: time.Second, Detail: "503"},
			{Outcome: delivery.PushRetry, RetryAfter: time.Second, Detail: "503"},
			accepted,
		}
		var want []string
		for i := range 20 {
			r := delivery.Request{ID: fmt.Sprint("n", i)}
			if i%3 == 1 {
				r.CollapseKey = fmt.Sprint("k", i)
			}
			w.accept(r)
			want = append(want, r.ID)
		}
		time.Sleep(5 * time.Second)
		if got := w.pushedIDs(); !slices.Equal(got, append([]string{"n0", "n0"}, want...)) {
			t.Errorf("pushed %v", got)
		}
	})
}

// TestPushThatKeepsFailing: after three failures the others go on.
func TestPushThatKeepsFailing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		fail := delivery.PushResult{Outcome: delivery.PushRetry, RetryAfter: time.Second, Detail: "500"}
		w.apple.script = []delivery.PushResult{fail, fail, fail, accepted}
		for i := range 3 {
			w.accept(delivery.Request{ID: fmt.Sprint(i)})
		}
		time.Sleep(10 * time.Second)
		if got := w.pushedIDs(); !slices.Equal(got, []string{"0", "0", "0", "1", "2", "0"}) {
			t.Errorf("pushed %v", got)
		}
	})
}

// TestPushThatEndsBeforeItsRecord: the pushes behind it go on.
func TestPushThatEndsBeforeItsRecord(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushRetry, RetryAfter: 5 * time.Second, Detail: "503"}, accepted}
		w.accept(delivery.Request{ID: "1"})
		settle()
		w.accept(delivery.Request{ID: "2"})
		settle()
		release := w.store.hold()
		time.Sleep(6 * time.Second) // 1 is asked for again, but not on record
		settle()
		if err := w.core.AckByID("1", "phone", "a", delivery.AckReceived); err != nil {
			t.Fatal(err)
		}
		release()
		if got := w.pushedIDs(); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("pushed %v", got)
		}
	})
}

// TestNewestOfACollapseKeyIsLast: an older push under way is answered before the
// newer one leaves.
func TestNewestOfACollapseKeyIsLast(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.hold = true
		w.accept(delivery.Request{ID: "open", CollapseKey: "door"})
		synctest.Wait()
		w.accept(delivery.Request{ID: "ajar", CollapseKey: "door"})
		w.accept(delivery.Request{ID: "closed", CollapseKey: "door"})
		if got := w.pushedIDs(); !slices.Equal(got, []string{"open"}) {
			t.Errorf("while one is under way: %v", got)
		}
		w.apple.release()
		if got := w.pushedIDs(); !slices.Equal(got, []string{"open", "closed"}) {
			t.Errorf("pushed %v", got)
		}
	})
}

// TestHighGoesFirst: before normal ones that wait for the same registration, and it
// does not wait for the answer to the one that the pusher has: that may wait there for
// as long as a breaker is open.
func TestHighGoesFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.hold = true
		for i := range 5 {
			w.accept(delivery.Request{ID: fmt.Sprint("chat", i), Urgency: delivery.UrgencyNormal})
		}
		synctest.Wait()
		w.accept(delivery.Request{ID: "fire"})
		w.accept(delivery.Request{ID: "flood"})
		if got := w.pushedIDs(); !slices.Equal(got, []string{"chat0", "fire"}) {
			t.Errorf("while nothing is answered, the pusher has %v", got)
		}
		w.apple.release()
		var chats, urgent []string
		for _, id := range w.pushedIDs() {
			if strings.HasPrefix(id, "chat") {
				chats = append(chats, id)
			} else {
				urgent = append(urgent, id)
			}
		}
		if !slices.Equal(chats, []string{"chat0", "chat1", "chat2", "chat3", "chat4"}) || !slices.Equal(urgent, []string{"fire", "flood"}) {
			t.Errorf("pushed %v and %v", chats, urgent)
		}
	})
}

// TestRestartKeepsTheOrder: of pushes whose answers a stop has hidden, too.
func TestRestartKeepsTheOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushRetry, RetryAfter: time.Minute, Detail: "503"}}
		var want []string
		for i := range 20 {
			w.accept(delivery.Request{ID: fmt.Sprint(i)})
			want = append(want, fmt.Sprint(i))
		}
		synctest.Wait()
		w.apple.script = nil
		w.stop()
		w.apple.asked = nil
		w.start(options())
		time.Sleep(2 * time.Minute)
		if got := w.pushedIDs(); !slices.Equal(got, want) {
			t.Errorf("pushed %v", got)
		}
	})
}

package delivery_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// unread is the badge of a device of account a, from the registry.
func (w *world) unread(id string) int {
	w.Helper()
	synctest.Wait()
	d, err := w.core.Device("a", id)
	if err != nil {
		w.Fatal(err)
	}
	return len(d.Unread)
}

// TestBadgeCounts: each copy carries the number at the time of its sending, over the
// channel, in a push, and in a dismissal.
func TestBadgeCounts(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("tablet", "tt")
		phone := w.up("phone", dismissing)
		for i := range 3 {
			w.accept(delivery.Request{ID: fmt.Sprint(i), BadgeAuto: i != 1})
		}
		synctest.Wait()
		var badges []int
		for _, p := range phone.published() {
			badges = append(badges, p.Unread)
		}
		if !slices.Equal(badges, []int{1, 1, 2}) {
			t.Errorf("published %v", badges)
		}
		badges = nil
		for _, p := range w.apple.asked {
			badges = append(badges, p.Unread())
		}
		if !slices.Equal(badges, []int{2, 2, 2}) {
			t.Errorf("pushed %v: want the number of now", badges)
		}
		phone.ack(0)
		if got := w.unread("phone"); got != 2 {
			t.Errorf("%d after received, want 2", got)
		}
		if err := w.core.AckByID("0", "phone", "a", delivery.AckDisplayed); err != nil {
			t.Fatal(err)
		}
		if got := w.unread("phone"); got != 1 || w.unread("tablet") != 2 {
			t.Errorf("%d after displayed on the phone, want 1; %d on the tablet, want 2", got, w.unread("tablet"))
		}
		if err := w.core.AckByID("2", "tablet", "a", delivery.AckRead); err != nil {
			t.Fatal(err)
		}
		if p := phone.published(); !p[3].Dismissal || !p[3].BadgeAuto || p[3].Unread != 0 {
			t.Errorf("the dismissal %+v, want the number 0", p[3])
		}
		if got := w.unread("tablet"); got != 1 {
			t.Errorf("%d after read on the tablet, want 1", got)
		}
	})
}

// TestBadgeOutlivesHistory: a pruned notification stays counted, until the device says read.
func TestBadgeOutlivesHistory(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("phone", acking)
		n := w.accept(delivery.Request{ID: "n", BadgeAuto: true})
		w.accept(delivery.Request{ID: "other", BadgeAuto: true})
		w.wantState(n, delivery.StateAcked)
		if err := w.store.engine.Apply(&delivery.Batch{Erase: []delivery.Seq{n.Seq}}); err != nil { // as pruning does
			t.Fatal(err)
		}
		w.restart(options())
		if got := w.unread("phone"); got != 2 {
			t.Errorf("%d unread after a restart, want 2", got)
		}
		for range 2 {
			err := w.core.AckByID("n", "phone", "a", delivery.AckRead)
			if got := w.unread("phone"); got != 1 {
				t.Errorf("%d unread after read, want 1; %v", got, err)
			}
		}
		if err := w.core.AckByID("n", "phone", "b", delivery.AckRead); err == nil {
			t.Error("another account's device may say read")
		}
	})
}

// TestBadgeOfARefusedAcceptance is that of before.
func TestBadgeOfARefusedAcceptance(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		w.accept(delivery.Request{BadgeAuto: true})
		w.store.fail(true)
		if _, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t", BadgeAuto: true}); err == nil {
			t.Fatal("accepted by a store that fails")
		}
		w.store.fail(false)
		time.Sleep(10 * time.Second)
		if got := w.unread("phone"); got != 1 {
			t.Errorf("%d unread, want 1", got)
		}
		w.restart(options())
		if got := w.unread("phone"); got != 1 {
			t.Errorf("%d unread after a restart, want 1", got)
		}
	})
}

// TestBadgeOfHeld: a notification that waits for the account's first device counts on it.
func TestBadgeOfHeld(t *testing.T) {
	opts := options()
	opts.HoldUnknown = true
	inWorldWith(t, opts, func(w *world) {
		w.accept(delivery.Request{ID: "gone", BadgeAuto: true})
		w.accept(delivery.Request{BadgeAuto: true})
		w.restart(opts)
		w.accept(delivery.Request{BadgeAuto: true})
		if err := w.core.Cancel(context.Background(), "gone"); err != nil {
			t.Fatal(err)
		}
		w.known("phone", "")
		w.known("tablet", "")
		if got := w.unread("phone"); got != 2 || w.unread("tablet") != 0 {
			t.Errorf("%d and %d unread, want 2 and 0", got, w.unread("tablet"))
		}
		w.restart(opts)
		if got := w.unread("phone"); got != 2 {
			t.Errorf("%d unread after a restart, want 2", got)
		}
	})
}

// TestUnreadModel checks the counter against a set that is kept by hand, under random
// orders of what changes it, with crashes.
func TestUnreadModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		testtool.Bubble(t, func(t *testing.T) {
			w := &world{T: t, apple: &apple{}}
			w.store = newStore(t)
			w.start(options())
			defer func() {
				failure = recover() // it has to leave the bubble, whose goroutines have to end
				w.core.Crash()
				w.store.close()
			}()
			runUnread(rt, w)
		})
		if failure != nil {
			panic(failure)
		}
	})
}

func runUnread(rt *rapid.T, w *world) {
	want := map[string]map[string]bool{"d1": {}, "d2": {}} // unread IDs, by device
	auto := map[string][]string{}                          // devices, by ID of a notification that counts
	channels := map[string]*channel{}
	ids := 0
	w.known("d1", "aa")
	w.known("d2", "")
	device := func(t *rapid.T) string { return rapid.SampledFrom(devices).Draw(t, "device") }
	anID := func(t *rapid.T) string { return fmt.Sprint(rapid.IntRange(1, max(1, ids)).Draw(t, "id")) }
	say := func(t *rapid.T, kind delivery.AckKind) {
		id, dev := anID(t), device(t)
		if w.core.AckByID(id, dev, "a", kind) != nil || kind == delivery.AckReceived {
			return
		}
		for _, d := range auto[id] {
			if d == dev || kind == delivery.AckRead {
				delete(want[d], id)
			}
		}
	}
	rt.Repeat(map[string]func(*rapid.T){
		"accept": func(t *rapid.T) {
			ids++
			r := delivery.Request{
				ID: fmt.Sprint(ids), BadgeAuto: rapid.IntRange(0, 3).Draw(t, "auto") > 0,
				CollapseKey: rapid.SampledFrom([]string{"", "", "k"}).Draw(t, "key"),
				Ack:         rapid.SampledFrom([]delivery.AckKind{delivery.AckReceived, delivery.AckDisplayed}).Draw(t, "ack"),
				TTL:         new(time.Duration(rapid.SampledFrom([]int{0, 5, 100}).Draw(t, "ttl")) * time.Second),
			}
			if rapid.Bool().Draw(t, "one") {
				r.Devices = []string{device(t)}
			}
			n := w.accept(r)
			if n.BadgeAuto {
				auto[n.ID] = n.Devices
				for _, d := range n.Devices {
					want[d][n.ID] = true
				}
			}
		},
		"up": func(t *rapid.T) {
			id := device(t)
			channels[id] = w.up(id, acking, dismissing)
		},
		"down": func(t *rapid.T) {
			if ch := channels[device(t)]; ch != nil {
				ch.presence.Offline("gone")
			}
		},
		"displayed": func(t *rapid.T) { say(t, delivery.AckDisplayed) },
		"read":      func(t *rapid.T) { say(t, delivery.AckRead) },
		"received":  func(t *rapid.T) { say(t, delivery.AckReceived) },
		"dismiss": func(t *rapid.T) {
			if id := anID(t); w.core.Dismiss(context.Background(), id) == nil {
				for _, d := range auto[id] {
					delete(want[d], id)
				}
			}
		},
		"cancel": func(t *rapid.T) {
			if id := anID(t); w.core.Cancel(context.Background(), id) == nil {
				for _, d := range auto[id] {
					delete(want[d], id)
				}
			}
		},
		"sign out": func(t *rapid.T) {
			id := device(t)
			if err := w.core.SignOut(context.Background(), id, "a"); err != nil {
				t.Fatal(err)
			}
			w.known(id, "")
			want[id] = map[string]bool{}
			for n, ds := range auto {
				auto[n] = slices.DeleteFunc(slices.Clone(ds), func(d string) bool { return d == id })
			}
		},
		"time": func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 20).Draw(t, "s")) * time.Second) },
		"crash": func(t *rapid.T) {
			synctest.Wait()
			if err := w.core.Flush(context.Background()); err != nil { // so that nothing is in doubt
				t.Fatal(err)
			}
			w.core.Crash()
			w.store.powerCut(1 << 20)
			w.core = newCore(options(), w.store, w.apple, slog.New(slog.DiscardHandler))
			if err := w.core.Start(); err != nil {
				t.Fatal(err)
			}
			clear(channels)
		},
		"": func(t *rapid.T) {
			synctest.Wait()
			for id, on := range auto {
				v, err := w.core.Get(context.Background(), id)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range v.Deliveries {
					if d.State.Final() && d.State != delivery.StateAcked && slices.Contains(on, d.Device) {
						delete(want[d.Device], id) // any other end
					}
				}
			}
			for d, set := range want {
				if got := w.unread(d); got != len(set) {
					t.Fatalf("%s: %d unread, want %v", d, got, slices.Sorted(maps.Keys(set)))
				}
			}
		},
	})
}

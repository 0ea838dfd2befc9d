package delivery_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// A Core that is abandoned writes nothing any more, answers nobody late and sends no
// push that waited.
func TestAbandon(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "token")
		w.apple.hold = true
		first := w.accept(delivery.Request{})
		synctest.Wait()
		if n := len(w.apple.held); n != 1 {
			t.Fatal("pushes under way:", n)
		}
		waiting := w.accept(delivery.Request{}) // behind the first, to the same registration
		synctest.Wait()
		old := w.core
		old.Crash()
		old.Crash()
		w.start(options())
		synctest.Wait()
		before := w.store.engine.logged.Load()
		w.apple.held[0].answer(delivery.PushResult{Outcome: delivery.PushAccepted, Detail: "200"})
		synctest.Wait()
		if n := w.store.engine.logged.Load(); n != before {
			t.Errorf("an abandoned core wrote %d batches", n-before)
		}
		if n := len(w.apple.held); n != 1 {
			t.Errorf("an abandoned core asked for another push: %d", n)
		}
		if _, err := old.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"}); !errors.Is(err, delivery.ErrStopped) {
			t.Error("accept:", err)
		}
		if err := old.Flush(context.Background()); *shards == 0 && !errors.Is(err, delivery.ErrStopped) {
			t.Error("flush:", err)
		}
		w.apple.mu.Lock()
		w.apple.hold = false
		w.apple.mu.Unlock()
		time.Sleep(time.Minute)
		for _, n := range []*delivery.Notification{first, waiting} { // the successor takes both up
			if v, err := w.core.Get(context.Background(), n.ID); err != nil || !v.Deliveries[0].Pushed {
				t.Errorf("%s: %+v, error %v", n.ID, v, err)
			}
		}
	})
}

// A Core that has stopped counts acks, and publishes nothing more on a channel that the next
// owner of the account has taken up, too.
func TestStoppedPublishesNothing(t *testing.T) {
	opts := options()
	opts.MaxInflight = 1
	inWorldWith(t, opts, func(w *world) {
		w.known("phone", "")
		ch := w.up("phone")
		first, second := w.accept(delivery.Request{}), w.accept(delivery.Request{})
		ch.wantIDs(false, first.ID)
		w.stop()
		ch.ack(0)
		ch.wantIDs(false, first.ID)
		w.flush()
		w.wantState(first, delivery.StateAcked)
		w.wantState(second, delivery.StatePending)
	})
}

// A push that waits is not sent while the Core does not trust itself, and is sent
// once it does again.
func TestPushNeedsTrust(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		w := &world{T: t, apple: &apple{}}
		w.store = newStore(t)
		var lapsed atomic.Bool
		opts := options()
		opts.Trusted = func() error {
			if lapsed.Load() {
				return errors.New("the lease has lapsed")
			}
			return nil
		}
		w.start(opts)
		w.known("phone", "token")
		lapsed.Store(true)
		n := w.accept(delivery.Request{})
		time.Sleep(10 * time.Second)
		if got := len(w.apple.asked); got != 0 {
			t.Errorf("%d pushes were sent without trust", got)
		}
		v, err := w.core.Get(context.Background(), n.ID)
		if err != nil || len(v.Timeline) > 40 {
			t.Errorf("%d lines of timeline in 10 s, error %v", len(v.Timeline), err)
		}
		lapsed.Store(false)
		time.Sleep(2 * time.Second)
		w.wantState(n, delivery.StatePushed)
		w.stop()
		w.store.close()
	})
}

// The background push of a dismissal is not sent either, and is once there is trust again.
func TestDismissalNeedsTrust(t *testing.T) {
	opts := options()
	var lapsed atomic.Bool
	opts.Trusted = func() error {
		if lapsed.Load() {
			return errors.New("the lease has lapsed")
		}
		return nil
	}
	inWorldWith(t, opts, func(w *world) {
		w.known("phone", "token")
		w.accept(delivery.Request{ID: "n"})
		settle()
		w.apple.mu.Lock()
		w.apple.asks, w.apple.asked = true, nil
		w.apple.mu.Unlock()
		lapsed.Store(true)
		if err := w.core.Dismiss(context.Background(), "n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		settle()
		w.apple.mu.Lock()
		if got := len(w.apple.asked); got != 0 {
			t.Errorf("%d pushes were sent without trust", got)
		}
		w.apple.mu.Unlock()
		lapsed.Store(false)
		time.Sleep(time.Hour)
		w.apple.mu.Lock()
		defer w.apple.mu.Unlock()
		if len(w.apple.asked) != 1 || w.apple.asked[0].Dismiss == nil {
			t.Errorf("pushes with trust: %+v", w.apple.asked)
		}
	})
}

// Numbers of a shard keep its remainder, grow, and begin above the floor.
func TestNumbersOfAShard(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		s := newStore(t)
		opts := options()
		opts.Shard = delivery.Shard{Index: 7, Of: 1024}
		opts.Floor = uint64(time.Now().Add(time.Hour).UnixNano())
		opts.Now = func() time.Time { return time.Now().Add(-time.Hour) }
		c := delivery.New(opts, s, nil, slog.New(slog.DiscardHandler))
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.PutDevice(context.Background(), "a", "phone", nil); err != nil {
			t.Fatal(err)
		}
		last := delivery.Seq(opts.Floor)
		for range 5 {
			r, err := c.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"})
			if err != nil {
				t.Fatal(err)
			}
			if seq := r.Notification.Seq; seq%1024 != 7 || seq <= last {
				t.Errorf("%d after %d", seq, last)
			}
			last = r.Notification.Seq
			if seq, ok := delivery.SeqOf(r.Notification.ID); !ok || seq != last {
				t.Errorf("the ID tells %d, want %d", seq, last)
			}
		}
		if err := c.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		s.close()
	})
}

// deaf hears of nothing that other nodes claim.
type deaf struct{}

func (deaf) Ours(string) bool                                      { return true }
func (deaf) Release(context.Context, string, string, string) error { return nil }
func (deaf) Claimed(delivery.Claim)                                {}

// TestClaimUnheard: a node that has not heard that another device has claimed a token
// sends that nothing any more, and takes nothing back when it writes the former holder's
// entry again.
func TestClaimUnheard(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		w := &world{T: t, apple: &apple{hold: true}}
		w.store = newStore(t)
		opts := options()
		opts.Neighbours = deaf{}
		w.core = delivery.New(opts, w.store, w.apple, slog.New(slog.DiscardHandler))
		if err := w.core.Start(); err != nil {
			t.Fatal(err)
		}
		w.known("phone", "aa")
		w.accept(delivery.Request{})
		synctest.Wait()
		current := w.apple.held[0].push.Current
		if r, err := current(); err != nil || r.Token != "aa" {
			t.Fatalf("held: %v %v", r, err)
		}

		claim := apns("aa")
		claim.Claims = true
		done := make(chan error, 1)
		w.store.Commit(&delivery.Batch{PutDevices: []delivery.Device{{ID: "tablet", Account: "b", Registrations: []delivery.Registration{claim}}}, Sync: true}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		voip := apns("cc")
		voip.Kind = "voip"
		if err := w.core.SetRegistration("phone", "a", voip); err != nil { // writes the phone's entry
			t.Fatal(err)
		}
		synctest.Wait()
		if holder, err := w.store.TokenOwner(delivery.ServerAPNs, "aa"); holder != "tablet" {
			t.Errorf("the token is held by %q, %v", holder, err)
		}
		if _, err := current(); !errors.Is(err, delivery.ErrPushNotWanted) {
			t.Errorf("claimed elsewhere: %v", err)
		}
		if got := w.tokens("a", "phone"); len(got) != 1 || got[0] != "cc" {
			t.Errorf("the phone has tokens %v", got)
		}
		w.stop()
		w.store.close()
	})
}

// TestClaimsMeet: a Core hears of another's claim while its own registration of the same is
// still on its way into the store. The later to be written has the token; a device is the
// account's that was first, unless a service gives it to another.
func TestClaimsMeet(t *testing.T) {
	alone := func(t *testing.T, test func(w *world, c *delivery.Core)) {
		testtool.Bubble(t, func(t *testing.T) {
			w := &world{T: t, apple: &apple{hold: true}}
			w.store = newStore(t)
			opts := options()
			opts.Neighbours = deaf{}
			c := delivery.New(opts, w.store, w.apple, slog.New(slog.DiscardHandler))
			w.core = c
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			test(w, c)
			w.stop()
			w.store.close()
		})
	}
	elsewhere := func(w *world, b *delivery.Batch) {
		done := make(chan error, 1)
		b.Sync = true
		w.store.Commit(b, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	claim := apns("aa")
	claim.Claims = true
	tablet := &delivery.Batch{PutDevices: []delivery.Device{{ID: "tablet", Account: "b", Registrations: []delivery.Registration{claim}}}}
	theirs := &delivery.Batch{PutDevices: []delivery.Device{{ID: "phone", Account: "b", Registrations: []delivery.Registration{claim}}}}

	t.Run("token", func(t *testing.T) {
		alone(t, func(w *world, c *delivery.Core) {
			w.known("phone", "")
			w.up("phone") // the account stays in memory
			elsewhere(w, tablet)
			release := w.store.hold()
			if err := c.SetRegistration("phone", "a", apns("aa")); err != nil {
				t.Fatal(err)
			}
			heard := make(chan error, 1)
			go func() { heard <- c.OnClaimed(delivery.Claim{Server: delivery.ServerAPNs, Token: "aa"}) }()
			synctest.Wait()
			release()
			if err := <-heard; err != nil {
				t.Fatal(err)
			}
			if got := w.tokens("a", "phone"); len(got) != 1 {
				t.Errorf("the phone was the last to claim the token and has %v", got)
			}
		})
	})

	t.Run("token, registered again", func(t *testing.T) {
		told := make(chan delivery.Claim, 8)
		testtool.Bubble(t, func(t *testing.T) {
			w := &world{T: t, apple: &apple{}}
			w.store = newStore(t)
			opts := options()
			opts.Neighbours = telling{told: told}
			w.core = delivery.New(opts, w.store, w.apple, slog.New(slog.DiscardHandler))
			if err := w.core.Start(); err != nil {
				t.Fatal(err)
			}
			w.known("phone", "aa")
			w.up("phone")
			elsewhere(w, tablet) // of which this Core has not heard yet
			for len(told) > 0 {
				<-told
			}
			if err := w.core.SetRegistration("phone", "a", apns("aa")); err != nil {
				t.Fatal(err)
			}
			w.flush()
			if holder, err := w.store.TokenOwner(delivery.ServerAPNs, "aa"); err != nil || holder != "phone" || len(told) != 1 {
				t.Errorf("the token is held by %q (error %v), and others heard of %d claims", holder, err, len(told))
			}
			w.stop()
			w.store.close()
		})
	})

	t.Run("device, another account first", func(t *testing.T) {
		alone(t, func(w *world, c *delivery.Core) {
			w.known("watch", "") // the account stays in memory
			w.up("watch")
			release := w.store.hold()
			ch := &replaceable{channel: &channel{w: w}}
			done := make(chan error, 1)
			go func() { elsewhere(w, theirs); done <- nil }()
			synctest.Wait()
			if _, err := c.Online(delivery.OnlineInfo{Device: "phone", Account: "a", Channel: ch}); err != nil {
				t.Fatal(err)
			}
			release()
			<-done
			w.flush()
			if holder, err := c.AccountOf("phone"); err != nil || holder != "a" { // it has not heard yet
				t.Errorf("held by %q, %v", holder, err)
			}
			if err := c.OnClaimed(delivery.Claim{Device: "phone"}); err != nil {
				t.Fatal(err)
			}
			if holder, err := c.AccountOf("phone"); err != nil || holder != "b" || ch.replaced != 1 {
				t.Errorf("held by %q, error %v; the connection of the other account was told to end %d times", holder, err, ch.replaced)
			}
			if holder, err := w.store.TokenOwner(delivery.ServerAPNs, "aa"); err != nil || holder != "phone" {
				t.Errorf("the token is held by %q (error %v)", holder, err)
			}
		})
	})
}

// telling passes the claims of a Core on.
type telling struct {
	deaf
	told chan delivery.Claim
}

func (n telling) Claimed(c delivery.Claim) { n.told <- c }

// TestForgetAfterAClockStep: no device is forgotten for an hour after the database's clock was set,
// although whoever searches for old devices asks before the Core itself has looked at the clock.
// Nor is one by a Core that has just taken the account over, and has not seen the step.
func TestForgetAfterAClockStep(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		w := &world{T: t, apple: &apple{}}
		w.store = newStore(t)
		var ahead atomic.Int64
		opts := options()
		opts.Neighbours = deaf{}
		opts.Wall = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())).Round(0) }
		begin := func() *delivery.Core {
			c := delivery.New(opts, w.store, w.apple, slog.New(slog.DiscardHandler))
			w.core = c
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			return c
		}
		c := begin()
		w.known("phone", "")
		forgets := func(when string, want bool) {
			t.Helper()
			if err := c.Forget("a", "phone"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Device("a", "phone"); errors.Is(err, delivery.ErrUnknownDevice) != want {
				t.Errorf("%s: %v", when, err)
			}
		}
		time.Sleep(90 * time.Minute) // between two looks of the Core
		ahead.Store(int64(61 * 24 * time.Hour))
		forgets("at once", false)
		time.Sleep(59 * time.Minute)
		forgets("within the hour", false)
		w.stop()
		c = begin()
		forgets("after a take-over", false)
		time.Sleep(time.Hour)
		forgets("an hour later", true)
		w.stop()
		w.store.close()
	})
}

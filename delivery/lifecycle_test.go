package delivery_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestStopAtAnyTime: never started, twice and twice at once; a second Stop waits for
// the first.
func TestStopAtAnyTime(t *testing.T) {
	inWorld(t, func(w *world) {
		ctx := context.Background()
		w.stop()
		idle := delivery.New(options(), w.store, w.apple, slog.New(slog.DiscardHandler))
		for range 2 {
			if err := idle.Stop(ctx); err != nil {
				t.Errorf("never started: %v", err)
			}
		}
		if err := idle.Start(); !errors.Is(err, delivery.ErrStopped) {
			t.Errorf("start after stop: %v", err)
		}
		w.start(options()) // an Outbox has one core at a time

		w.known("d", "aa")
		w.apple.hold = true
		w.accept(delivery.Request{})
		synctest.Wait()
		var stops sync.WaitGroup
		var mu sync.Mutex
		returned := 0
		for range 3 {
			stops.Go(func() {
				if err := w.core.Stop(ctx); err != nil {
					t.Error(err)
				}
				mu.Lock()
				returned++
				mu.Unlock()
			})
		}
		synctest.Wait()
		if returned != 0 {
			t.Errorf("%d of 3 stops returned while a push is under way", returned)
		}
		w.apple.release()
		stops.Wait()
		if _, err := w.core.Accept(ctx, delivery.Request{Account: "a", Title: "t"}); !errors.Is(err, delivery.ErrStopped) {
			t.Errorf("accepted after the stop: %v", err)
		}
	})
}

// TestStopWhileAccepting: every Accept returns a receipt or ErrStopped. Nodes do not know of a repeat
// whether the first was accepted.
func TestStopWhileAccepting(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		var callers sync.WaitGroup
		for range 50 {
			for _, id := range []string{"", "same"} {
				callers.Go(func() {
					_, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t", ID: id})
					if err != nil && !errors.Is(err, delivery.ErrStopped) && (id == "" || !errors.Is(err, delivery.ErrInDoubt)) {
						t.Error(err)
					}
				})
			}
		}
		if err := w.core.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		callers.Wait()
	})
}

// TestDevicesComeBackFirst: after a start no window elapses before the devices have
// had an ack window's time to come back.
func TestDevicesComeBackFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.up("phone")
		var all []*delivery.Notification
		for range 5 {
			all = append(all, w.accept(delivery.Request{}))
		}
		w.restart(options())
		time.Sleep(2 * time.Second)
		w.up("phone", acking)
		time.Sleep(time.Minute)
		for _, n := range all {
			w.wantState(n, delivery.StateAcked)
		}
		if len(w.apple.asked) != 0 {
			t.Errorf("%d pushes to a device that came back", len(w.apple.asked))
		}
	})
}

// onLaptop is a world whose machine sleeps: sleep moves the clock that counts that, and no other.
func onLaptop(t *testing.T) (w *world, opts delivery.Options, sleep func(time.Duration)) {
	t.Helper()
	start := time.Now()
	var slept atomic.Int64
	opts = options()
	opts.Boottime = func() time.Duration { return time.Since(start) + time.Duration(slept.Load()) }
	w = &world{T: t, apple: &apple{}}
	w.store = newStore(t)
	return w, opts, func(d time.Duration) { slept.Add(int64(d)) }
}

// TestSuspendedMachine: a TTL goes on while the machine sleeps, and nothing stale is
// delivered when it wakes.
func TestSuspendedMachine(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		w, opts, sleep := onLaptop(t)
		w.start(opts)
		w.known("phone", "")
		code := w.accept(delivery.Request{TTL: new(5 * time.Minute)})
		news := w.accept(delivery.Request{})
		w.wantState(news, delivery.StateWaiting)
		sleep(time.Hour)
		w.up("phone", acking).wantIDs(false, news.ID)
		w.wantState(code, delivery.StateExpired)
		w.wantState(news, delivery.StateAcked)
		w.stop()
		w.store.close()
	})
}

// TestBackAfterTheLastExpired: a device comes back after the machine has slept, and the last
// delivery to it expired meanwhile. Its channel is up for the next.
func TestBackAfterTheLastExpired(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		w, opts, sleep := onLaptop(t)
		w.start(opts)
		w.known("phone", "")
		code := w.accept(delivery.Request{TTL: new(5 * time.Minute)})
		w.wantState(code, delivery.StateWaiting)
		sleep(10 * time.Minute)
		phone := w.up("phone", acking)
		w.wantState(code, delivery.StateExpired)
		phone.wantIDs(false, w.accept(delivery.Request{}).ID)
		if d := w.device("a", "phone"); !d.Up {
			t.Error("the phone is connected, and its channel is down")
		}
		w.stop()
		w.store.close()
	})
}

// TestStaleAfterTheHourlyLook: the look at the wall clock is the first to notice that the machine
// has slept. A notification that has expired meanwhile does not go out to a device that comes back
// during it.
func TestStaleAfterTheHourlyLook(t *testing.T) {
	if *shards > 0 {
		t.Skip("the cores of shards read no registry at that look")
	}
	testtool.Bubble(t, func(t *testing.T) {
		w, opts, sleep := onLaptop(t)
		out := &looksLate{Outbox: w.store}
		w.core = newCore(opts, out, nil, slog.New(slog.DiscardHandler))
		if err := w.core.Start(); err != nil {
			t.Fatal(err)
		}
		w.known("phone", "")
		code := w.accept(delivery.Request{TTL: new(90 * time.Minute)})
		time.Sleep(59 * time.Minute)
		var phone *channel
		out.meanwhile = func() { phone = w.up("phone") }
		sleep(40 * time.Minute)
		time.Sleep(2 * time.Minute)
		synctest.Wait() // the look is over
		if phone == nil {
			t.Fatal("no look at the registry")
		}
		phone.wantIDs(false)
		w.wantState(code, delivery.StateExpired)
		w.stop()
		w.store.close()
	})
}

// looksLate has something happen before the registry is read.
type looksLate struct {
	delivery.Outbox
	meanwhile func()
}

func (o *looksLate) Devices(after string, fn func(*delivery.Device) bool) error {
	if meanwhile := o.meanwhile; meanwhile != nil {
		o.meanwhile = nil
		meanwhile()
	}
	return o.Outbox.Devices(after, fn)
}

// TestOfflineSince: of a device that has not been connected since the start it is
// not known since when it is offline.
func TestOfflineSince(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		time.Sleep(time.Hour)
		for range 2 {
			if since := w.device("a", "phone").Since; !since.IsZero() {
				t.Errorf("offline since %v", since)
			}
		}
		ch := w.up("phone")
		w.accept(delivery.Request{}) // keeps it in memory
		ch.presence.Offline("gone")
		gone := time.Now()
		time.Sleep(time.Hour)
		if since := w.device("a", "phone").Since; since.Sub(gone).Abs() > slack() {
			t.Errorf("offline since %v, want %v", since, gone)
		}
	})
}

// TestListWhilePruned: a notification that is pruned while a page is made is left
// out.
func TestListWhilePruned(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("phone", acking)
		for range 3 {
			w.wantState(w.accept(delivery.Request{}), delivery.StateAcked)
		}
		w.stop()
		out := &prunesLate{Outbox: w.store}
		w.core = newCore(options(), out, nil, slog.New(slog.DiscardHandler))
		if err := w.core.Start(); err != nil {
			t.Fatal(err)
		}
		page, _, err := w.core.List(context.Background(), delivery.Filter{Limit: 10})
		if err != nil || len(page) != 2 {
			t.Errorf("%d notifications, %v", len(page), err)
		}
	})
}

// prunesLate has lost the first notification whose deliveries it is asked for.
type prunesLate struct {
	delivery.Outbox
	pruned bool
}

func (o *prunesLate) Deliveries(seq delivery.Seq) ([]delivery.DeliveryState, error) {
	if !o.pruned {
		o.pruned = true
		return nil, delivery.ErrNotFound
	}
	return o.Outbox.Deliveries(seq)
}

// TestWallClockIsSet: after a jump of the wall clock nothing is forgotten by it for
// an hour.
func TestWallClockIsSet(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		time.Sleep(60*24*time.Hour - 30*time.Minute)
		w.core.SetWall(3 * time.Hour)
		time.Sleep(time.Hour) // one look
		if _, err := w.core.Device("a", "phone"); err != nil {
			t.Errorf("forgotten after a jump: %v", err)
		}
		time.Sleep(2 * time.Hour)
		if _, err := w.core.Device("a", "phone"); !errors.Is(err, delivery.ErrUnknownDevice) {
			t.Errorf("never forgotten: %v", err)
		}
	})
	inWorld(t, func(w *world) { // nor is a dismissal
		time.Sleep(30 * time.Minute) // between two looks
		phone := w.up("phone", acking)
		w.accept(delivery.Request{ID: "n"})
		settle()
		phone.presence.Offline("gone")
		if err := w.core.Dismiss(context.Background(), "n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(72*time.Hour + 15*time.Minute)
		w.core.SetWall(3 * time.Hour)
		time.Sleep(45 * time.Minute)
		phone = w.up("phone", dismissing)
		if got := phone.dismissed(); !slices.Equal(got, []string{"n"}) {
			t.Errorf("after a jump: dismissals %v", got)
		}
		phone.presence.Offline("gone")
		time.Sleep(2 * time.Hour)
		if got := w.up("phone", dismissing).dismissed(); len(got) > 0 {
			t.Errorf("never dropped: dismissals %v", got)
		}
	})
}

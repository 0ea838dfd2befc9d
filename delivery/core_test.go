package delivery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

func TestChannelUpAndAcked(t *testing.T) {
	inWorld(t, func(w *world) {
		ch := w.up("d", acking)
		n := w.accept(delivery.Request{ID: "1"})
		ch.wantIDs(false, "1")
		w.wantTimeline(n, "accepted, published, received")
		if len(w.apple.asked) != 0 {
			t.Error("a push, although the device acknowledged")
		}
	})
}

func TestNoAck(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		ch := w.up("d")
		n := w.accept(delivery.Request{})
		time.Sleep(2900 * time.Millisecond)
		w.wantTimeline(n, "accepted, published")
		time.Sleep(200 * time.Millisecond)
		w.wantTimeline(n, "accepted, published, ack_timeout, push_requested, pushed")
		time.Sleep(10 * time.Second) // the second look finds the channel up
		w.wantTimeline(n, "accepted, published, ack_timeout, push_requested, pushed, fallback_timeout, redelivered")
		if p := ch.published()[1]; !p.Redelivery || !p.Pushed {
			t.Errorf("the second copy says redelivery %v, pushed %v; want both", p.Redelivery, p.Pushed)
		}
		time.Sleep(3 * time.Second)
		w.wantState(n, delivery.StateWaiting)
		ch.ack(1)
		w.wantState(n, delivery.StateAcked)
		if len(w.apple.asked) != 1 {
			t.Errorf("%d pushes, want 1", len(w.apple.asked))
		}
	})
}

// TestContentIsCheckedWithItsID: a push has the ID in it, whoever makes it.
func TestContentIsCheckedWithItsID(t *testing.T) {
	opts, length := options(), 0
	opts.CheckContent = func(n *delivery.Notification) error { length = len(n.ID); return nil }
	inWorldWith(t, opts, func(w *world) {
		w.known("d", "aa")
		if n := w.accept(delivery.Request{}); length != len(n.ID) {
			t.Errorf("checked with an ID of %d bytes, and got %s", length, n.ID)
		}
	})
}

func TestOffline(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		n := w.accept(delivery.Request{})
		w.wantTimeline(n, "accepted, push_requested, pushed")
		time.Sleep(10 * time.Second)
		w.wantTimeline(n, "accepted, push_requested, pushed, fallback_timeout, waiting")
		w.up("d", acking)
		w.wantTimeline(n, "accepted, push_requested, pushed, fallback_timeout, waiting, published, received")
	})
}

// TestPushIsRecordedWithTheAcceptance: a push leaves as soon as its notification is
// on the disk, and a crash at that moment knows of it.
func TestPushIsRecordedWithTheAcceptance(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "token")
		synctest.Wait()
		writes := len(w.store.engine.log)
		w.apple.hold = true
		n := w.accept(delivery.Request{})
		synctest.Wait()
		if len(w.apple.asked) != 1 {
			t.Fatalf("%d pushes", len(w.apple.asked))
		}
		log := w.store.engine.log[writes:]
		if len(log) != 1 || len(log[0].Accept) != 1 || len(log[0].Update) != 1 || log[0].Update[0].State != delivery.StatePushing {
			t.Errorf("written before the push: %+v", log)
		}
		w.wantTimeline(n, "accepted, push_requested")
	})
}

// TestChannelChangesWhileItIsAccepted: the channel counts as it is when the
// notification has reached the disk.
func TestChannelChangesWhileItIsAccepted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "token")
		var ch *channel
		n := w.acceptWhile(func() { ch = w.up("phone") })
		w.wantTimeline(n, "accepted, push_requested, published, push_retry")
		ch.wantIDs(false, n.ID)
		ch.published()[0].Acked()
		w.wantTimeline(n, "accepted, push_requested, published, push_retry, received")
		if len(w.apple.asked) != 0 {
			t.Errorf("%d pushes to a device that is there", len(w.apple.asked))
		}
		n = w.acceptWhile(func() { ch.presence.Offline("gone") })
		w.wantTimeline(n, "accepted, push_requested, pushed")
	})
}

// TestDeviceIsGoneWhileItIsAccepted: a notification accepted for a device that has
// moved to another account, or was removed, is not shown to its new user.
func TestDeviceIsGoneWhileItIsAccepted(t *testing.T) {
	inWorld(t, func(w *world) {
		token := &delivery.Registration{Server: delivery.ServerAPNs, Token: "token", App: "app"}
		for name, meanwhile := range map[string]func() error{
			"moved":   func() error { return w.core.PutDevice(context.Background(), "b", "phone", token) },
			"removed": func() error { return w.core.ForgetDevice(context.Background(), "a", "phone") },
		} {
			w.known("phone", "token")
			done := make(chan error, 1)
			n := w.acceptWhile(func() { go func() { done <- meanwhile() }() })
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			w.wantTimeline(n, "accepted, push_requested, cancelled")
			if len(w.apple.asked) != 0 {
				t.Errorf("%s: %d pushes", name, len(w.apple.asked))
			}
			w.restart(options())
		}
	})
	inWorld(t, func(w *world) { // of the removal alone the store knows
		w.known("phone", "")
		n := w.accept(delivery.Request{})
		w.stop()
		done := make(chan error, 1)
		w.store.Commit(&delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "phone", Account: "a"}}, Sync: true}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.start(options())
		w.wantTimeline(n, "accepted, waiting, cancelled")
		w.wantState(n, delivery.StateCancelled)
	})
}

// TestCrashAfterADeviceIsGoneWhileItIsAccepted: the notification does not go to whoever has
// the device after the crash.
func TestCrashAfterADeviceIsGoneWhileItIsAccepted(t *testing.T) {
	put := func(w *world, account string) error {
		return w.core.PutDevice(context.Background(), account, "phone", &delivery.Registration{Server: delivery.ServerAPNs, Token: "new", App: "app"})
	}
	for name, c := range map[string]struct {
		account string // whose the device is then; "": nobody's
		gone    func(w *world) error
	}{
		"moved":   {"b", func(w *world) error { return put(w, "b") }},
		"removed": {"", func(w *world) error { return w.core.ForgetDevice(context.Background(), "a", "phone") }},
		"signed out": {"b", func(w *world) error {
			return errors.Join(w.core.SignOut(context.Background(), "phone", "a"), put(w, "b"))
		}},
		"signed out and in": {"a", func(w *world) error {
			return errors.Join(w.core.SignOut(context.Background(), "phone", "a"), put(w, "a"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "token")
				gone := make(chan error, 1)
				n := w.acceptWhile(func() { go func() { gone <- c.gone(w) }() })
				if err := <-gone; err != nil {
					t.Fatal(err)
				}
				w.core.Crash()
				w.store.powerCut(0)
				w.start(options())
				if c.account != "" {
					w.up("phone", func(i *delivery.OnlineInfo, _ *channel) { i.Account = c.account }).wantIDs(false)
				}
				time.Sleep(time.Minute)
				if len(w.apple.asked) > 0 {
					t.Errorf("%d pushes", len(w.apple.asked))
				}
				w.wantTimeline(n, "accepted, push_requested, cancelled")
				w.wantState(n, delivery.StateCancelled)
			})
		})
	}
}

// TestDeviceIsBackWhileItIsRemoved: it is registered again, although the store
// still has its old entry.
func TestDeviceIsBackWhileItIsRemoved(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "token")
		synctest.Wait()
		release := w.store.hold()
		removed := make(chan error, 1)
		go func() { removed <- w.core.ForgetDevice(context.Background(), "a", "phone") }()
		settle()
		ch := w.up("phone", acking)
		release()
		if err := <-removed; err != nil {
			t.Fatal(err)
		}
		n := w.accept(delivery.Request{})
		w.wantState(n, delivery.StateAcked)
		ch.presence.Offline("gone")
		w.restart(options())
		if account, err := w.core.AccountOf("phone"); account != "a" {
			t.Errorf("the phone is of account %q, %v", account, err)
		}
	})
}

// TestDeviceIsRemovedWhileItsAccountIsRead: the core reads the account again.
func TestDeviceIsRemovedWhileItsAccountIsRead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "token")
		w.stop()
		out := &readsLate{Outbox: w.store}
		w.core = newCore(options(), out, nil, slog.New(slog.DiscardHandler))
		if err := w.core.Start(); err != nil {
			t.Fatal(err)
		}
		out.meanwhile = func() {
			if err := w.core.ForgetDevice(context.Background(), "a", "phone"); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		if _, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"}); !errors.Is(err, delivery.ErrNotFound) {
			t.Errorf("accepted for a device that is gone: %v", err)
		}
	})
}

// readsLate has something happen between a read of an account and its answer.
type readsLate struct {
	delivery.Outbox
	meanwhile func()
}

func (o *readsLate) AccountDevices(account string) ([]delivery.Device, error) {
	devices, err := o.Outbox.AccountDevices(account)
	if meanwhile := o.meanwhile; meanwhile != nil {
		o.meanwhile = nil
		meanwhile()
	}
	return devices, err
}

func TestOfflineWithoutToken(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		n := w.accept(delivery.Request{})
		w.wantTimeline(n, "accepted, waiting")
		w.up("d", acking)
		w.wantTimeline(n, "accepted, waiting, published, received")
	})
}

func TestLateAcks(t *testing.T) {
	for after, want := range map[time.Duration]string{
		2900 * time.Millisecond:  "accepted, published, received",
		3100 * time.Millisecond:  "accepted, published, ack_timeout, push_requested, pushed, received late",
		10000 * time.Millisecond: "accepted, published, ack_timeout, push_requested, pushed, received late",
	} {
		t.Run(after.String(), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("d", "aa")
				ch := w.up("d")
				n := w.accept(delivery.Request{})
				time.Sleep(after)
				ch.ack(0)
				w.wantTimeline(n, want)
				time.Sleep(time.Minute)
				w.wantTimeline(n, want) // nothing that was planned happens
			})
		})
	}
}

func TestRefusedByTheDevice(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		ch := w.up("d")
		n := w.accept(delivery.Request{})
		ch.published()[0].Nacked("0x83")
		w.wantTimeline(n, "accepted, published, nacked, push_requested, pushed")
	})
}

func TestNotQueued(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		w.up("d", func(_ *delivery.OnlineInfo, ch *channel) { ch.refuse = errNoRoom })
		n := w.accept(delivery.Request{})
		w.wantTimeline(n, "accepted, published, nacked, push_requested, pushed")
	})
}

// TestNoAckWhileAPushIsAskedFor: a device that is up gets a notification again at its
// heartbeats also where no ack window runs, because the push was asked for at once.
func TestNoAckWhileAPushIsAskedFor(t *testing.T) {
	retry := delivery.PushResult{Outcome: delivery.PushRetry, RetryAfter: time.Hour, Detail: "503"}
	for name, answer := range map[string]delivery.PushResult{
		"accepted":  accepted,
		"gone":      {Outcome: delivery.PushTokenGone, Detail: "410 Unregistered"},
		"suspended": {Outcome: delivery.PushTokenSuspended, Detail: "400 BadDeviceToken"},
		"unserved":  {Outcome: delivery.PushUnserved, Detail: "not configured"},
		"refused":   {Outcome: delivery.PushRefused, Detail: "413 PayloadTooLarge"},
		"not now":   retry,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.apple.script = []delivery.PushResult{answer}
				w.known("d", "aa")
				ch := w.up("d")
				w.accept(delivery.Request{AckWindow: new(time.Duration(0))})
				var at []time.Duration
				for begun, seen := time.Now(), 0; time.Since(begun) < 40*time.Second; {
					if n := len(ch.published()); n > seen {
						seen = n
						at = append(at, time.Since(begun))
					}
					time.Sleep(time.Second)
					ch.presence.Heartbeat()
				}
				// 3 s of ack window each, and between them 0, 5, 10 and 20 s.
				if len(at) < 4 || at[1] != 3*time.Second || len(at) > 5 {
					t.Errorf("published at %v", at)
				}
			})
		})
	}
	// Refused by the device or the channel: said, and tried again at the next heartbeat.
	inWorld(t, func(w *world) {
		w.apple.script = []delivery.PushResult{retry}
		w.known("d", "aa")
		ch := w.up("d")
		n := w.accept(delivery.Request{AckWindow: new(time.Duration(0))})
		ch.published()[0].Nacked("0x83")
		w.wantTimeline(n, "accepted, published, push_requested, push_retry, nacked")
		time.Sleep(time.Second)
		ch.presence.Heartbeat()
		w.wantTimeline(n, "accepted, published, push_requested, push_retry, nacked, redelivered")
	})
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		ch := w.up("d", func(_ *delivery.OnlineInfo, ch *channel) { ch.refuse = errNoRoom })
		n := w.accept(delivery.Request{AckWindow: new(time.Duration(0))})
		w.wantTimeline(n, "accepted, published, push_requested, nacked, pushed")
		ch.refuse = nil
		ch.presence.Heartbeat()
		w.wantTimeline(n, "accepted, published, push_requested, nacked, pushed, redelivered")
		// With a TTL of 0 its push goes on alone.
		ch.refuse = errNoRoom
		n = w.accept(delivery.Request{TTL: new(time.Duration(0))})
		w.wantTimeline(n, "accepted, published, push_requested, nacked, pushed, expired")
	})
}

func TestLostAndBackWithinTheWindow(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		ch := w.up("d")
		n := w.accept(delivery.Request{})
		time.Sleep(time.Second)
		ch.presence.Offline("gone")
		time.Sleep(time.Second)
		w.up("d", acking)
		w.wantTimeline(n, "accepted, published, channel_lost, redelivered, received")
		if len(w.apple.asked) != 0 {
			t.Error("a push, although the device was back within the window")
		}
	})
}

func TestLostForLonger(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		ch := w.up("d")
		n := w.accept(delivery.Request{})
		time.Sleep(time.Second)
		ch.presence.Offline("gone")
		time.Sleep(3 * time.Second)
		w.wantTimeline(n, "accepted, published, channel_lost, ack_timeout, push_requested, pushed")
	})
}

func TestTakeover(t *testing.T) {
	inWorld(t, func(w *world) {
		first := w.up("d")
		n := w.accept(delivery.Request{})
		synctest.Wait()
		second := w.up("d") // the old connection's end comes after
		first.presence.Offline("session taken over")
		w.wantTimeline(n, "accepted, published, channel_lost, redelivered")
		m := w.accept(delivery.Request{})
		if len(first.ids(false)) != 1 || len(second.ids(false)) != 2 {
			t.Errorf("published %v on the old and %v on the new connection", first.ids(false), second.ids(false))
		}
		first.ack(0) // counts, from wherever it comes
		w.wantTimeline(n, "accepted, published, channel_lost, redelivered, received late")
		second.ack(1)
		w.wantState(m, delivery.StateAcked)
	})
}

// TestClosedChannelIsNotBroughtUp: it is late, and another may have come since.
func TestClosedChannelIsNotBroughtUp(t *testing.T) {
	inWorld(t, func(w *world) {
		ch := w.up("phone", acking)
		late := &channel{w: w, closed: true}
		if _, err := w.core.Online(delivery.OnlineInfo{Device: "phone", Account: "a", Channel: late}); !errors.Is(err, delivery.ErrChannelClosed) {
			t.Errorf("got %v", err)
		}
		n := w.accept(delivery.Request{})
		w.wantState(n, delivery.StateAcked)
		ch.wantIDs(false, n.ID)
	})
}

func TestHeartbeatAfterAMissedAck(t *testing.T) {
	inWorld(t, func(w *world) {
		ch := w.up("d")
		n := w.accept(delivery.Request{})
		time.Sleep(2 * time.Second)
		ch.presence.Heartbeat() // before the miss: means nothing
		time.Sleep(2 * time.Second)
		w.wantTimeline(n, "accepted, published, ack_timeout, waiting")
		ch.presence.Heartbeat()
		w.wantTimeline(n, "accepted, published, ack_timeout, waiting, redelivered")
		// From the second miss on the distances grow, up to a minute.
		start := time.Now()
		for len(ch.published()) < 12 {
			time.Sleep(500 * time.Millisecond)
			ch.presence.Heartbeat()
		}
		// Ten windows of 3 s, and between them 5, 10, 20, 40 and six times 60 s.
		if d := time.Since(start); d < 7*time.Minute+40*time.Second || d > 7*time.Minute+50*time.Second {
			t.Errorf("ten more tries took %v, want 7m45s", d)
		}
	})
}

// TestHeartbeatWithoutTheAskedAck: a device that acknowledges every copy, and never says that it
// has displayed one, is tried again at growing distances, too.
func TestHeartbeatWithoutTheAskedAck(t *testing.T) {
	for name, received := range map[string]func(w *world, n *delivery.Notification){
		"PUBACK": func(*world, *delivery.Notification) {},
		"by ID": func(w *world, n *delivery.Notification) {
			if err := w.core.AckByID(n.ID, "d", "a", delivery.AckReceived); err != nil {
				w.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				ch := w.up("d", func(_ *delivery.OnlineInfo, ch *channel) { ch.acks = name == "PUBACK" })
				n := w.accept(delivery.Request{Ack: delivery.AckDisplayed})
				var at []time.Time
				for len(at) < 8 {
					if got := len(ch.published()); got > len(at) {
						at = append(at, time.Now())
						received(w, n)
					}
					time.Sleep(500 * time.Millisecond)
					ch.presence.Heartbeat()
				}
				// 3 s of ack window each, and between them 0, 5, 10, 20, 40 and two times 60 s.
				if d := at[7].Sub(at[0]); d < 216*time.Second || d > 226*time.Second {
					t.Errorf("seven more tries took %v, want 3m36s", d)
				}
				if err := w.core.AckByID(n.ID, "d", "a", delivery.AckDisplayed); err != nil {
					t.Fatal(err)
				}
				w.wantState(n, delivery.StateAcked)
			})
		})
	}
}

func TestInflightWindow(t *testing.T) {
	for _, receiveMaximum := range []int{1, 5, 65535} {
		t.Run(fmt.Sprint(receiveMaximum), func(t *testing.T) {
			inWorld(t, func(w *world) {
				ch := w.up("d", func(i *delivery.OnlineInfo, _ *channel) { i.ReceiveMaximum = receiveMaximum })
				var ids []string
				for i := range 50 {
					ids = append(ids, w.accept(delivery.Request{ID: fmt.Sprint(i)}).ID)
				}
				open := min(receiveMaximum, 16)
				for done := range 50 {
					ch.wantIDs(false, ids[:min(done+open, 50)]...)
					ch.ack(done)
				}
			})
		})
	}
}

// TestLargeInflightWindow: the window is as large as it is configured, and copies come beyond it.
func TestLargeInflightWindow(t *testing.T) {
	opts := options()
	opts.MaxInflight, opts.MaxOutstanding = 1100, 2000
	inWorldWith(t, opts, func(w *world) {
		ch := w.up("d")
		for range 1200 {
			w.core.AcceptAsync(delivery.Request{Account: "a", Title: "t"}, func(_ delivery.Receipt, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		settle()
		if n := len(ch.published()); n != 1100 {
			t.Errorf("%d published, want 1100", n)
		}
		time.Sleep(4 * time.Second)
		ch.presence.Heartbeat()
		settle()
		copies := 0
		for _, p := range ch.published() {
			if p.Redelivery {
				copies++
			}
		}
		if copies != 1024 {
			t.Errorf("%d copies after the ack window, want 1024", copies)
		}
	})
}

func TestFullWindowFallsBackWithoutProgress(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		ch := w.up("d", func(i *delivery.OnlineInfo, _ *channel) { i.ReceiveMaximum = 1 })
		w.accept(delivery.Request{})
		second := w.accept(delivery.Request{})
		time.Sleep(3100 * time.Millisecond)
		w.wantTimeline(second, "accepted, ack_timeout, push_requested, pushed")
		ch.ack(0)
		w.wantTimeline(second, "accepted, ack_timeout, push_requested, pushed, published")
	})
}

// TestWindowOfWhatHasNoRoom: its deadlines run although nothing else happens.
func TestWindowOfWhatHasNoRoom(t *testing.T) {
	opts := options()
	opts.MaxInflight = 1
	inWorldWith(t, opts, func(w *world) {
		w.known("phone", "aa")
		phone := w.up("phone")
		w.accept(delivery.Request{ID: "first"})
		phone.published() // and never acknowledged
		if err := w.core.Cancel(context.Background(), "first"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the loop has nothing to wait for
		n := w.accept(delivery.Request{TTL: new(10 * time.Second)})
		time.Sleep(3*time.Second + time.Millisecond)
		w.wantTimeline(n, "accepted, ack_timeout, push_requested, pushed")
	})
}

// TestReconfigureInflight: the number of packets that a device may have unacknowledged changes at
// once.
func TestReconfigureInflight(t *testing.T) {
	opts := options()
	opts.MaxInflight = 1
	inWorldWith(t, opts, func(w *world) {
		w.known("phone", "aa")
		phone := w.up("phone")
		for range 4 {
			w.accept(delivery.Request{NoFallback: true})
		}
		if n := len(phone.published()); n != 1 {
			t.Fatalf("%d published, want 1", n)
		}
		settings := opts.Settings()
		settings.MaxInflight = 3
		w.core.Reconfigure(settings)
		phone.ack(0)
		synctest.Wait()
		if n := len(phone.published()); n != 4 {
			t.Errorf("%d published after room for 3 was given, want 4", n)
		}
	})
}

// TestPushAtOnceWithoutRoom: an urgent push does not wait for room on the channel.
func TestPushAtOnceWithoutRoom(t *testing.T) {
	opts := options()
	opts.MaxInflight = 1
	for _, c := range []struct {
		name         string
		request      delivery.Request
		at, later    string // the timelines
		acknowledged string
	}{
		{"ack_window 0", delivery.Request{AckWindow: new(time.Duration(0))}, "accepted, push_requested", "accepted, push_requested, published", "accepted, push_requested, published, pushed, received"},
		{"ttl 0", delivery.Request{TTL: new(time.Duration(0))}, "accepted, push_requested", "accepted, push_requested, published", "accepted, push_requested, published, pushed, received"},
		{"without a push", delivery.Request{AckWindow: new(time.Duration(0)), NoFallback: true}, "accepted", "accepted, published", "accepted, published, received"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorldWith(t, opts, func(w *world) {
				w.known("phone", "aa")
				phone := w.up("phone")
				w.accept(delivery.Request{NoFallback: true})
				phone.published()
				w.apple.hold = true
				n := w.accept(c.request)
				w.wantTimeline(n, c.at)
				phone.ack(0) // makes room
				w.wantTimeline(n, c.later)
				w.apple.release()
				synctest.Wait()
				phone.ack(1)
				w.wantTimeline(n, c.acknowledged)
				w.wantState(n, delivery.StateAcked)
			})
		})
	}
}

func TestSlowDeviceIsNotPushedTo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		ch := w.up("d", func(i *delivery.OnlineInfo, _ *channel) { i.ReceiveMaximum = 1 })
		for range 10 {
			w.accept(delivery.Request{})
		}
		for i := range 10 { // 10 s in all, but an ack every second
			time.Sleep(time.Second)
			ch.ack(i)
		}
		if len(w.apple.asked) != 0 {
			t.Errorf("%d pushes to a device that acknowledges all the time", len(w.apple.asked))
		}
	})
}

func TestPushRetries(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		w.apple.script = []delivery.PushResult{
			{Outcome: delivery.PushRetry, RetryAfter: 7 * time.Second, Detail: "503"},
			{Outcome: delivery.PushAccepted, Detail: "200"},
		}
		n := w.accept(delivery.Request{})
		w.wantTimeline(n, "accepted, push_requested, push_retry")
		time.Sleep(6900 * time.Millisecond)
		w.wantTimeline(n, "accepted, push_requested, push_retry")
		time.Sleep(200 * time.Millisecond)
		w.wantTimeline(n, "accepted, push_requested, push_retry, push_requested, pushed")
	})
}

func TestRetryDoesNotHoldUpTheChannel(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushRetry, RetryAfter: time.Hour, Detail: "503"}}
		n := w.accept(delivery.Request{})
		synctest.Wait()
		w.up("d", acking)
		w.wantTimeline(n, "accepted, push_requested, push_retry, published, received")
	})
}

func TestAckOvertakesThePush(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		w.apple.hold = true
		n := w.accept(delivery.Request{})
		synctest.Wait()
		w.up("d", acking)
		w.wantState(n, delivery.StateAcked)
		w.apple.release() // Apple's client drops it: it was not wanted any more
		w.wantTimeline(n, "accepted, push_requested, published, received")
	})
}

func TestTokenGone(t *testing.T) {
	gone := func(since time.Duration) delivery.PushResult {
		return delivery.PushResult{Outcome: delivery.PushTokenGone, GoneSince: time.Now().Add(since), Detail: "410 Unregistered"}
	}
	for name, c := range map[string]struct {
		since time.Duration
		want  string
		kept  bool
	}{
		"after the registration":  {time.Hour, "accepted, push_requested, push_failed, token_removed, waiting", false},
		"before the registration": {-time.Hour, "accepted, push_requested, push_failed, waiting", true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("d", "aa")
				w.apple.script = []delivery.PushResult{gone(c.since)}
				n := w.accept(delivery.Request{})
				w.wantTimeline(n, c.want)
				d, err := w.core.Device("a", "d")
				if err != nil {
					t.Fatal(err)
				}
				if d.Registration(delivery.KindAlert).Usable(time.Now()) != c.kept {
					t.Errorf("registrations %v, kept should be %v", d.Registrations, c.kept)
				}
			})
		})
	}
}

func TestTokenIsOfOneDevice(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("old", "aa")
		w.knownOf("b", "new", "aa")
		old, err := w.core.Device("a", "old")
		if err != nil {
			t.Fatal(err)
		}
		if old.Registrations != nil {
			t.Error("the former device still has the token")
		}
		n := w.accept(delivery.Request{})
		w.wantTimeline(n, "accepted, waiting")
	})
}

func TestExpiry(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		n := w.accept(delivery.Request{TTL: new(time.Minute)})
		time.Sleep(time.Minute)
		w.wantTimeline(n, "accepted, waiting, expired")
		ch := w.up("d")
		ch.wantIDs(false)
	})
}

func TestCollapse(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		old := w.accept(delivery.Request{ID: "old", CollapseKey: "k"})
		other := w.accept(delivery.Request{ID: "other", CollapseKey: "l"})
		w.accept(delivery.Request{ID: "new", CollapseKey: "k"})
		w.wantTimeline(old, "accepted, waiting, superseded")
		w.wantState(other, delivery.StateWaiting)
		w.up("d", acking).wantIDs(false, "other", "new")
	})
}

// TestCollapseOffline: what takes another's place begins when that has ended.
func TestCollapseOffline(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "token")
		w.apple.hold = true
		older := w.accept(delivery.Request{CollapseKey: "k"})
		newer := w.accept(delivery.Request{CollapseKey: "k"})
		w.wantTimeline(older, "accepted, push_requested, superseded")
		w.wantTimeline(newer, "accepted, push_requested")
		ended, err := w.store.Timeline(older.Seq)
		if err != nil {
			t.Fatal(err)
		}
		began, err := w.store.Timeline(newer.Seq)
		if err != nil {
			t.Fatal(err)
		}
		if ended[1].Number > began[0].Number {
			t.Errorf("the older one ended at %d, the newer began at %d", ended[1].Number, began[0].Number)
		}
	})
}

func TestCancel(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		n := w.accept(delivery.Request{})
		if err := w.core.Cancel(context.Background(), n.ID); err != nil {
			t.Fatal(err)
		}
		w.wantTimeline(n, "accepted, waiting, cancelled")
		if err := w.core.Cancel(context.Background(), "nothing"); !errors.Is(err, delivery.ErrNotFound) {
			t.Errorf("cancel of nothing: %v", err)
		}
	})
}

// TestCancelWhileItIsAccepted: a notification that can be found can be cancelled,
// also when its backend has no answer yet.
func TestCancelWhileItIsAccepted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		w.stop()
		out := &answersLate{Outbox: w.store, gate: make(chan struct{})}
		w.core = newCore(options(), out, nil, slog.New(slog.DiscardHandler))
		if err := w.core.Start(); err != nil {
			t.Fatal(err)
		}
		accepted := make(chan *delivery.Notification, 1)
		go func() { accepted <- w.accept(delivery.Request{ID: "one"}) }()
		synctest.Wait()
		cancelled := make(chan error, 1)
		go func() { cancelled <- w.core.Cancel(context.Background(), "one") }()
		synctest.Wait()
		close(out.gate)
		if err := <-cancelled; err != nil {
			t.Fatal(err)
		}
		w.wantState(<-accepted, delivery.StateCancelled)
	})
}

// TestCancelledIsOnTheDisk: also where the ack came first. What a cancellation was
// answered for does not go on after a power cut.
func TestCancelledIsOnTheDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("phone", acking)
		n := w.accept(delivery.Request{})
		synctest.Wait()
		if err := w.core.Flush(context.Background()); err != nil { // the ack is in the store, and may not be on the disk
			t.Fatal(err)
		}
		if err := w.core.Cancel(context.Background(), n.ID); err != nil {
			t.Fatal(err)
		}
		w.core.Crash()
		w.store.powerCut(0)
		w.start(options())
		w.wantTimeline(n, "accepted, published, received")
	})
}

// answersLate tells of acceptances when its gate is open.
type answersLate struct {
	delivery.Outbox
	gate    chan struct{}
	inDoubt bool
}

func (o *answersLate) Commit(b *delivery.Batch, done func(error)) {
	if len(b.Accept) > 0 {
		answer := done
		done = func(err error) {
			if o.inDoubt {
				b.InDoubt()
			}
			<-o.gate
			answer(err)
		}
	}
	o.Outbox.Commit(b, done)
}

// TestAcceptInDoubt: a request whose write has an unknown outcome is answered once, and so
// is its repetition. When the outcome is known the notification is on its way.
func TestAcceptInDoubt(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		w.stop()
		out := &answersLate{Outbox: w.store, gate: make(chan struct{}), inDoubt: true}
		w.core = newCore(options(), out, nil, slog.New(slog.DiscardHandler))
		if err := w.core.Start(); err != nil {
			t.Fatal(err)
		}
		request := delivery.Request{Account: "a", ID: "one", Title: "t"}
		for _, which := range []string{"request", "repetition"} {
			if _, err := w.core.Accept(context.Background(), request); !errors.Is(err, delivery.ErrInDoubt) || errors.Is(err, delivery.ErrUnavailable) {
				t.Errorf("the %s: %v", which, err)
			}
		}
		close(out.gate)
		synctest.Wait()
		again, err := w.core.Accept(context.Background(), request)
		if err != nil || !again.Repeated {
			t.Fatalf("after the outcome is known: %+v, %v", again, err)
		}
		w.wantTimeline(again.Notification, "accepted, waiting")
	})
}

func TestSameIDAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		first := w.accept(delivery.Request{ID: "x", Title: "one"})
		again, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", ID: "x", Title: "one"})
		if err != nil || !again.Repeated || again.Notification.Seq != first.Seq {
			t.Errorf("the same again: %+v, %v", again, err)
		}
		w.restart(options())
		_, err = w.core.Accept(context.Background(), delivery.Request{Account: "a", ID: "x", Title: "two"})
		if !errors.Is(err, delivery.ErrConflict) {
			t.Errorf("other content under the same id: %v, want a conflict", err)
		}
	})
}

func TestSameIDAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		firsts := make(chan bool, 50)
		for range 50 {
			w.core.AcceptAsync(delivery.Request{Account: "a", ID: "x", Title: "t"}, func(r delivery.Receipt, err error) {
				if err != nil {
					t.Error(err)
				}
				firsts <- !r.Repeated
			})
		}
		n := 0
		for range 50 {
			if <-firsts {
				n++
			}
		}
		if n != 1 {
			t.Errorf("accepted %d times, want once", n)
		}
	})
}

func TestTooMuchOutstanding(t *testing.T) {
	opts := options()
	opts.MaxOutstanding = 2
	inWorldWith(t, opts, func(w *world) {
		w.known("dead", "")
		w.accept(delivery.Request{})
		w.accept(delivery.Request{})
		_, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"})
		if !errors.Is(err, delivery.ErrTooMuchOutstanding) {
			t.Fatalf("the third: %v", err)
		}
		w.known("live", "") // a dead device holds only its own queue
		n := w.accept(delivery.Request{})
		v, err := w.core.Get(context.Background(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(v.Deliveries); got != "[{dead cancelled 0 false} {live waiting 0 false}]" {
			t.Errorf("deliveries %s", got)
		}
	})
}

func TestUnknown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		for _, r := range []delivery.Request{
			{Account: "nobody", Title: "t"},
			{Account: "a", Title: "t", Devices: []string{"e"}},
		} {
			if _, err := w.core.Accept(context.Background(), r); !errors.Is(err, delivery.ErrNotFound) {
				t.Errorf("%+v: %v", r, err)
			}
		}
	})
}

func TestDevicesOfAnAccount(t *testing.T) {
	inWorld(t, func(w *world) {
		one, two := w.up("one", acking), w.up("two", acking)
		w.accept(delivery.Request{ID: "both"})
		w.accept(delivery.Request{ID: "second", Devices: []string{"two"}})
		one.wantIDs(false, "both")
		two.wantIDs(false, "both", "second")
	})
}

func TestRestartGoesOn(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		w.known("e", "")
		pushed := w.accept(delivery.Request{Devices: []string{"d"}})
		waiting := w.accept(delivery.Request{Devices: []string{"e"}})
		ch := w.up("d")
		published := w.accept(delivery.Request{Devices: []string{"d"}, ID: "p"})
		time.Sleep(time.Second)
		ch.ack(0)
		w.wantState(pushed, delivery.StateAcked)
		w.restart(options())
		time.Sleep(4 * time.Second) // the device does not come back within the rest of its window
		w.wantTimeline(published, "accepted, published, ack_timeout, push_requested, pushed")
		w.wantTimeline(waiting, "accepted, waiting")
		w.up("e", acking).wantIDs(false, waiting.ID)
		w.up("d", acking).wantIDs(false, "p")
	})
}

func TestStopWhilePushing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		w.apple.hold = true
		n := w.accept(delivery.Request{})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		begun := time.Now()
		if err := w.core.Stop(ctx); err != nil || time.Since(begun) != 5*time.Second {
			t.Errorf("stop with a push under way: %v after %s", err, time.Since(begun))
		}
		w.apple.release() // too late: nobody knows whether Apple took it
		w.start(options())
		time.Sleep(options().Windows.Ack) // the device's time to come back
		synctest.Wait()
		if len(w.apple.asked) != 2 {
			t.Fatalf("%d requests, want the push asked for again after the restart", len(w.apple.asked))
		}
		w.wantState(n, delivery.StatePushed)
	})
}

func subscribedToMessages(i *delivery.OnlineInfo, _ *channel) { i.Messages = true }

func TestMessages(t *testing.T) {
	data := json.RawMessage(`{"x":1}`)
	inWorld(t, func(w *world) {
		ch := w.up("d", acking, subscribedToMessages)
		n := w.accept(delivery.Request{ID: "1", Data: data}) // no app state ever: on the ack alone
		w.wantTimeline(n, "accepted, published, received, message_sent, message_received")

		check := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		check(ch.presence.SetApp(delivery.AppBackground))
		w.accept(delivery.Request{ID: "2", Data: data})
		w.accept(delivery.Request{ID: "3", Data: data})
		ch.wantIDs(false, "1", "2", "3")
		ch.wantIDs(true, "1")
		check(ch.presence.SetApp(delivery.AppForeground))
		ch.wantIDs(true, "1", "2", "3")

		// The channel's end is the background, until the device says otherwise.
		ch.presence.Offline("gone")
		w.accept(delivery.Request{ID: "4", Data: data})
		again := w.up("d", acking, subscribedToMessages)
		again.wantIDs(false, "4")
		again.wantIDs(true)
		w.restart(options())
		third := w.up("d", acking, subscribedToMessages)
		third.wantIDs(true)
		check(third.presence.SetApp(delivery.AppForeground))
		third.wantIDs(true, "4")
		third.wantIDs(false) // that had been acknowledged
	})
}

func TestMessageIsSentAgainOnReconnect(t *testing.T) {
	inWorld(t, func(w *world) {
		ch := w.up("d", subscribedToMessages)
		n := w.accept(delivery.Request{Data: json.RawMessage(`1`)})
		ch.ack(0)
		ch.wantIDs(true, n.ID)
		ch.presence.Offline("gone")
		again := w.up("d", acking, subscribedToMessages)
		again.wantIDs(true, n.ID)
		again.wantIDs(false)
		w.wantTimeline(n, "accepted, published, received, message_sent, message_sent, message_received")
	})
}

func TestMessageExpires(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("d", acking)
		n := w.accept(delivery.Request{Data: json.RawMessage(`1`), TTL: new(time.Minute)})
		time.Sleep(2 * time.Minute)
		w.wantTimeline(n, "accepted, published, received, expired")
		w.wantState(n, delivery.StateAcked)
	})
}

func TestAckByID(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("other", acking)
		ch := w.up("d")
		n := w.accept(delivery.Request{Ack: delivery.AckDisplayed, Devices: []string{"d"}})
		ch.ack(0)
		w.wantState(n, delivery.StatePublished)
		if err := w.core.AckByID(n.ID, "other", "a", delivery.AckDisplayed); !errors.Is(err, delivery.ErrNotYours) {
			t.Errorf("another device's word: %v", err)
		}
		for range 2 {
			if err := w.core.AckByID(n.ID, "d", "a", delivery.AckDisplayed); err != nil {
				t.Fatal(err)
			}
		}
		w.wantTimeline(n, "accepted, published, received, displayed")
		w.wantState(n, delivery.StateAcked)
	})
}

func TestDisplayedWhileTheMessageIsHeld(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("d", acking) // without a subscription to its messages
		n := w.accept(delivery.Request{Data: json.RawMessage(`1`)})
		synctest.Wait()
		for range 5 {
			if err := w.core.AckByID(n.ID, "d", "a", delivery.AckDisplayed); err != nil {
				t.Fatal(err)
			}
		}
		w.wantTimeline(n, "accepted, published, received, displayed")
	})
}

func TestDisplayedAfterTheEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("d", acking)
		n := w.accept(delivery.Request{})
		w.wantState(n, delivery.StateAcked)
		for range 2 {
			if err := w.core.AckByID(n.ID, "d", "a", delivery.AckDisplayed); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		w.wantTimeline(n, "accepted, published, received, displayed")
	})
}

// TestDeviceMovesToAnotherAccount: where nobody checks names, whoever uses a device
// has it.
func TestDeviceMovesToAnotherAccount(t *testing.T) {
	opts := options()
	opts.AnyAccount = true
	inWorldWith(t, opts, func(w *world) {
		w.known("d", "")
		n := w.accept(delivery.Request{})
		ch := w.up("d", func(i *delivery.OnlineInfo, _ *channel) { i.Account = "b" })
		ch.wantIDs(false) // not the former user's
		w.wantTimeline(n, "accepted, waiting, cancelled")
		if _, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"}); !errors.Is(err, delivery.ErrUnknownAccount) {
			t.Errorf("the former account: %v", err)
		}
	})
}

func TestForgottenDevices(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "")
		w.up("here")
		time.Sleep(60*24*time.Hour - 2*time.Hour)
		n := w.accept(delivery.Request{Devices: []string{"d"}})
		w.wantState(n, delivery.StateWaiting)
		time.Sleep(4 * time.Hour)
		w.wantState(n, delivery.StateCancelled)
		devices, err := w.core.Devices("a")
		if err != nil {
			t.Fatal(err)
		}
		if len(devices) != 1 || devices[0].ID != "here" {
			t.Errorf("devices %v, want only the one that is connected", devices)
		}
	})
}

func TestStoreFails(t *testing.T) {
	inWorld(t, func(w *world) {
		ch := w.up("d", acking)
		w.store.fail(true)
		_, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"})
		if !errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("accept on a failing store: %v", err)
		}
		w.store.fail(false)
		time.Sleep(10 * time.Second) // the store is tried again
		ch.wantIDs(false)
		n := w.accept(delivery.Request{})
		ch.wantIDs(false, n.ID)
	})
}

func TestAttemptNumbers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("d", "aa")
		w.up("d")
		n := w.accept(delivery.Request{})
		time.Sleep(14 * time.Second)
		synctest.Wait()
		v, err := w.core.Get(context.Background(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range v.Timeline {
			got = append(got, fmt.Sprint(e.Kind, " ", e.Attempt))
		}
		if want := "[accepted 0 published 1 ack_timeout 1 push_requested 1 pushed 1 fallback_timeout 1 redelivered 2]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	})
}

// Older copies that a device never acknowledges do not keep its window shut.
func TestForgottenCopiesDoNotStarve(t *testing.T) {
	inWorld(t, func(w *world) {
		ch := w.up("d")
		for range 16 {
			w.accept(delivery.Request{})
		}
		time.Sleep(4 * time.Second)
		ch.presence.Heartbeat()
		all := ch.published()
		for _, p := range all[16:] {
			p.Acked()
		}
		n := w.accept(delivery.Request{})
		w.wantTimeline(n, "accepted, published")
	})
}

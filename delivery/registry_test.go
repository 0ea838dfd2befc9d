package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

func apns(token string) delivery.Registration {
	return delivery.Registration{Server: delivery.ServerAPNs, Token: token, App: "app"}
}

// device reads a registry entry, which must be there.
func (w *world) device(account, id string) *delivery.DeviceView {
	w.Helper()
	v, err := w.core.Device(account, id)
	if err != nil {
		w.Fatal(err)
	}
	return &v
}

// tokens are the tokens that a device holds, in the core and in the store.
func (w *world) tokens(account, id string) (tokens []string) {
	w.Helper()
	w.flush()
	for _, r := range w.device(account, id).Registrations {
		if r.Ended == nil {
			tokens = append(tokens, r.Token)
		}
	}
	stored, err := w.store.Device(id)
	if err != nil {
		w.Fatal(err)
	}
	var kept []string
	for _, r := range stored.Registrations {
		if r.Ended == nil {
			kept = append(kept, r.Token)
		}
	}
	if !slices.Equal(tokens, kept) {
		w.Errorf("device %s: the core has %v, the store %v", id, tokens, kept)
	}
	return tokens
}

func (w *world) flush() {
	w.Helper()
	if err := w.core.Flush(context.Background()); err != nil {
		w.Fatal(err)
	}
}

// TestDeviceBelongsToItsAccount: nobody but its account and services can touch it.
func TestDeviceBelongsToItsAccount(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("alicephone", "aa")
		n := w.accept(delivery.Request{})
		w.wantState(n, delivery.StatePushed)
		ctx := context.Background()
		for what, err := range map[string]error{
			"CheckOwner":          w.core.CheckOwner("alicephone", "bob"),
			"Register":            w.core.Register("alicephone", "bob"),
			"SetRegistration":     w.core.SetRegistration("alicephone", "bob", apns("bb")),
			"RemoveRegistrations": w.core.RemoveRegistrations("alicephone", "bob", delivery.ServerAPNs, ""),
			"SignOut":             w.core.SignOut(ctx, "alicephone", "bob"),
			"Online": func() error {
				_, err := w.core.Online(delivery.OnlineInfo{Device: "alicephone", Account: "bob", Channel: &channel{w: w}})
				return err
			}(),
		} {
			if !errors.Is(err, delivery.ErrForeignDevice) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := w.core.AckByID(n.ID, "alicephone", "bob", delivery.AckDisplayed); !errors.Is(err, delivery.ErrNotYours) {
			t.Errorf("AckByID: %v", err)
		}
		if err := w.core.ForgetDevice(ctx, "bob", "alicephone"); !errors.Is(err, delivery.ErrUnknownDevice) {
			t.Errorf("ForgetDevice: %v", err)
		}
		w.wantState(n, delivery.StatePushed)
		if got := w.tokens("a", "alicephone"); !slices.Equal(got, []string{"aa"}) {
			t.Errorf("tokens %v", got)
		}
		if err := w.core.CheckOwner("alicephone", "a"); err != nil {
			t.Error(err)
		}
		if err := w.core.CheckOwner("nobodys", "bob"); err != nil {
			t.Error(err)
		}
		// A service moves it, and it starts with nothing.
		if err := w.core.PutDevice(ctx, "bob", "alicephone", nil); err != nil {
			t.Fatal(err)
		}
		w.wantState(n, delivery.StateCancelled)
		if got := w.tokens("bob", "alicephone"); len(got) != 0 {
			t.Errorf("bob got alice's tokens: %v", got)
		}
	})
}

// TestSignOut: alice signs out with pushes waiting, bob signs in on the same phone,
// and sees nothing of hers.
func TestSignOut(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.hold = true
		var hers []*delivery.Notification
		for range 5 {
			hers = append(hers, w.accept(delivery.Request{}))
		}
		synctest.Wait()
		current := w.apple.held[0].push.Current
		if r, err := current(); err != nil || r.Token != "aa" {
			t.Errorf("before: %v, %v", r, err)
		}
		if err := w.core.SignOut(context.Background(), "phone", "a"); err != nil {
			t.Fatal(err)
		}
		if _, err := current(); !errors.Is(err, delivery.ErrPushNotWanted) {
			t.Errorf("after the sign-out a push still leaves: %v", err)
		}
		for _, n := range hers {
			w.wantState(n, delivery.StateCancelled)
		}
		if err := w.core.SignOut(context.Background(), "phone", "a"); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := w.core.SetRegistration("phone", "bob", apns("aa")); err != nil {
			t.Fatal(err)
		}
		if _, err := current(); !errors.Is(err, delivery.ErrPushNotWanted) {
			t.Errorf("bob's token: %v", err)
		}
		w.apple.release()
		synctest.Wait()
		if len(w.apple.asked) != 1 {
			t.Errorf("%d pushes of alice's, want the one that was held", len(w.apple.asked))
		}
		if got := w.tokens("bob", "phone"); !slices.Equal(got, []string{"aa"}) {
			t.Errorf("bob's tokens: %v", got)
		}
	})
}

// TestTokenIsHeldByOne: of two claims at the same moment one wins, in the core and
// in the store, whether or not the other device is in memory.
func TestTokenIsHeldByOne(t *testing.T) {
	inWorld(t, func(w *world) {
		for round := range 200 {
			one, two := fmt.Sprint("one", round), fmt.Sprint("two", round)
			w.knownOf("a", one, fmt.Sprint("old", round))
			w.knownOf("b", two, "")
			token := fmt.Sprint("token", round)
			var claims sync.WaitGroup
			for _, c := range [][2]string{{one, "a"}, {two, "b"}} {
				claims.Go(func() {
					if err := w.core.SetRegistration(c[0], c[1], apns(token)); err != nil {
						t.Error(err)
					}
				})
			}
			claims.Wait()
			synctest.Wait()
			holders := 0
			for _, c := range [][2]string{{one, "a"}, {two, "b"}} {
				if slices.Contains(w.tokens(c[1], c[0]), token) {
					holders++
				}
			}
			if holders != 1 {
				t.Fatalf("round %d: %d devices hold one token", round, holders)
			}
		}
	})
}

// TestQueuedPushFollowsTheToken: a push that waits goes nowhere when its token has
// moved to another account, and to the new token when it was replaced.
func TestQueuedPushFollowsTheToken(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.hold = true
		w.accept(delivery.Request{})
		synctest.Wait()
		current := w.apple.held[0].push.Current
		if err := w.core.SetRegistration("phone", "a", apns("bb")); err != nil {
			t.Fatal(err)
		}
		if r, err := current(); err != nil || r.Token != "bb" {
			t.Errorf("replaced: %v %v", r.Token, err)
		}
		if err := w.core.SetRegistration("tablet", "b", apns("bb")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until it is written
		if _, err := current(); !errors.Is(err, delivery.ErrPushNotWanted) {
			t.Errorf("moved: %v", err)
		}
	})
}

// TestSlipSuspends: what a slip in the configuration can cause for every token keeps
// the token, stops asking, and ends with the slip.
func TestSlipSuspends(t *testing.T) {
	config := "wrong"
	opts := options()
	opts.AppConfig = func(delivery.Registration) string { return config }
	inWorldWith(t, opts, func(w *world) {
		w.known("phone", "aa")
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushTokenSuspended, Detail: "400 BadDeviceToken"}}
		n := w.accept(delivery.Request{TTL: new(30 * 24 * time.Hour)})
		w.wantTimeline(n, "accepted, push_requested, push_failed, token_suspended, waiting")
		second := w.accept(delivery.Request{TTL: new(30 * 24 * time.Hour)})
		w.wantTimeline(second, "accepted, waiting")
		if got := w.tokens("a", "phone"); !slices.Equal(got, []string{"aa"}) {
			t.Fatalf("tokens %v", got)
		}
		s := w.device("a", "phone").Registration(delivery.KindAlert).Suspended
		if s == nil || s.Reason != "400 BadDeviceToken" || s.Config != "wrong" {
			t.Errorf("suspension %+v", s)
		}
		// One probe a day.
		time.Sleep(3*24*time.Hour + time.Minute)
		synctest.Wait()
		if got := len(w.apple.asked); got != 4 {
			t.Errorf("%d pushes in three days, want the first and three probes", got)
		}
		w.apple.script = nil
		config = "mended"
		w.core.PushPossible(delivery.ServerAPNs, "app")
		w.wantState(n, delivery.StatePushed)
		w.wantState(second, delivery.StatePushed)
		if s := w.device("a", "phone").Registration(delivery.KindAlert).Suspended; s != nil {
			t.Errorf("still suspended: %+v", s)
		}
	})
}

// TestProbeSucceeds: a probe that is accepted lifts the suspension for all.
func TestProbeSucceeds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.script = []delivery.PushResult{
			{Outcome: delivery.PushTokenSuspended, Detail: "400 BadDeviceToken"},
			{Outcome: delivery.PushAccepted, Detail: "200"},
		}
		week := new(7 * 24 * time.Hour)
		first := w.accept(delivery.Request{TTL: week})
		second := w.accept(delivery.Request{TTL: week})
		synctest.Wait()
		time.Sleep(24*time.Hour + time.Second)
		w.restart(options()) // it is remembered
		time.Sleep(time.Minute)
		for _, n := range []*delivery.Notification{first, second} {
			v, err := w.core.Get(context.Background(), n.ID)
			if err != nil || !v.Deliveries[0].Pushed {
				t.Errorf("not pushed: %v, %v", w.timeline(n), err)
			}
		}
	})
}

// TestProbeThatSaysNothing: a probe whose answer says nothing of the registration, or of
// another one, is over. The next notification has its turn a day later.
func TestProbeThatSaysNothing(t *testing.T) {
	suspended := delivery.PushResult{Outcome: delivery.PushTokenSuspended, Detail: "400 BadDeviceToken"}
	month := new(30 * 24 * time.Hour)
	// probed plays a day's suspension of a registration, up to its probe.
	probed := func(w *world, script ...delivery.PushResult) {
		w.known("phone", "aa")
		w.apple.script = append([]delivery.PushResult{suspended}, script...)
		w.accept(delivery.Request{TTL: month})
		time.Sleep(24*time.Hour + time.Minute)
		synctest.Wait()
		if got := len(w.apple.asked); got != 2 {
			w.Fatalf("%d pushes, want the first and its probe", got)
		}
	}
	wantPushed := func(w *world, n *delivery.Notification) {
		w.Helper()
		if v, err := w.core.Get(context.Background(), n.ID); err != nil || !v.Deliveries[0].Pushed {
			w.Errorf("not pushed: %v, %v", w.timeline(n), err)
		}
	}
	for _, answer := range []delivery.PushResult{
		{Outcome: delivery.PushRefused, Detail: "413 PayloadTooLarge"},
		{Outcome: delivery.PushUnserved, Detail: "not configured"},
	} {
		inWorld(t, func(w *world) {
			probed(w, answer, accepted)
			n := w.accept(delivery.Request{TTL: month})
			w.wantState(n, delivery.StateWaiting)
			time.Sleep(25 * time.Hour)
			wantPushed(w, n)
		})
	}
	for name, meanwhile := range map[string]func(w *world){
		"registered again":   func(w *world) { w.known("phone", "aa") },
		"another registered": func(w *world) { w.known("phone", "bb") },
		"removed, then a new": func(w *world) {
			_ = w.core.RemoveRegistrations("phone", "a", delivery.ServerAPNs, "")
			w.known("phone", "bb")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "aa")
				w.apple.script = []delivery.PushResult{suspended}
				w.accept(delivery.Request{TTL: month})
				synctest.Wait()
				w.apple.mu.Lock()
				w.apple.hold = true
				w.apple.mu.Unlock()
				time.Sleep(24*time.Hour + time.Minute)
				meanwhile(w)
				// The first stays under way, or is retried, for as long as the test takes.
				n := w.accept(delivery.Request{TTL: month, Urgency: delivery.UrgencyNormal})
				settle()
				w.apple.mu.Lock()
				var of *heldPush
				for i := range w.apple.held {
					if w.apple.held[i].push.Seq == n.Seq {
						of = &w.apple.held[i]
					}
				}
				w.apple.hold = false
				w.apple.script = nil
				w.apple.mu.Unlock()
				if of == nil {
					t.Fatalf("not asked for: %v", w.timeline(n))
				}
				of.answer(suspended)
				w.apple.mu.Lock()
				w.apple.held = slices.DeleteFunc(w.apple.held, func(h heldPush) bool { return h.push.Seq == n.Seq })
				w.apple.mu.Unlock()
				w.wantState(n, delivery.StateWaiting)
				time.Sleep(25 * time.Hour)
				wantPushed(w, n)
			})
		})
	}
}

// TestRefusedProbe: an acceptance that the store refuses does not stay the one that
// tries a suspended registration.
func TestRefusedProbe(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.script = []delivery.PushResult{
			{Outcome: delivery.PushTokenSuspended, Detail: "400 BadDeviceToken"},
			{Outcome: delivery.PushAccepted, Detail: "200"},
		}
		week := new(7 * 24 * time.Hour)
		w.accept(delivery.Request{NoFallback: true, TTL: week}) // keeps the device in memory
		first := w.accept(delivery.Request{})
		w.wantState(first, delivery.StateWaiting)
		time.Sleep(25 * time.Hour) // first has expired
		w.store.fail(true)
		if _, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"}); !errors.Is(err, delivery.ErrUnavailable) {
			t.Fatal(err)
		}
		w.store.fail(false)
		time.Sleep(time.Minute)
		second := w.accept(delivery.Request{TTL: week})
		time.Sleep(25 * time.Hour)
		v, err := w.core.Get(context.Background(), second.ID)
		if err != nil || !v.Deliveries[0].Pushed {
			t.Errorf("not pushed: %v, %v", w.timeline(second), err)
		}
	})
}

// TestEndedIsRemembered: an ended registration says when and why, without its token.
func TestEndedIsRemembered(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushTokenGone, Detail: "410 Unregistered"}}
		n := w.accept(delivery.Request{})
		w.wantState(n, delivery.StateWaiting)
		r := w.device("a", "phone").Registration(delivery.KindAlert)
		if r == nil || r.Ended == nil || r.Ended.Reason != "410 Unregistered" || r.Token != "" || r.Server != delivery.ServerAPNs {
			t.Errorf("registration %+v", r)
		}
		// A new one brings the delivery that waits.
		w.apple.script = nil
		if err := w.core.SetRegistration("phone", "a", apns("bb")); err != nil {
			t.Fatal(err)
		}
		w.wantTimeline(n, "accepted, push_requested, push_failed, token_removed, waiting, push_requested, pushed")
	})
}

// TestGoneIsAboutTheRequest: an answer to a request made before the token was
// registered again proves nothing about it.
func TestGoneIsAboutTheRequest(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.hold = true
		w.accept(delivery.Request{})
		synctest.Wait()
		time.Sleep(time.Second)
		if err := w.core.SetRegistration("phone", "a", apns("aa")); err != nil {
			t.Fatal(err)
		}
		w.apple.mu.Lock()
		held := w.apple.held
		w.apple.held = nil
		w.apple.mu.Unlock()
		held[0].answer(delivery.PushResult{Outcome: delivery.PushTokenGone, Detail: "404 UNREGISTERED"})
		synctest.Wait()
		if got := w.tokens("a", "phone"); !slices.Equal(got, []string{"aa"}) {
			t.Errorf("tokens %v", got)
		}
	})
}

// TestLateAnswerAndNewEntry: an answer that comes after the end of its delivery, or of its dismissal,
// does not write an old entry over one that has changed since.
func TestLateAnswerAndNewEntry(t *testing.T) {
	for name, answer := range map[string]delivery.PushResult{
		"gone":     {Outcome: delivery.PushTokenGone, Detail: "410 Unregistered"},
		"accepted": accepted, // a sign of life
	} {
		for _, dismissal := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", dismissal), func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.known("phone", "aa")
					w.apple.hold = !dismissal
					w.accept(delivery.Request{ID: "n", TTL: new(time.Hour)})
					settle()
					if dismissal {
						w.apple.hold = true
						if err := w.core.Dismiss(context.Background(), "n"); err != nil {
							t.Fatal(err)
						}
						settle()
						w.up("phone", dismissing, acking).presence.Offline("keepalive timeout")
						settle()
					}
					late := w.apple.held
					w.apple.held, w.apple.hold = nil, false
					time.Sleep(2 * time.Hour)
					if err := w.core.SetRegistration("phone", "a", apns("bb")); err != nil {
						t.Fatal(err)
					}
					settle()
					late[0].done(answer) // the request was in flight
					settle()
					w.restart(options())
					if got := w.tokens("a", "phone"); len(late) != 1 || !slices.Equal(got, []string{"bb"}) {
						t.Errorf("tokens %v after %d late answers", got, len(late))
					}
				})
			})
		}
	}
}

// TestLateAnswerStaysInMemory: the account keeps a change by a late answer until it is in the store.
func TestLateAnswerStaysInMemory(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.hold = true
		w.accept(delivery.Request{TTL: new(time.Hour)})
		settle()
		late := w.apple.held
		w.apple.held, w.apple.hold = nil, false
		time.Sleep(2 * time.Hour)
		release := w.store.hold()
		late[0].done(delivery.PushResult{Outcome: delivery.PushTokenGone, Detail: "410 Unregistered"})
		settle()
		w.up("phone")
		release()
		settle()
		w.restart(options())
		if got := w.device("a", "phone").Registrations; len(got) != 1 || got[0].Ended == nil {
			t.Errorf("registrations %+v", got)
		}
	})
}

// TestWaitingIsPushedLater: a delivery in `waiting` is pushed when that becomes
// possible.
func TestWaitingIsPushedLater(t *testing.T) {
	for name, c := range map[string]struct {
		script []delivery.PushResult
		known  string
		later  func(w *world)
	}{
		"a registration comes": {nil, "", func(w *world) {
			if err := w.core.SetRegistration("phone", "a", apns("aa")); err != nil {
				w.Fatal(err)
			}
		}},
		"the app is configured": {[]delivery.PushResult{{Outcome: delivery.PushUnserved, Detail: "app not configured"}, accepted}, "aa", func(w *world) {
			w.core.PushPossible(delivery.ServerAPNs, "app")
		}},
		"the server is on after a restart": {[]delivery.PushResult{{Outcome: delivery.PushUnserved, Detail: "app not configured"}, accepted}, "aa", func(w *world) {
			w.restart(options())
			w.core.PushPossible(delivery.ServerAPNs, "")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.apple.script = c.script
				w.known("phone", c.known)
				n := w.accept(delivery.Request{})
				w.wantState(n, delivery.StateWaiting)
				c.later(w)
				w.wantState(n, delivery.StatePushed)
			})
		})
	}
	inWorld(t, func(w *world) { // but not what the server cannot take
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushRefused, Detail: "413"}}
		w.known("phone", "aa")
		n := w.accept(delivery.Request{})
		w.wantState(n, delivery.StateWaiting)
		w.core.PushPossible(delivery.ServerAPNs, "app")
		if w.wantState(n, delivery.StateWaiting); len(w.apple.asked) != 1 {
			t.Errorf("%d pushes", len(w.apple.asked))
		}
	})
}

// TestSignsOfLife: a device that is connected for long, or that is reached by pushes
// alone, is not forgotten.
func TestSignsOfLife(t *testing.T) {
	opts := options()
	inWorldWith(t, opts, func(w *world) {
		w.known("pushed", "aa")
		w.known("quiet", "bb")
		connected := w.up("connected")
		w.up("crashed")
		for range 61 {
			time.Sleep(24 * time.Hour)
			w.accept(delivery.Request{Devices: []string{"pushed"}})
		}
		synctest.Wait()
		connected.presence.Offline("gone for a moment")
		w.core.Crash()
		w.store.powerCut(0)
		w.start(opts)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		w.flush()
		devices, err := w.core.Devices("a")
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, d := range devices {
			ids = append(ids, d.ID)
		}
		if want := []string{"connected", "crashed", "pushed"}; !slices.Equal(ids, want) {
			t.Errorf("devices %v, want %v", ids, want)
		}
	})
}

// TestEraseAccount: nothing of it can be read, and others keep theirs.
func TestEraseAccount(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.knownOf("b", "tablet", "bb")
		w.apple.hold = true
		var hers []*delivery.Notification
		for range 3 {
			hers = append(hers, w.accept(delivery.Request{}))
		}
		his := w.accept(delivery.Request{Account: "b"})
		synctest.Wait()
		for range 2 {
			if err := w.core.EraseAccount(context.Background(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range hers {
			if _, err := w.core.Get(context.Background(), n.ID); !errors.Is(err, delivery.ErrUnknownNotification) {
				t.Errorf("notification: %v", err)
			}
		}
		if _, err := w.core.AccountOf("phone"); !errors.Is(err, delivery.ErrUnknownDevice) {
			t.Errorf("device: %v", err)
		}
		if _, err := w.core.Get(context.Background(), his.ID); err != nil {
			t.Error(err)
		}
		if err := w.core.Erase(context.Background(), his.ID); err != nil {
			t.Error(err)
		}
		if _, err := w.core.Get(context.Background(), his.ID); !errors.Is(err, delivery.ErrNotFound) {
			t.Errorf("erased: %v", err)
		}
		totals, err := w.store.Totals()
		if err != nil || totals.Accepted != totals.Finished {
			t.Errorf("totals %+v, %v", totals, err)
		}
	})
}

// TestHeldForAnAccount: with unknown_accounts hold, the first device gets all.
func TestHeldForAnAccount(t *testing.T) {
	opts := options()
	opts.HoldUnknown, opts.MaxOutstanding = true, 3
	inWorldWith(t, opts, func(w *world) {
		var ids []string
		for range 3 {
			receipt, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"})
			if err != nil {
				t.Fatal(err)
			}
			if receipt.State != delivery.StateWaiting || len(receipt.Deliveries) != 0 {
				t.Errorf("receipt %+v", receipt)
			}
			ids = append(ids, receipt.Notification.ID)
			w.wantState(receipt.Notification, delivery.StateWaiting)
		}
		if _, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"}); !errors.Is(err, delivery.ErrTooMuchOutstanding) {
			t.Errorf("one too many: %v", err)
		}
		w.restart(opts)
		w.up("phone", acking).wantIDs(false, ids...)
		for _, id := range ids {
			v, err := w.core.Get(context.Background(), id)
			if err != nil {
				t.Fatal(err)
			}
			if v.State != delivery.StateAcked || len(v.Deliveries) != 1 || v.Deliveries[0].Device != "phone" {
				t.Errorf("%+v", v.Deliveries)
			}
		}
		// And one by a push.
		held, err := w.core.Accept(context.Background(), delivery.Request{Account: "b", Title: "t"})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.core.SetRegistration("tablet", "b", apns("tt")); err != nil {
			t.Fatal(err)
		}
		w.wantState(held.Notification, delivery.StatePushed)
		// And one whose device comes while it is being written.
		release := w.store.hold()
		done := make(chan delivery.Receipt, 1)
		go func() {
			receipt, err := w.core.Accept(context.Background(), delivery.Request{Account: "c", Title: "t"})
			if err != nil {
				t.Error(err)
			}
			done <- receipt
		}()
		settle()
		ch := w.up("watch", acking, func(i *delivery.OnlineInfo, _ *channel) { i.Account = "c" })
		release()
		ch.wantIDs(false, (<-done).Notification.ID)
	})
	inWorld(t, func(w *world) { // the default
		if _, err := w.core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"}); !errors.Is(err, delivery.ErrUnknownAccount) {
			t.Errorf("got %v", err)
		}
	})
}

// TestVerdictOnAReplacedConfiguration: an answer that says only that the configuration of
// its request is wrong arrives after another configuration has come. The push is made
// again, with that one.
func TestVerdictOnAReplacedConfiguration(t *testing.T) {
	for _, verdict := range []delivery.PushResult{
		{Outcome: delivery.PushUnserved, Detail: "app not configured"},
		{Outcome: delivery.PushTokenSuspended, Detail: "400 BadDeviceToken", Config: "wrong"},
	} {
		config := "wrong"
		opts := options()
		opts.AppConfig = func(delivery.Registration) string { return config }
		inWorldWith(t, opts, func(w *world) {
			w.known("phone", "aa")
			w.apple.hold = true
			n := w.accept(delivery.Request{})
			synctest.Wait()
			config = "mended"
			w.core.PushPossible(delivery.ServerAPNs, "")
			held := w.apple.held[0]
			w.apple.hold, w.apple.held = false, nil
			held.answer(verdict)
			w.wantState(n, delivery.StatePushed)
			if r := w.device("a", "phone").Registration(delivery.KindAlert); r.Suspended != nil {
				t.Errorf("suspended: %+v", r.Suspended)
			}
		})
	}
}

// TestRetryWithAMendedConfiguration: a push that was refused for the app's credentials
// does not wait out its time once they are mended.
func TestRetryWithAMendedConfiguration(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushRetry, Detail: "403 InvalidProviderToken", RetryAfter: 10 * time.Minute}, accepted}
		n := w.accept(delivery.Request{})
		w.wantState(n, delivery.StatePushing)
		began := time.Now()
		w.core.PushPossible(delivery.ServerAPNs, "")
		w.wantState(n, delivery.StatePushed)
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("pushed after %v", waited)
		}
	})
}

// TestRegistrationsAreBounded: an app registers each live activity under a name of its own, for
// years. The oldest makes room, those that have ended first; the other kinds stay.
func TestRegistrationsAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		activity := func(i int) delivery.Registration {
			r := apns(fmt.Sprintf("%04x", i))
			r.Kind = fmt.Sprintf("liveactivity:order-%d", i)
			return r
		}
		register := func(i int) {
			t.Helper()
			time.Sleep(time.Second)
			if err := w.core.SetRegistration("phone", "a", activity(i)); err != nil {
				t.Fatal(err)
			}
		}
		for i := 1; i < delivery.MaxRegistrations; i++ {
			register(i)
		}
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushTokenGone, Detail: "410 Unregistered"}}
		w.accept(delivery.Request{Kind: activity(7).Kind, PushType: "liveactivity"})
		synctest.Wait()
		for i := range 3 {
			register(delivery.MaxRegistrations + i)
		}
		tokens := w.tokens("a", "phone")
		if len(tokens) != delivery.MaxRegistrations {
			t.Errorf("the device has %d registrations, want %d", len(tokens), delivery.MaxRegistrations)
		}
		for token, want := range map[string]bool{"aa": true, "0001": false, "0002": false, "0003": true, "0007": false, "0040": true, "0042": true} {
			if slices.Contains(tokens, token) != want {
				t.Errorf("token %s: %v, want %v", token, !want, want)
			}
		}
		// A registration in the place of one of its kind needs no room.
		if err := w.core.SetRegistration("phone", "a", apns("bb")); err != nil {
			t.Fatal(err)
		}
		if got := w.tokens("a", "phone"); len(got) != len(tokens) || !slices.Contains(got, "bb") || !slices.Contains(got, "0003") {
			t.Errorf("the device has %v", got)
		}
	})
}

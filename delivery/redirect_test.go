package delivery_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// longRest is the answer of a server that is over its quota for an hour.
var longRest = delivery.PushResult{Outcome: delivery.PushRetry, Detail: "429", RetryAfter: time.Hour}

func fcm(token string) delivery.Registration {
	return delivery.Registration{Server: delivery.ServerFCM, Token: token, App: "project", Form: delivery.FormToken}
}

// targets are the tokens that were asked for, with each push's first one.
func (a *apple) targets() (tokens []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.asked {
		tokens = append(tokens, p.Registration.Token)
	}
	return tokens
}

// TestPushLeavesTheReplacedRegistration: a push that waits for a server, a limit or a
// Retry-After of the former registration goes to the new one at once.
func TestPushLeavesTheReplacedRegistration(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *world) error // of the registration
		asked  []string             // after it
		state  delivery.State
	}{
		{"another server", func(w *world) error { return w.core.SetRegistration("phone", "a", fcm("ff")) }, []string{"ff", "ff"}, delivery.StatePushed},
		{"another token", func(w *world) error { return w.core.SetRegistration("phone", "a", apns("bb")) }, []string{"bb", "bb"}, delivery.StatePushed},
		{"a service's word", func(w *world) error {
			r := fcm("ff")
			return w.core.PutDevice(context.Background(), "a", "phone", &r)
		}, []string{"ff", "ff"}, delivery.StatePushed},
		{"removed", func(w *world) error { return w.core.RemoveRegistrations("phone", "a", delivery.ServerAPNs, "") }, nil, delivery.StateWaiting},
		{"claimed by another device", func(w *world) error { return w.core.SetRegistration("tablet", "b", apns("aa")) }, nil, delivery.StateWaiting},
		{"another kind", func(w *world) error {
			voip := apns("cc")
			voip.Kind = "voip"
			return w.core.SetRegistration("phone", "a", voip)
		}, nil, delivery.StatePushing},
	} {
		t.Run(c.name+", queued", func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "aa")
				w.apple.hold = true
				one, two := w.accept(delivery.Request{}), w.accept(delivery.Request{})
				synctest.Wait()
				if err := c.change(w); err != nil {
					t.Fatal(err)
				}
				settle() // another Core knows of it once the store does
				w.apple.mu.Lock()
				held := w.apple.held
				w.apple.mu.Unlock()
				if withdrawn := held[0].ctx.Err() != nil; withdrawn != (c.state != delivery.StatePushing) {
					t.Errorf("withdrawn from the former registration: %v", withdrawn)
				}
				if c.state == delivery.StatePushing {
					return
				}
				w.apple.release()
				w.wantState(one, c.state)
				w.wantState(two, c.state)
				if got := w.apple.targets(); !slices.Equal(got, append([]string{"aa"}, c.asked...)) {
					t.Errorf("asked for %v", got)
				}
			})
		})
		t.Run(c.name+", after a Retry-After", func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "aa")
				w.apple.script = []delivery.PushResult{longRest, accepted}
				one, two := w.accept(delivery.Request{}), w.accept(delivery.Request{})
				synctest.Wait()
				if err := c.change(w); err != nil {
					t.Fatal(err)
				}
				settle()
				w.wantState(one, c.state)
				w.wantState(two, c.state)
				if got := w.apple.targets(); !slices.Equal(got, append([]string{"aa"}, c.asked...)) {
					t.Errorf("asked for %v", got)
				}
			})
		})
	}
}

// TestAnswerOfTheReplacedRegistration: the wait that a server asks for holds for the
// registration that was asked.
func TestAnswerOfTheReplacedRegistration(t *testing.T) {
	for _, answer := range []delivery.PushResult{longRest, {Outcome: delivery.PushUnserved, Detail: "app not configured"}} {
		t.Run(answer.Detail, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "aa")
				w.apple.hold = true
				n := w.accept(delivery.Request{})
				synctest.Wait()
				if err := w.core.SetRegistration("phone", "a", fcm("ff")); err != nil {
					t.Fatal(err)
				}
				w.apple.mu.Lock()
				held := w.apple.held
				w.apple.held, w.apple.hold = nil, false
				w.apple.mu.Unlock()
				held[0].done(answer) // the request was in flight
				w.wantState(n, delivery.StatePushed)
			})
		})
	}
}

// TestAnswerOfTheRenewedRegistration: a verdict on a token that its device has registered again
// since the request says nothing of it: it is asked again.
func TestAnswerOfTheRenewedRegistration(t *testing.T) {
	for name, answer := range map[string]delivery.PushResult{
		"gone":               {Outcome: delivery.PushTokenGone, Detail: "410"},
		"gone before":        {Outcome: delivery.PushTokenGone, Detail: "410 Unregistered", GoneSince: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"suspended":          {Outcome: delivery.PushTokenSuspended, Detail: "400 BadDeviceToken"},
		"gone, by a backend": {Outcome: delivery.PushTokenGone, Detail: "404"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "aa")
				w.apple.hold = true
				n := w.accept(delivery.Request{})
				synctest.Wait()
				time.Sleep(time.Second)
				again := apns("aa")
				register := func() error { return w.core.SetRegistration("phone", "a", again) }
				if strings.HasSuffix(name, "a backend") {
					register = func() error { return w.core.PutDevice(context.Background(), "a", "phone", &again) }
				}
				if err := register(); err != nil {
					t.Fatal(err)
				}
				settle()
				w.apple.mu.Lock()
				held := w.apple.held
				w.apple.held, w.apple.hold = nil, false
				w.apple.mu.Unlock()
				held[0].done(answer) // the request was in flight
				w.wantState(n, delivery.StatePushed)
				if got := w.apple.targets(); !slices.Equal(got, []string{"aa", "aa"}) {
					t.Errorf("asked for %v", got)
				}
			})
		})
	}
}

// TestDismissalLeavesTheReplacedRegistration: so does the background push of a dismissal,
// and one that had nowhere to go leaves when a registration comes.
func TestDismissalLeavesTheReplacedRegistration(t *testing.T) {
	for _, way := range []string{"queued", "in backoff", "without a registration"} {
		t.Run(way, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "aa")
				w.accept(delivery.Request{ID: "n"})
				synctest.Wait()
				switch way {
				case "queued":
					w.apple.hold = true
				case "in backoff":
					w.apple.script = []delivery.PushResult{longRest, accepted}
				default:
					if err := w.core.RemoveRegistrations("phone", "a", delivery.ServerAPNs, ""); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.core.Dismiss(context.Background(), "n"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if err := w.core.SetRegistration("phone", "a", fcm("ff")); err != nil {
					t.Fatal(err)
				}
				w.apple.release()
				synctest.Wait()
				w.apple.mu.Lock()
				defer w.apple.mu.Unlock()
				last := w.apple.asked[len(w.apple.asked)-1]
				if last.Dismiss == nil || last.Registration.Token != "ff" {
					t.Errorf("the last push is %+v", last)
				}
				before := len(w.apple.asked)
				w.apple.mu.Unlock()
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				w.apple.mu.Lock()
				if n := len(w.apple.asked) - before; n != 0 {
					t.Errorf("%d more dismissals were pushed", n)
				}
			})
		})
	}
}

// TestBackoffEndsWithTheDelivery: the pusher hears that a push will not come back, and holds
// later ones of the registration up no longer.
func TestBackoffEndsWithTheDelivery(t *testing.T) {
	for name, end := range map[string]func(w *world, n *delivery.Notification){
		"cancelled": func(w *world, n *delivery.Notification) {
			if err := w.core.Cancel(context.Background(), n.ID); err != nil {
				w.Fatal(err)
			}
		},
		"over the channel": func(w *world, _ *delivery.Notification) { w.up("phone", acking) },
		"another token": func(w *world, _ *delivery.Notification) {
			if err := w.core.SetRegistration("phone", "a", apns("bb")); err != nil {
				w.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "aa")
				w.apple.hold = true
				n := w.accept(delivery.Request{})
				synctest.Wait()
				w.apple.mu.Lock()
				first := w.apple.held[0]
				w.apple.held, w.apple.hold = nil, false
				w.apple.mu.Unlock()
				first.done(longRest)
				synctest.Wait()
				if first.ctx.Err() != nil {
					t.Error("it is not wanted any more while it waits for its next attempt")
				}
				end(w, n)
				synctest.Wait()
				if first.ctx.Err() == nil {
					t.Error("it is still expected back")
				}
			})
		})
	}
}

// TestWhyItWaits: the timeline says that a registration was refused, and not that there is
// none.
func TestWhyItWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		for device, c := range map[string]struct {
			outcome delivery.PushOutcome
			want    string
		}{
			"suspended": {delivery.PushTokenSuspended, "the push registration is suspended: 400 BadDeviceToken"},
			"ended":     {delivery.PushTokenGone, "the push registration has ended: 400 BadDeviceToken"},
		} {
			w.knownOf(device, device, "aa"+device)
			w.apple.mu.Lock()
			w.apple.script = []delivery.PushResult{{Outcome: c.outcome, Detail: "400 BadDeviceToken"}}
			w.apple.mu.Unlock()
			w.wantState(w.accept(delivery.Request{Account: device}), delivery.StateWaiting)
			n := w.accept(delivery.Request{Account: device})
			synctest.Wait()
			v, err := w.core.Get(context.Background(), n.ID)
			if err != nil {
				t.Fatal(err)
			}
			if last := v.Timeline[len(v.Timeline)-1]; last.Detail != c.want {
				t.Errorf("%s: %v %q", device, last.Kind, last.Detail)
			}
		}
	})
}

// TestAnswerAfterTheEnd: the answer to a push whose delivery is over belongs to that one,
// and not to one accepted since.
func TestAnswerAfterTheEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.apple.hold = true
		first := w.accept(delivery.Request{})
		synctest.Wait()
		w.up("phone", acking).presence.Heartbeat()
		w.wantTimeline(first, "accepted, push_requested, published, received")
		w.known("tablet", "bb")
		second := w.accept(delivery.Request{Devices: []string{"tablet"}})
		w.wantTimeline(second, "accepted, push_requested")
		if len(w.apple.held) != 2 {
			t.Fatalf("%d pushes", len(w.apple.held))
		}
		w.apple.held[0].done(accepted)
		w.wantTimeline(first, "accepted, push_requested, published, received, pushed")
		w.wantTimeline(second, "accepted, push_requested")
		third := w.accept(delivery.Request{Devices: []string{"tablet"}})
		if _, err := w.apple.held[0].push.Current(); !errors.Is(err, delivery.ErrPushNotWanted) {
			t.Errorf("after the answer: %v", err)
		}
		w.apple.held = w.apple.held[1:]
		w.apple.release()
		w.wantState(second, delivery.StatePushed)
		w.wantState(third, delivery.StatePushed)
	})
}

package delivery_test

import (
	"context"
	"slices"
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
				synctest.Wait() // another Core knows of it once the store does
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
				synctest.Wait()
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

package apns

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// shown lists the collapse IDs of what a device shows, as numbers.
func shown(t *testing.T, sim *apnssim.Server, token string) (out []int) {
	t.Helper()
	for _, r := range sim.Shown(token) {
		n, err := strconv.Atoi(r.CollapseID)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// TestOrderAtApple: the pushes to a registration arrive in the order of acceptance at a
// server that reorders streams, limits tokens and fails. One that has failed three times
// goes on after the others (contract §2).
func TestOrderAtApple(t *testing.T) {
	sim := startSim(t, apnssim.Options{Reorder: 5 * time.Millisecond, TokenLimit: 8, TokenWindow: 100 * time.Millisecond})
	send := newSender(t, newRouter(t, fast(apnsFor(t, sim))))
	const devices, each = 5, 30
	for range 5 {
		sim.Script(apnssim.Script{Times: 5}, apnssim.Script{Times: 1, Status: 503, Reason: "ServiceUnavailable"}, apnssim.Script{Times: 7}, apnssim.Script{Times: 1, Action: apnssim.ActionReset})
	}
	for i := range each {
		for d := range devices {
			p := pushTo(hexToken(d), fmt.Sprint(i))
			send.push(p)
		}
	}
	send.wg.Wait()
	for d := range devices {
		got := shown(t, sim, hexToken(d))
		failures := map[int]int{}
		for _, r := range sim.ReceivedFor(hexToken(d)) {
			if n, err := strconv.Atoi(r.CollapseID); err == nil && r.Status != http.StatusOK {
				failures[n]++
			}
		}
		ordered := slices.DeleteFunc(slices.Clone(got), func(n int) bool { return failures[n] >= 3 })
		if len(got) != each || !slices.IsSorted(ordered) {
			t.Errorf("device %d shows %v, with failures %v", d, got, failures)
		}
	}
	if len(send.details) < 2 {
		t.Errorf("nothing has failed: %v", send.details)
	}
}

// TestNewestOfACollapseKeyIsShown although the older one is still in flight.
func TestNewestOfACollapseKeyIsShown(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	r := newRouter(t, fast(apnsFor(t, sim)))
	sim.Script(apnssim.Script{Times: 1}, apnssim.Script{Times: 1, Delay: 2 * time.Second})
	do(t, r, pushTo(hexToken(1), "first")) // all streams are granted
	done := make(chan delivery.PushResult, 3)
	for i, title := range []string{"Door open", "Door ajar", "Door closed"} {
		n := note(fmt.Sprint(i))
		n.CollapseKey, n.Title = "door", title
		p := pushNote(deviceToken, n)
		p.CollapseKey = "door"
		r.Push(t.Context(), p, func(res delivery.PushResult) { done <- res })
		if _, err := sim.Wait(t.Context(), 2); err != nil { // the first is in flight
			t.Fatal(err)
		}
	}
	for range 3 {
		<-done
	}
	got := sim.Shown(deviceToken)
	if len(got) != 1 {
		t.Fatalf("%+v", got)
	}
	if received := sim.ReceivedFor(deviceToken); len(received) != 2 {
		t.Errorf("%d requests: the one that waited was not dropped", len(received))
	}
	if !strings.Contains(string(got[0].Payload), "Door closed") {
		t.Errorf("the screen says %s", got[0].Payload)
	}
}

// TestNoPushAfterSignOut: 40 pushes are queued and the server is slow; after the
// sign-out not one more leaves.
func TestNoPushAfterSignOut(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, sim)}})
	sim.Script(apnssim.Script{Delay: 20 * time.Millisecond})
	var out atomic.Bool
	var done sync.WaitGroup
	var withdrawn atomic.Int32
	for i := range 40 {
		p := pushTo(deviceToken, fmt.Sprint(i))
		p.Current = func() (delivery.Registration, error) {
			if out.Load() {
				return delivery.Registration{}, fmt.Errorf("%w: signed out", delivery.ErrPushNotWanted)
			}
			return p.Registration, nil
		}
		done.Add(1)
		r.Push(t.Context(), p, func(res delivery.PushResult) {
			if res.Outcome == delivery.PushWithdrawn && errors.Is(res.Err, delivery.ErrPushNotWanted) {
				withdrawn.Add(1)
			}
			done.Done()
		})
	}
	if _, err := sim.Wait(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	out.Store(true)
	before := len(sim.Received())
	done.Wait()
	if after := len(sim.Received()); after > before+1 || int(withdrawn.Load()) != 40-after {
		t.Errorf("%d requests left after the sign-out, %d were withdrawn", after-before, withdrawn.Load())
	}
}

// TestMovedRegistration: a push that waits for a device goes to its new token, not to the old.
func TestMovedRegistration(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, sim)}})
	sim.Script(apnssim.Script{Times: 1}, apnssim.Script{Times: 1, Delay: 2 * time.Second}) // while it moves
	var moved atomic.Bool
	var done sync.WaitGroup
	for i := range 10 {
		p := pushTo("aa", fmt.Sprint(i))
		p.Current = func() (delivery.Registration, error) {
			now := p.Registration
			if moved.Load() {
				now.Token, now.Environment = "bb", EnvironmentSandbox // another lane
			}
			return now, nil
		}
		done.Add(1)
		r.Push(t.Context(), p, func(res delivery.PushResult) {
			if res.Outcome != delivery.PushAccepted {
				t.Errorf("%+v", res)
			}
			done.Done()
		})
	}
	if _, err := sim.Wait(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	moved.Store(true)
	done.Wait()
	old, current := shown(t, sim, "aa"), shown(t, sim, "bb")
	if len(old) > 3 || len(old)+len(current) != 10 || !slices.IsSorted(current) {
		t.Errorf("the old token got %v, the new one %v", old, current)
	}
}

// TestWrongEnvironment: 1,000 devices, the wrong environment. Few are suspended, none
// is called gone, and when it is mended all that wait are pushed.
func TestWrongEnvironment(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, sim)}})
	sim.Script(apnssim.Script{Status: 400, Reason: "BadDeviceToken"})
	var mu sync.Mutex
	outcomes := map[delivery.PushOutcome]int{}
	var done sync.WaitGroup
	done.Add(1000)
	for i := range 1000 {
		p := pushTo(hexToken(i), fmt.Sprint(i))
		p.Account, p.Urgency = fmt.Sprint(i), delivery.UrgencyNormal
		r.Push(context.Background(), p, func(res delivery.PushResult) {
			mu.Lock()
			outcomes[res.Outcome]++
			mu.Unlock()
			done.Done()
		})
	}
	for r.Status()[0].State != "paused" {
		time.Sleep(time.Millisecond)
	}
	if n := len(sim.Received()); n > 50 {
		t.Errorf("%d devices were asked before the lane stopped", n)
	}
	sim.ClearScripts() // mended
	r.Resume()
	done.Wait()
	if n := outcomes[delivery.PushTokenSuspended]; n > 50 || outcomes[delivery.PushAccepted] != 1000-n {
		t.Errorf("%v", outcomes)
	}
}

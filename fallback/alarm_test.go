package fallback

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestMostTokensAreRefused: sandbox and production mixed up shows in the tokens. The
// lane stops asking, says so once, and goes on when the configuration is mended.
func TestMostTokensAreRefused(t *testing.T) {
	var log logBuffer
	var mended atomic.Bool
	p := fake("s", 1, func(context.Context, Request) error {
		if mended.Load() {
			return nil
		}
		return badToken
	})
	bubble(t, Options{Pushers: []Pusher{p}, Logger: log.logger()}, func(t *testing.T, r *Router) {
		var got results
		for i := range 1000 {
			x := pushOf(fmt.Sprint(i), fmt.Sprint(i))
			x.Urgency = delivery.UrgencyNormal
			r.Push(t.Context(), x, got.done)
		}
		time.Sleep(10 * time.Minute)
		s := r.Status()[0]
		if s.State != "paused" || len(s.Warnings) != 1 {
			t.Errorf("%+v", s)
		}
		if n := len(got.list()); n < 5 || n > 20 {
			t.Errorf("%d of 1000 registrations were suspended in 10 min", n)
		}
		for _, res := range got.list() {
			if res.Outcome != delivery.PushTokenSuspended || res.Config == "" {
				t.Errorf("%+v", res)
			}
		}
		if n := strings.Count(log.String(), "sandbox"); n != 1 {
			t.Errorf("%d lines:\n%s", n, log.String())
		}
		mended.Store(true)
		r.Resume()
		time.Sleep(time.Second)
		if n := len(got.list()); n != 1000 || r.Status()[0].State != "ok" {
			t.Errorf("%d results, %+v", n, r.Status()[0])
		}
	})
}

var badToken = &PushError{StatusCode: 400, Reason: "BadDeviceToken", Suspend: true, Help: "of the sandbox"}

// pushOf is a push for account to a registration of its own.
func pushOf(account, token string) delivery.Push {
	x := fakePush("s", token)
	x.Account = account
	return x
}

// knowsGood is a server that knows one registration.
func knowsGood() *fakePusher {
	return fake("s", 1, func(_ context.Context, r Request) error {
		if r.Registration.Token == "good" {
			return nil
		}
		return badToken
	})
}

// TestRefusedTokensOfOneAccount: they raise no alarm, whatever their number.
func TestRefusedTokensOfOneAccount(t *testing.T) {
	p := knowsGood()
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		var bad, good results
		for i := range 600 {
			r.Push(t.Context(), pushOf("a", fmt.Sprint(i)), bad.done)
		}
		r.Push(t.Context(), pushOf("b", "good"), good.done)
		time.Sleep(10 * time.Second)
		if got := good.list(); len(got) != 1 || got[0].Outcome != delivery.PushAccepted {
			t.Errorf("the good push: %+v", got)
		}
		if n, s := len(bad.list()), r.Status()[0].State; n != 600 || s != "ok" {
			t.Errorf("%d of 600 refused registrations suspended, lane %s", n, s)
		}
	})
}

// TestProbesOfAnAlarm: after an alarm an account whose registrations are all bad takes one
// probe from the pushes of others, not one for each registration.
func TestProbesOfAnAlarm(t *testing.T) {
	for _, urgency := range []delivery.Urgency{delivery.UrgencyHigh, delivery.UrgencyNormal} {
		p := knowsGood()
		bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
			var bad, good results
			for i := range 5 {
				for j := range 120 {
					r.Push(t.Context(), pushOf(fmt.Sprint(i), fmt.Sprintf("%d-%d", i, j)), bad.done)
				}
			}
			x := pushOf("b", "good")
			x.Urgency = urgency
			r.Push(t.Context(), x, good.done)
			time.Sleep(4 * time.Second)
			if s := r.Status()[0]; s.State != "paused" || len(good.list()) != 0 {
				t.Errorf("before the first probe: %+v", s)
			}
			// The first probe is of the fifth account, after 5 s. The second is the good one,
			// if it is urgent; if not, its time comes within PauseInitial.
			wait := 7 * time.Second
			if urgency == delivery.UrgencyNormal {
				wait = 27 * time.Second
			}
			time.Sleep(wait)
			if got := good.list(); len(got) != 1 || got[0].Outcome != delivery.PushAccepted || r.Status()[0].State != "ok" || len(bad.list()) != 600 {
				t.Errorf("%v: the good push: %+v; %d of 600 suspended, %+v", urgency, got, len(bad.list()), r.Status()[0])
			}
		})
	}
}

// TestMissingPartOfTheConfiguration: pushes that it does not concern go on. A Firebase
// project without an APNs key refuses its iOS registrations, not those of Android.
func TestMissingPartOfTheConfiguration(t *testing.T) {
	var log logBuffer
	p := fake("s", 1, func(_ context.Context, r Request) error {
		if strings.HasPrefix(r.Registration.Token, "ios") {
			return &PushError{StatusCode: 401, Reason: "THIRD_PARTY_AUTH_ERROR", Suspend: true, NotToken: true, Help: "no APNs key"}
		}
		return nil
	})
	bubble(t, Options{Pushers: []Pusher{p}, Logger: log.logger()}, func(t *testing.T, r *Router) {
		var ios, android results
		for i := range 30 {
			r.Push(t.Context(), pushOf(fmt.Sprint(i), fmt.Sprintf("ios%d", i)), ios.done)
			r.Push(t.Context(), pushOf(fmt.Sprint(i), fmt.Sprintf("android%d", i)), android.done)
		}
		synctest.Wait() // no time passes
		for _, got := range []struct {
			results []delivery.PushResult
			want    delivery.PushOutcome
		}{{ios.list(), delivery.PushTokenSuspended}, {android.list(), delivery.PushAccepted}} {
			if len(got.results) != 30 || slices.ContainsFunc(got.results, func(res delivery.PushResult) bool { return res.Outcome != got.want }) {
				t.Errorf("%d results, want 30 of outcome %d: %+v", len(got.results), got.want, got.results)
			}
		}
		if s := r.Status()[0]; s.State != "ok" || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "no APNs key") {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "no APNs key") {
			t.Errorf("%d warnings:\n%s", n, log.String())
		}
	})
}

// TestRefusalsOfThePusher: a push that is refused without a request says nothing about the
// server. It neither ends an outage nor breaks the row of failures that opens the breaker.
func TestRefusalsOfThePusher(t *testing.T) {
	var up atomic.Bool
	p := fake("s", 1, func(_ context.Context, r Request) error {
		switch {
		case strings.HasPrefix(r.Registration.Token, "unsuited"):
			return &PushError{Permanent: true, Reason: "nothing to show", Err: ErrUnsuited}
		case strings.HasPrefix(r.Registration.Token, "malformed"):
			return &PushError{Suspend: true, Reason: "malformed subscription"}
		case !up.Load():
			return &PushError{StatusCode: 503}
		}
		return nil
	})
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		var refused results
		n := 0
		refuse := func() {
			r.Push(t.Context(), fakePush("s", fmt.Sprintf("unsuited%d", n)), refused.done)
			r.Push(t.Context(), fakePush("s", fmt.Sprintf("malformed%d", n)), refused.done)
			n++
		}
		for i := range 5 {
			r.Push(t.Context(), fakePush("s", fmt.Sprint(i)), func(delivery.PushResult) {})
			synctest.Wait()
			refuse()
			synctest.Wait()
		}
		if s := r.Status()[0]; s.State != "open" {
			t.Errorf("after 5 failures: %+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := r.Status()[0]; s.State != "open" || len(refused.list()) != 2*n {
			t.Errorf("after probes that were not sent: %d of %d refused, %+v", len(refused.list()), 2*n, s)
		}
		up.Store(true)
		var good results
		r.Push(t.Context(), fakePush("s", "good"), good.done)
		time.Sleep(5 * time.Second)
		if got := good.list(); len(got) != 1 || got[0].Outcome != delivery.PushAccepted || r.Status()[0].State != "ok" {
			t.Errorf("%+v, %+v", got, r.Status()[0])
		}
	})
}

// TestBusyProbeOfAnAlarm: urgent probes keep moving their own time on. A normal probe between two of
// them that is answered with a shorter rest is answered all the same.
func TestBusyProbeOfAnAlarm(t *testing.T) {
	for range 10 { // the time of the normal probe is random
		var up atomic.Bool
		p := fake("s", 1, func(_ context.Context, r Request) error {
			switch {
			case up.Load():
				return nil
			case r.Registration.Token == "good":
				up.Store(true)
				return &PushError{StatusCode: 429, Busy: true, RetryAfter: time.Second}
			}
			return badToken
		})
		bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
			var got results
			for i := range 5 {
				for j := range 20 {
					r.Push(t.Context(), pushOf(fmt.Sprint(i), fmt.Sprintf("%d-%d", i, j)), got.done)
				}
			}
			x := pushOf("b", "good")
			x.Urgency = delivery.UrgencyNormal
			r.Push(t.Context(), x, got.done)
			time.Sleep(2 * time.Minute)
			if s := r.Status()[0]; s.State != "ok" || len(got.list()) != 101 {
				t.Errorf("%d of 101 pushes answered, %+v", len(got.list()), s)
			}
		})
	}
}

// TestAlarmOutlastsAnOutage: a probe of an alarm that finds the server down, or busy, says nothing of
// the registrations: the next refusals must not be counted from the beginning.
func TestAlarmOutlastsAnOutage(t *testing.T) {
	for _, outage := range []*PushError{{StatusCode: 503}, {StatusCode: 429, Busy: true, RetryAfter: 10 * time.Second}} {
		var log logBuffer
		var began time.Time
		p := fake("s", 1, func(context.Context, Request) error {
			if passed := time.Since(began); passed > 10*time.Second && passed < 2*time.Minute {
				return outage
			}
			return badToken
		})
		bubble(t, Options{Pushers: []Pusher{p}, Logger: log.logger()}, func(t *testing.T, r *Router) {
			began = time.Now()
			c := newCore(r)
			for i := range 100 {
				x := numbered(delivery.Seq(i+1), fmt.Sprint(i), delivery.UrgencyNormal)
				x.Account = fmt.Sprint(i)
				c.push(x)
			}
			time.Sleep(10 * time.Minute)
			if s := r.Status()[0]; s.State != "paused" || !strings.Contains(s.Cause, "most push tokens are refused") {
				t.Errorf("%+v", s)
			}
			if s := log.String(); strings.Count(s, "level=ERROR") != 1 || strings.Contains(s, "push works again") || c.ended() > 20 {
				t.Errorf("%d registrations suspended:\n%s", c.ended(), s)
			}
		})
	}
}

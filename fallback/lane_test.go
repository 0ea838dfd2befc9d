package fallback

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

func lanesOf(r *Router) (keys []laneKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.lanes {
		keys = append(keys, key)
	}
	return keys
}

// TestLanesOfDeadServersAreDropped: a push service of one device that is gone for good is neither an
// alarm for ever, nor does it take a place of MaxLanes for ever.
func TestLanesOfDeadServersAreDropped(t *testing.T) {
	for name, refusal := range map[string]*PushError{
		"open":      {Err: errors.New("connection refused")},
		"paused":    {StatusCode: 403, Reason: "BadJwtToken", ConfigFault: true},
		"resting":   {StatusCode: 406, Busy: true},
		"throttled": {StatusCode: 429, Throttled: true, RetryAfter: time.Minute},
		"suspended": {StatusCode: 401, Suspend: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := lanedPusher{fake("s", 1, func(context.Context, Request) error { return refusal })}
			bubble(t, Options{Pushers: []Pusher{p}, MaxLanes: 10}, func(t *testing.T, r *Router) {
				c := newCore(r)
				seq := delivery.Seq(0)
				for origin := range 10 {
					for range 5 {
						seq++
						x := numbered(seq, fmt.Sprintf("origin%d/%d", origin, seq), delivery.UrgencyNormal)
						x.ExpiresAt = time.Now().Add(5 * time.Minute)
						c.push(x)
					}
				}
				time.Sleep(3 * time.Minute)
				if n := len(lanesOf(r)); n != 10 {
					t.Errorf("%d lanes while pushes wait", n)
				}
				time.Sleep(time.Hour)
				if keys := lanesOf(r); len(keys) != 0 || r.Status()[0].State != "ok" {
					t.Errorf("after an hour: %v, %+v", keys, r.Status()[0])
				}
			})
		})
	}
}

// TestMadeUpOriginsLeaveKnownOnesTheirLanes: a known push service has a lane of its own also where
// devices have made up as many others as may have lanes.
func TestMadeUpOriginsLeaveKnownOnesTheirLanes(t *testing.T) {
	p := lanedPusher{fake("s", 10, func(ctx context.Context, r Request) error {
		if strings.HasPrefix(r.Registration.Token, "known/") {
			time.Sleep(time.Second)
			return nil
		}
		return &PushError{Err: errors.New("no such host")}
	})}
	bubble(t, Options{Pushers: []Pusher{p}, MaxLanes: 10}, func(t *testing.T, r *Router) {
		for i := range 100 {
			r.Push(t.Context(), fakePush("s", fmt.Sprintf("made-up-%d/x", i)), func(delivery.PushResult) {})
		}
		synctest.Wait()
		for range 2 { // its lane is dropped in between
			r.Push(t.Context(), fakePush("s", "known/1"), func(delivery.PushResult) {})
			synctest.Wait()
			r.mu.Lock()
			own := r.lanes[laneKey{app: p.apps[0], origin: "known"}]
			r.mu.Unlock()
			if own == nil {
				t.Errorf("it has no lane of its own: %v", lanesOf(r))
			}
			time.Sleep(2 * time.Second)
		}
	})
}

// TestAlarmOfALaneThatIsIdleBetween: the refusals of several accounts count together also where the
// lane has nothing to do between two of them.
func TestAlarmOfALaneThatIsIdleBetween(t *testing.T) {
	p := lanedPusher{fake("s", 1, func(context.Context, Request) error { return badToken })}
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		for i := range 5 {
			r.Push(t.Context(), pushOf(fmt.Sprint(i), fmt.Sprintf("known/%d", i)), func(delivery.PushResult) {})
			time.Sleep(time.Minute)
		}
		if s := r.Status()[0]; s.State != "paused" {
			t.Errorf("%+v", s)
		}
	})
}

// TestReasonsAreLoggedForEver: a server that invents reasons does not end the log of later ones.
func TestReasonsAreLoggedForEver(t *testing.T) {
	var log logBuffer
	p := fake("s", 1, func(_ context.Context, r Request) error {
		return &PushError{StatusCode: 400, Reason: r.Registration.Token, Permanent: true}
	})
	bubble(t, Options{Pushers: []Pusher{p}, Logger: log.logger()}, func(t *testing.T, r *Router) {
		for i := range maxReasons + 1 {
			do(t, r, fakePush("s", fmt.Sprint("invented", i)))
		}
		time.Sleep(2 * time.Minute)
		do(t, r, fakePush("s", "later"))
		if s := log.String(); strings.Count(s, "invented") != maxReasons || strings.Count(s, "later") != 1 {
			t.Errorf("%d invented ones:\n%s", strings.Count(s, "invented"), s)
		}
	})
}

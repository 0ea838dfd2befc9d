package fallback

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// numbered is a push with its place in the order of acceptance.
func numbered(seq delivery.Seq, token string, u delivery.Urgency) delivery.Push {
	p := fakePush("s", token)
	p.Seq, p.Urgency = seq, u
	return p
}

// core plays the core: it pushes again after RetryAfter until the push has an end.
type core struct {
	r      *Router
	writes time.Duration // how long it takes to record an attempt
	mu     sync.Mutex
	// ends holds the final outcome of each push.
	ends map[delivery.Seq]delivery.PushOutcome
}

func newCore(r *Router) *core { return &core{r: r, ends: map[delivery.Seq]delivery.PushOutcome{}} }

func (c *core) push(p delivery.Push) {
	c.r.Push(context.Background(), p, func(res delivery.PushResult) {
		if res.Outcome == delivery.PushRetry && !errors.Is(res.Err, ErrClosed) {
			p.Attempt++
			time.AfterFunc(res.RetryAfter+c.writes, func() { c.push(p) })
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ends[p.Seq] = res.Outcome
	})
}

func (c *core) end(seq delivery.Seq) delivery.PushOutcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ends[seq]
}

func (c *core) ended() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ends)
}

// accepting returns a Pusher's push function that notes which pushes it has accepted, in
// order. fail may refuse the n-th request for a notification; nil: none.
func accepting(fail func(r Request, n int) error) (func(context.Context, Request) error, func(token string) []string) {
	var mu sync.Mutex
	accepted, tries, inFlight := map[string][]string{}, map[string]int{}, map[string]int{}
	push := func(_ context.Context, r Request) error {
		token := r.Registration.Token
		mu.Lock()
		inFlight[token]++
		if inFlight[token] > 1 {
			accepted[token] = append(accepted[token], "two in flight")
		}
		mu.Unlock()
		time.Sleep(time.Duration(1+rand.IntN(20)) * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		inFlight[token]--
		id := r.Notification.ID
		tries[id]++
		if fail != nil {
			if err := fail(r, tries[id]); err != nil {
				return err
			}
		}
		accepted[token] = append(accepted[token], id)
		return nil
	}
	return push, func(token string) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(accepted[token])
	}
}

func ids(from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

// TestOrder: the pushes to one registration arrive in the order of acceptance,
// whatever fails in between.
func TestOrder(t *testing.T) {
	for name, fail := range map[string]func(Request, int) error{
		"calm": nil,
		"503 first": func(r Request, n int) error {
			if r.Notification.ID == "1" && n == 1 {
				return &PushError{StatusCode: 503}
			}
			return nil
		},
		"each fails twice": func(_ Request, n int) error {
			if n <= 2 {
				return &PushError{StatusCode: 500}
			}
			return nil
		},
		"429 at times": func(r Request, n int) error {
			if n == 1 && strings.HasSuffix(r.Notification.ID, "3") {
				return &PushError{StatusCode: 429, Throttled: true, RetryAfter: 7 * time.Second}
			}
			return nil
		},
		"timeouts": func(r Request, n int) error {
			if n == 1 && rand.IntN(3) == 0 {
				return &PushError{Err: context.DeadlineExceeded}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			push, accepted := accepting(fail)
			p := fake("s", 100, push)
			bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
				c := newCore(r)
				for i := range 30 {
					for _, token := range []string{"a", "b", "c"} {
						c.push(numbered(delivery.Seq(i+1), token, delivery.UrgencyNormal))
					}
					time.Sleep(time.Duration(rand.IntN(3)) * 10 * time.Millisecond)
				}
				time.Sleep(time.Hour)
				for _, token := range []string{"a", "b", "c"} {
					if got := accepted(token); !slices.Equal(got, ids(1, 30)) {
						t.Errorf("%s: %v", token, got)
					}
				}
			})
		})
	}
}

// TestFailingPushDoesNotHoldUpTheNext for longer than three attempts, and goes on
// behind those that wait.
func TestFailingPushDoesNotHoldUpTheNext(t *testing.T) {
	push, accepted := accepting(func(r Request, n int) error {
		if r.Notification.ID == "1" && n <= 6 {
			return &PushError{StatusCode: 503}
		}
		return nil
	})
	p := fake("s", 100, push)
	bubble(t, Options{Pushers: []Pusher{p}, BreakerFailures: 100}, func(t *testing.T, r *Router) {
		c := newCore(r)
		for i := range 5 {
			c.push(numbered(delivery.Seq(i+1), "a", delivery.UrgencyNormal))
		}
		time.Sleep(500 * time.Millisecond)
		if got := accepted("a"); len(got) != 0 {
			t.Errorf("the next passed the first before its third failure: %v", got)
		}
		time.Sleep(time.Hour)
		if got := accepted("a"); !slices.Equal(got, []string{"2", "3", "4", "5", "1"}) {
			t.Errorf("%v", got)
		}
	})
}

// TestPushThatDoesNotComeBack: the next one does not wait for the Retry-After of a push that
// the core no longer wants.
func TestPushThatDoesNotComeBack(t *testing.T) {
	push, accepted := accepting(func(r Request, _ int) error {
		if r.Notification.ID == "1" {
			return &PushError{StatusCode: 503, RetryAfter: time.Hour}
		}
		return nil
	})
	bubble(t, Options{Pushers: []Pusher{fake("s", 100, push)}}, func(t *testing.T, r *Router) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		back := make(chan delivery.PushResult, 2)
		done := func(res delivery.PushResult) { back <- res }
		r.Push(ctx, numbered(1, "a", delivery.UrgencyHigh), done)
		if res := <-back; res.Outcome != delivery.PushRetry {
			t.Fatalf("got %+v", res)
		}
		cancel() // its notification was cancelled
		began := time.Now()
		r.Push(t.Context(), numbered(2, "a", delivery.UrgencyHigh), done)
		if <-back; time.Since(began) > time.Second || !slices.Equal(accepted("a"), []string{"2"}) {
			t.Errorf("the next was pushed after %s: %v", time.Since(began), accepted("a"))
		}
	})
}

// TestCollapse: of one collapse key the newest push is the last that the server sees.
// An older one that waits is dropped; one that has failed and comes back is, too.
func TestCollapse(t *testing.T) {
	push, accepted := accepting(func(r Request, n int) error {
		if r.Notification.ID == "1" && n <= 3 {
			return &PushError{StatusCode: 503}
		}
		return nil
	})
	p := fake("s", 100, push)
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		c := newCore(r)
		send := func(seq delivery.Seq, key string) {
			x := numbered(seq, "a", delivery.UrgencyNormal)
			x.CollapseKey = key
			c.push(x)
			synctest.Wait()
		}
		send(1, "door")
		send(2, "other")
		send(3, "door") // while 1 is in flight
		send(4, "door") // takes the place of 3, which waits
		time.Sleep(time.Hour)
		if got := accepted("a"); !slices.Equal(got, []string{"2", "4"}) {
			t.Errorf("the server has accepted %v", got)
		}
		if c.end(1) != delivery.PushRefused || c.end(3) != delivery.PushRefused || c.end(4) != delivery.PushAccepted {
			t.Errorf("%v, %v, %v", c.end(1), c.end(3), c.end(4))
		}
	})
}

// TestHighFirst: an urgent push passes the normal ones of a campaign, and of its own
// registration.
func TestHighFirst(t *testing.T) {
	p := fake("s", 10, func(context.Context, Request) error { time.Sleep(50 * time.Millisecond); return nil })
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		for i := range 10_000 {
			r.Push(t.Context(), numbered(delivery.Seq(i+1), fmt.Sprint(i%2000), delivery.UrgencyNormal), func(delivery.PushResult) {})
		}
		time.Sleep(time.Second)
		var got results
		start := time.Now()
		r.Push(t.Context(), numbered(20_000, "1999", delivery.UrgencyHigh), got.done)
		for len(got.list()) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > 120*time.Millisecond {
			t.Errorf("an urgent push took %v behind a campaign", took)
		}
	})
}

// TestHighAfterAnOutage: while the server is down an urgent push is the probe every
// 5 s, and when it is back the urgent ones go first.
func TestHighAfterAnOutage(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	var mu sync.Mutex
	var order []delivery.Urgency
	p := fake("s", 1, func(_ context.Context, r Request) error {
		time.Sleep(5 * time.Millisecond)
		if broken.Load() {
			return &PushError{StatusCode: 503}
		}
		mu.Lock()
		defer mu.Unlock()
		order = append(order, r.Notification.Urgency)
		return nil
	})
	content := urgentWhere(func(seq delivery.Seq) bool { return seq >= 1000 })
	bubble(t, Options{Pushers: []Pusher{p}, Content: content}, func(t *testing.T, r *Router) {
		c := newCore(r)
		push := func(seq delivery.Seq, u delivery.Urgency) {
			x := numbered(seq, fmt.Sprint(seq), u)
			c.push(x)
		}
		for i := range 200 {
			push(delivery.Seq(i+1), delivery.UrgencyNormal)
		}
		time.Sleep(10 * time.Minute)
		for i := range 20 {
			push(delivery.Seq(i+1000), delivery.UrgencyHigh)
		}
		before := p.requests()
		time.Sleep(time.Minute)
		if n := p.requests() - before; n < 10 || n > 30 {
			t.Errorf("%d probes in a minute with urgent pushes waiting", n)
		}
		broken.Store(false)
		back := time.Now()
		for {
			mu.Lock()
			high := 0
			for _, u := range order {
				if u == delivery.UrgencyHigh {
					high++
				}
			}
			n := len(order)
			mu.Unlock()
			if high == 20 {
				if took := time.Since(back); took > 6*time.Second {
					t.Errorf("the last urgent push left %v after the server's return, %d before it", took, n)
				}
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Hour)
		if c.ended() != 220 {
			t.Errorf("%d of 220 have an end", c.ended())
		}
	})
}

// TestServerNamesATime: an urgent push waits for it, too.
func TestServerNamesATime(t *testing.T) {
	for name, err := range map[string]*PushError{
		"Retry-After": {StatusCode: 503, RetryAfter: 2 * time.Minute},
		"busy":        {StatusCode: 429, Busy: true, RetryAfter: 2 * time.Minute},
		"credentials": {StatusCode: 403, ConfigFault: true, RetryAfter: 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			p := fake("s", 1, func(context.Context, Request) error { return err })
			bubble(t, Options{Pushers: []Pusher{p}, BreakerFailures: 1}, func(t *testing.T, r *Router) {
				r.Push(t.Context(), numbered(1, "a", delivery.UrgencyNormal), func(delivery.PushResult) {})
				synctest.Wait()
				for i := range 10 {
					r.Push(t.Context(), numbered(delivery.Seq(i+2), fmt.Sprint(i), delivery.UrgencyHigh), func(delivery.PushResult) {})
				}
				time.Sleep(119 * time.Second)
				if n := p.requests(); n != 1 {
					t.Errorf("%d requests before the time that the server has named", n)
				}
				time.Sleep(5 * time.Second)
				if n := p.requests(); n < 2 {
					t.Error("no probe after that time")
				}
			})
		})
	}
}

// TestUnsentProbe: a probe that could not be sent, because its Pusher does not connect yet,
// says nothing of the server. It is sent when the Pusher does, and the pause is no longer
// for it: neither an urgent push nor a normal one waits for another turn.
func TestUnsentProbe(t *testing.T) {
	for name, u := range map[string]delivery.Urgency{"high": delivery.UrgencyHigh, "normal": delivery.UrgencyNormal} {
		t.Run(name, func(t *testing.T) {
			var connects atomic.Int64 // when the Pusher connects, Unix nanoseconds
			var broken atomic.Bool
			broken.Store(true)
			p := fake("s", 1, func(context.Context, Request) error {
				if wait := time.Until(time.Unix(0, connects.Load())); wait > 0 {
					return &PushError{Unsent: true, RetryAfter: wait, Err: errors.New("not yet")}
				}
				if broken.Load() {
					return &PushError{StatusCode: 503}
				}
				return nil
			})
			content := urgentWhere(func(delivery.Seq) bool { return u == delivery.UrgencyHigh })
			bubble(t, Options{Pushers: []Pusher{p}, Content: content}, func(t *testing.T, r *Router) {
				c := newCore(r)
				for i := range 20 {
					c.push(numbered(delivery.Seq(i+1), fmt.Sprint(i), u))
				}
				time.Sleep(10 * time.Minute) // the pauses are at their longest
				before := r.Status()[0]
				if before.State != "open" || before.Cause != "503" {
					t.Fatalf("%+v", before)
				}
				// The server is back, and the Pusher connects 4 s after the next probe's turn.
				broken.Store(false)
				next := before.NextTry
				if u == delivery.UrgencyHigh {
					next = time.Now().Add(highProbe)
				}
				at := next.Add(4 * time.Second)
				connects.Store(at.UnixNano())
				time.Sleep(time.Until(at) - time.Millisecond)
				synctest.Wait()
				if s := r.Status()[0]; s.State != "open" || s.Cause != before.Cause {
					t.Errorf("before the Pusher connects: %+v", s)
				}
				if s := r.Status()[0]; !s.NextTry.Equal(at) && u == delivery.UrgencyNormal {
					t.Errorf("the next probe comes %v after the Pusher connects", s.NextTry.Sub(at))
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if s := r.Status()[0]; s.State != "ok" {
					t.Errorf("when the Pusher connects: %+v", s)
				}
				time.Sleep(2 * time.Minute)
				if c.ended() != 20 {
					t.Errorf("%d of 20 have an end", c.ended())
				}
			})
		})
	}
}

// TestUnsentPushes: a Pusher that does not connect for long opens the breaker, too, and
// urgent pushes go on as the probes, however long the first pause is.
func TestUnsentPushes(t *testing.T) {
	p := fake("s", 1, func(context.Context, Request) error {
		return &PushError{Unsent: true, RetryAfter: 4 * time.Second, Err: errors.New("not yet")}
	})
	bubble(t, Options{Pushers: []Pusher{p}, RetryInitial: 30 * time.Second}, func(t *testing.T, r *Router) {
		c := newCore(r)
		for i := range 100 {
			c.push(numbered(delivery.Seq(i+1), fmt.Sprint(i), delivery.UrgencyHigh))
		}
		time.Sleep(14 * time.Second)
		if s := r.Status()[0]; s.State != "open" {
			t.Errorf("%+v", s)
		}
		if n := p.requests(); n < 7 || n > 9 {
			t.Errorf("%d attempts: want the 5 that open the breaker, one within 5 s, then one every 4 s", n)
		}
	})
}

// TestBusy: the app rests for as long as the server says, and nobody is at fault.
func TestBusy(t *testing.T) {
	var log logBuffer
	var busy atomic.Bool
	busy.Store(true)
	p := fake("s", 5, func(context.Context, Request) error {
		time.Sleep(time.Millisecond)
		if busy.Load() {
			return &PushError{StatusCode: 429, Reason: "QUOTA_EXCEEDED", Busy: true}
		}
		return nil
	})
	bubble(t, Options{Pushers: []Pusher{p}, Logger: log.logger()}, func(t *testing.T, r *Router) {
		c := newCore(r)
		for i := range 100 {
			c.push(numbered(delivery.Seq(i+1), fmt.Sprint(i), delivery.UrgencyHigh))
		}
		time.Sleep(59 * time.Second)
		if n := p.requests(); n > 5 {
			t.Errorf("%d requests of an app that was to rest", n)
		}
		if s := r.Status()[0]; s.State != "resting" || !strings.Contains(s.Cause, "QUOTA_EXCEEDED") {
			t.Errorf("%+v", s)
		}
		busy.Store(false)
		time.Sleep(5 * time.Second)
		if s := r.Status()[0]; s.State != "ok" || c.ended() != 100 {
			t.Errorf("%+v, %d ends", s, c.ended())
		}
		if strings.Contains(log.String(), "WARN") || strings.Contains(log.String(), "ERROR") {
			t.Errorf("%s", log.String())
		}
	})
}

// TestUrgentFirstAfterARest: urgent pushes that were sent away with a time go before the
// normal ones that wait in the lane, though the core records their attempts first. No
// request is made before the time.
func TestUrgentFirstAfterARest(t *testing.T) {
	var mu sync.Mutex
	sent := map[delivery.Urgency][]time.Time{} // of one instant: under way together
	began := time.Time{}
	p := fake("s", 5, func(_ context.Context, r Request) error {
		time.Sleep(time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		switch passed := time.Since(began); {
		case passed < time.Second:
			return &PushError{StatusCode: 429, Reason: "QUOTA_EXCEEDED", Busy: true, RetryAfter: 30 * time.Second}
		case passed < 30*time.Second:
			t.Errorf("a request %s after the refusal", passed)
		}
		sent[r.Notification.Urgency] = append(sent[r.Notification.Urgency], time.Now())
		return nil
	})
	content := urgentWhere(func(seq delivery.Seq) bool { return seq < 10 })
	bubble(t, Options{Pushers: []Pusher{p}, Content: content, RetryInitial: 10 * time.Second, RetryMax: time.Minute}, func(t *testing.T, r *Router) {
		began = time.Now()
		c := newCore(r)
		c.writes = 50 * time.Millisecond
		for i := range 5 {
			c.push(numbered(delivery.Seq(i+1), fmt.Sprint("h", i), delivery.UrgencyHigh))
		}
		for i := range 50 {
			c.push(numbered(delivery.Seq(i+10), fmt.Sprint("n", i), delivery.UrgencyNormal))
		}
		time.Sleep(2 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		high, normal := sent[delivery.UrgencyHigh], sent[delivery.UrgencyNormal]
		if len(high) != 5 || len(normal) != 50 {
			t.Fatalf("sent %d urgent pushes and %d normal ones", len(high), len(normal))
		}
		if normal[0].Before(high[4]) {
			t.Errorf("a normal push was sent %s before an urgent one", high[4].Sub(normal[0]))
		}
	})
}

// TestCurrent: a waiting push is looked up when its turn comes: one that is not wanted
// makes no request, one whose registration was replaced goes to the new one.
func TestCurrent(t *testing.T) {
	release := make(chan struct{})
	var mu sync.Mutex
	var sent []string
	push := func(_ context.Context, r Request) error {
		mu.Lock()
		sent = append(sent, r.App.Name+" "+r.Registration.Token)
		mu.Unlock()
		<-release
		return nil
	}
	p := fake("s", 1, push)
	p.apps = append(p.apps, App{Server: "s", Name: "app2"})
	r := newRouter(t, Options{Pushers: []Pusher{p}})
	var first, second, third results
	block := fakePush("s", "a")
	r.Push(t.Context(), block, first.done)

	x := fakePush("s", "b")
	x.Current = func() (delivery.Registration, error) {
		return delivery.Registration{}, fmt.Errorf("%w: signed out", delivery.ErrPushNotWanted)
	}
	r.Push(t.Context(), x, second.done)
	y := fakePush("s", "b")
	y.Current = func() (delivery.Registration, error) {
		return delivery.Registration{Server: "s", App: "app2", Token: "new"}, nil
	}
	r.Push(t.Context(), y, third.done)
	close(release)
	for deadline := time.Now().Add(2 * time.Minute); len(third.list()) == 0 || len(second.list()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no result")
		}
	}
	if l := second.list(); l[0].Outcome != delivery.PushWithdrawn || !errors.Is(l[0].Err, delivery.ErrPushNotWanted) {
		t.Errorf("%+v", l)
	}
	if l := third.list(); l[0].Outcome != delivery.PushAccepted || l[0].Registration.Token != "new" {
		t.Errorf("%+v", l)
	}
	if !slices.Equal(sent, []string{"app a", "app2 new"}) {
		t.Errorf("%v", sent)
	}
}

// TestUnwantedWhileTheServerIsDown: a push that is cancelled or expires is answered
// although nothing is sent.
func TestUnwantedWhileTheServerIsDown(t *testing.T) {
	p := fake("s", 1, func(context.Context, Request) error { return &PushError{StatusCode: 503, RetryAfter: time.Hour} })
	bubble(t, Options{Pushers: []Pusher{p}, BreakerFailures: 1}, func(t *testing.T, r *Router) {
		r.Push(t.Context(), fakePush("s", "a"), func(delivery.PushResult) {})
		synctest.Wait()
		var cancelled, expired results
		ctx, cancel := context.WithCancel(t.Context())
		r.Push(ctx, fakePush("s", "b"), cancelled.done)
		x := fakePush("s", "b")
		x.ExpiresAt = time.Now().Add(time.Minute)
		r.Push(t.Context(), x, expired.done)
		cancel()
		time.Sleep(2 * time.Second)
		if l := cancelled.list(); len(l) != 1 || !errors.Is(l[0].Err, context.Canceled) {
			t.Errorf("%+v", l)
		}
		time.Sleep(time.Minute)
		if l := expired.list(); len(l) != 1 || l[0].Outcome != delivery.PushRefused {
			t.Errorf("%+v", l)
		}
	})
}

// lanedPusher is a fakePusher whose app speaks to a push service for each token's
// first part.
type lanedPusher struct{ *fakePusher }

func (lanedPusher) Origin(r delivery.Registration) string {
	origin, _, _ := strings.Cut(r.Token, "/")
	return origin
}

func (lanedPusher) OriginLabel(origin string) string {
	if origin == "known" {
		return origin
	}
	return "other"
}

// TestOrigins: a dead push service does not hold up another, and one that refuses our
// key pauses alone.
func TestOrigins(t *testing.T) {
	p := lanedPusher{fake("s", 10, func(_ context.Context, r Request) error {
		switch origin, _, _ := strings.Cut(r.Registration.Token, "/"); origin {
		case "dead":
			return &PushError{Err: errors.New("connection refused")}
		case "refuses":
			return &PushError{StatusCode: 403, ConfigFault: true}
		}
		return nil
	})}
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		for i := range 20 {
			r.Push(t.Context(), fakePush("s", fmt.Sprintf("dead/%d", i)), func(delivery.PushResult) {})
			r.Push(t.Context(), fakePush("s", fmt.Sprintf("refuses/%d", i)), func(delivery.PushResult) {})
		}
		synctest.Wait()
		var got results
		start := time.Now()
		r.Push(t.Context(), fakePush("s", "known/1"), got.done)
		synctest.Wait()
		if l := got.list(); len(l) != 1 || l[0].Outcome != delivery.PushAccepted || time.Since(start) != 0 {
			t.Errorf("%+v after %v", l, time.Since(start))
		}
		st := r.Status()
		if len(st) != 2 || st[0].Origin != "other" || st[0].State != "paused" || st[1].Origin != "known" || st[1].State != "ok" {
			t.Errorf("%+v", st)
		}
	})
}

// TestLanesAreBounded: they are dropped when idle, and those over the cap share one.
func TestLanesAreBounded(t *testing.T) {
	release := make(chan struct{})
	p := lanedPusher{fake("s", 1, func(context.Context, Request) error { <-release; return nil })}
	r := newRouter(t, Options{Pushers: []Pusher{p}, MaxLanes: 10})
	var done sync.WaitGroup
	done.Add(100)
	for i := range 100 {
		r.Push(t.Context(), fakePush("s", fmt.Sprintf("origin%d/x", i)), func(delivery.PushResult) { done.Done() })
	}
	lanes := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.lanes)
	}
	if n := lanes(); n != 11 {
		t.Errorf("%d lanes", n)
	}
	close(release)
	done.Wait()
	for deadline := time.Now().Add(2 * time.Minute); lanes() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d lanes are left", lanes())
		}
	}
	if n := count(t, r, "accepted"); n != 100 {
		t.Errorf("%d are counted", n)
	}
}

// TestSharedLanes: with all lanes in use by push services that nobody knows and that are
// down, pushes to a known one go out at once.
func TestSharedLanes(t *testing.T) {
	p := lanedPusher{fake("s", 10, func(_ context.Context, r Request) error {
		if !strings.HasPrefix(r.Registration.Token, "known/") {
			return &PushError{Err: errors.New("no such host")}
		}
		return nil
	})}
	bubble(t, Options{Pushers: []Pusher{p}, MaxLanes: 10}, func(t *testing.T, r *Router) {
		for i := range 100 {
			r.Push(t.Context(), fakePush("s", fmt.Sprintf("made-up-%d/x", i)), func(delivery.PushResult) {})
		}
		synctest.Wait()
		var got results
		r.Push(t.Context(), fakePush("s", "known/1"), got.done)
		synctest.Wait() // no time passes
		if l := got.list(); len(l) != 1 || l[0].Outcome != delivery.PushAccepted {
			t.Errorf("%+v", l)
		}
	})
}

// TestLimitsOfAServer: each server has its own.
func TestLimitsOfAServer(t *testing.T) {
	hang := func(ctx context.Context, _ Request) error { <-ctx.Done(); return &PushError{Err: ctx.Err()} }
	a, b := fake("a", 10, hang), fake("b", 10, hang)
	bubble(t, Options{Pushers: []Pusher{a, b}, Timeout: 3 * time.Second, Servers: map[string]Limits{"b": {Timeout: time.Second, MaxConcurrent: 2}}}, func(t *testing.T, r *Router) {
		var fromA, fromB results
		for i := range 20 {
			r.Push(t.Context(), fakePush("a", fmt.Sprint(i)), fromA.done)
			r.Push(t.Context(), fakePush("b", fmt.Sprint(i)), fromB.done)
		}
		synctest.Wait()
		if a.requests() != 10 || b.requests() != 2 {
			t.Errorf("%d and %d requests", a.requests(), b.requests())
		}
		time.Sleep(1100 * time.Millisecond)
		if l := fromB.list(); len(l) != 2 || l[0].Detail != "timeout after 1s" || len(fromA.list()) != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// TestWithoutServers: the router is there, keeps nothing and closes.
func TestWithoutServers(t *testing.T) {
	r, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if res := do(t, r, fakePush("s", "t")); res.Outcome != delivery.PushUnserved {
		t.Errorf("%+v", res)
	}
	if reg, err := r.Complete(delivery.Registration{Server: "s", Token: "t"}); err != nil || reg.Token != "t" {
		t.Errorf("%+v %v", reg, err)
	}
	var closing sync.WaitGroup
	for range 3 { // at once
		closing.Go(func() {
			if err := r.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	closing.Wait()
	if err := r.Close(t.Context()); err != nil { // and again
		t.Error(err)
	}
}

// TestPlaceBehindAFailure: a push that comes back goes before the later ones, although one that has
// failed three times waits behind those.
func TestPlaceBehindAFailure(t *testing.T) {
	t.Parallel()
	var q queue
	put := func(seq delivery.Seq, failures int) {
		q.insert(&item{push: numbered(seq, "token", delivery.UrgencyHigh), failures: failures})
	}
	for seq := range delivery.Seq(4) {
		put(seq+9, 0)
	}
	put(7, holdAttempts)
	put(8, 1)
	put(13, 0)
	var got []delivery.Seq
	for x := q.class[classHigh].head; x != nil; x = x.next {
		got = append(got, x.push.Seq)
	}
	if want := []delivery.Seq{8, 9, 10, 11, 12, 7, 13}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

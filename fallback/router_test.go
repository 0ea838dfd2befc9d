package fallback

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// fakePusher is a notification server as the test wants it.
type fakePusher struct {
	apps  []App
	limit int
	push  func(ctx context.Context, r Request) error

	mu     sync.Mutex
	at     []time.Time // of the requests
	closed bool
}

func (f *fakePusher) Apps() []App { return f.apps }

func (f *fakePusher) Normalize(t delivery.Registration) (delivery.Registration, error) { return t, nil }

func (f *fakePusher) Fits(n *delivery.Notification) error {
	if len(n.Body) > 10 {
		return ErrTooLarge
	}
	return nil
}

func (f *fakePusher) Concurrency(App) int { return f.limit }

func (f *fakePusher) Push(ctx context.Context, r Request) (string, error) {
	f.mu.Lock()
	f.at = append(f.at, time.Now())
	f.mu.Unlock()
	return "", f.push(ctx, r)
}

func (f *fakePusher) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

func (f *fakePusher) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.at)
}

func fake(name string, limit int, push func(context.Context, Request) error) *fakePusher {
	return &fakePusher{apps: []App{{Server: name, Name: "app"}}, limit: limit, push: push}
}

func fakePush(server, token string) delivery.Push {
	return delivery.Push{Device: "d", Attempt: 1, Registration: delivery.Registration{Server: server, App: "app", Token: token}}
}

// results collects what done is called with.
type results struct {
	mu  sync.Mutex
	all []delivery.PushResult
}

func (r *results) done(res delivery.PushResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, res)
}

func (r *results) list() []delivery.PushResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]delivery.PushResult(nil), r.all...)
}

// bubble runs fn where time is fake, with a router that is closed at the end.
func bubble(t *testing.T, opts Options, fn func(t *testing.T, r *Router)) {
	t.Helper()
	testtool.Bubble(t, func(t *testing.T) {
		if opts.Content == nil {
			opts.Content = content
		}
		r, err := New(opts)
		if err != nil {
			t.Fatal(err)
		}
		fn(t, r)
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// TestStormOfOneAppDoesNotDelayAnother: one server hangs under a long queue.
func TestStormOfOneAppDoesNotDelayAnother(t *testing.T) {
	slow := fake("slow", 10, func(ctx context.Context, _ Request) error { <-ctx.Done(); return ctx.Err() })
	fast := fake("fast", 10, func(context.Context, Request) error { return nil })
	bubble(t, Options{Pushers: []Pusher{slow, fast}}, func(t *testing.T, r *Router) {
		var got results
		for i := range 1000 {
			r.Push(t.Context(), fakePush("slow", fmt.Sprint(i)), func(delivery.PushResult) {})
		}
		start := time.Now()
		r.Push(t.Context(), fakePush("fast", "t"), got.done)
		synctest.Wait()
		if l := got.list(); len(l) != 1 || l[0].Outcome != delivery.PushAccepted || time.Since(start) != 0 {
			t.Errorf("%+v after %v", l, time.Since(start))
		}
		if n := slow.requests(); n != 10 {
			t.Errorf("%d requests under way, the limit is 10", n)
		}
	})
}

// TestWaitingIsCheap: no goroutine and little memory for a push that waits.
func TestWaitingIsCheap(t *testing.T) {
	release := make(chan struct{})
	p := fake("s", 3, func(context.Context, Request) error { <-release; return nil })
	r := newRouter(t, Options{Pushers: []Pusher{p}})
	const n = 50_000
	var wg sync.WaitGroup
	wg.Add(n)
	pushes := make([]delivery.Push, n)
	for i := range pushes {
		pushes[i] = fakePush("s", fmt.Sprint(i%(n/2))) // two for each registration
	}
	done := func(delivery.PushResult) { wg.Done() }
	before := runtime.NumGoroutine()
	var m0, m1 runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m0)
	for i := range n {
		r.Push(t.Context(), pushes[i], done)
	}
	runtime.GC()
	runtime.ReadMemStats(&m1)
	if more := runtime.NumGoroutine() - before; more > 3 {
		t.Errorf("%d goroutines for a limit of 3", more)
	}
	each := (int64(m1.HeapAlloc) - int64(m0.HeapAlloc)) / n
	t.Logf("%d bytes for each push that waits", each)
	if each > 700 {
		t.Errorf("%d bytes for each push that waits", each)
	}
	runtime.KeepAlive(pushes)
	close(release)
	wg.Wait()
}

func TestCancelledPushIsDropped(t *testing.T) {
	var release chan struct{} // of the bubble
	p := fake("s", 1, func(context.Context, Request) error { <-release; return nil })
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		release = make(chan struct{})
		var first, second, third results
		ctx, cancel := context.WithCancel(t.Context())
		r.Push(ctx, fakePush("s", "t"), first.done)
		synctest.Wait()
		r.Push(ctx, fakePush("s", "t"), second.done)
		expired := fakePush("s", "t")
		expired.ExpiresAt = time.Now().Add(time.Second)
		r.Push(t.Context(), expired, third.done)
		cancel()
		time.Sleep(time.Second)
		close(release)
		synctest.Wait()
		// The one under way is not cut off: it may have been accepted.
		if l := first.list(); len(l) != 1 || l[0].Outcome != delivery.PushAccepted {
			t.Errorf("under way: %+v", l)
		}
		if l := second.list(); len(l) != 1 || !errors.Is(l[0].Err, context.Canceled) {
			t.Errorf("waiting: %+v", l)
		}
		if l := third.list(); len(l) != 1 || l[0].Outcome != delivery.PushRefused {
			t.Errorf("expired: %+v", l)
		}
		if p.requests() != 1 {
			t.Errorf("%d requests", p.requests())
		}
	})
}

func TestTimeout(t *testing.T) {
	p := fake("s", 1, func(ctx context.Context, _ Request) error { <-ctx.Done(); return &PushError{Err: ctx.Err()} })
	bubble(t, Options{Pushers: []Pusher{p}, Timeout: 4 * time.Second}, func(t *testing.T, r *Router) {
		var got results
		start := time.Now()
		r.Push(t.Context(), fakePush("s", "t"), got.done)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		l := got.list()
		if len(l) != 1 || l[0].Outcome != delivery.PushRetry || l[0].Detail != "timeout after 4s" || !errors.Is(l[0].Err, context.DeadlineExceeded) {
			t.Errorf("%+v after %v", l, time.Since(start))
		}
	})
}

// TestBackoff: within the bounds, doubled by attempt, longer if the server says
// so.
func TestBackoff(t *testing.T) {
	err := &PushError{StatusCode: 503}
	p := fake("s", 1, func(context.Context, Request) error { return err })
	bubble(t, Options{Pushers: []Pusher{p}, RetryInitial: time.Second, RetryMax: 8 * time.Second, BreakerFailures: 1_000_000}, func(t *testing.T, r *Router) {
		calls := 0
		after := func(attempt int) time.Duration {
			var got results
			calls++
			push := fakePush("s", fmt.Sprint(calls)) // not held up by those before
			push.Attempt, push.Urgency = attempt, delivery.UrgencyNormal
			r.Push(t.Context(), push, got.done)
			synctest.Wait()
			return got.list()[0].RetryAfter
		}
		differ := map[time.Duration]bool{}
		for attempt, most := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second, 5: 8 * time.Second, 1000: 8 * time.Second} {
			for range 20 {
				d := after(attempt)
				differ[d] = true
				if d > most || d < most/2 {
					t.Errorf("attempt %d: %v", attempt, d)
				}
			}
		}
		if len(differ) < 50 {
			t.Error("no jitter")
		}
		err.RetryAfter = 100 * time.Second
		if d := after(1); d < 100*time.Second || d > 101*time.Second {
			t.Errorf("Retry-After: %v", d)
		}
		err.RetryAfter = 1000 * time.Hour
		if d := after(1); d < maxRetryAfter || d > maxRetryAfter+time.Second {
			t.Errorf("a Retry-After of years: %v", d)
		}
	})
}

// TestBreaker: it opens after failures in a row, keeps pushes without a request, sends
// one after a while, and closes when that succeeds.
func TestBreaker(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	p := fake("s", 100, func(context.Context, Request) error {
		time.Sleep(10 * time.Millisecond)
		if broken.Load() {
			return &PushError{StatusCode: 503, Reason: "ServiceUnavailable"}
		}
		return nil
	})
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		var got results
		token := 0
		push := func(n int) {
			for range n {
				token++
				x := fakePush("s", fmt.Sprint(token))
				x.Urgency = delivery.UrgencyNormal
				r.Push(t.Context(), x, got.done)
			}
		}
		for range 4 {
			push(1)
			time.Sleep(20 * time.Millisecond)
		}
		if s := r.Status()[0]; s.State != "ok" {
			t.Fatalf("opened after 4: %+v", s)
		}
		push(100) // a hundred that fail together are one failure more
		time.Sleep(20 * time.Millisecond)
		if n := p.requests(); n != 104 {
			t.Fatalf("%d requests", n)
		}
		s := r.Status()[0]
		if s.State != "open" || !strings.Contains(s.Cause, "503 ServiceUnavailable") || s.NextTry.Before(time.Now()) {
			t.Fatalf("%+v", s)
		}
		push(51)
		synctest.Wait()
		if s := r.Status()[0]; p.requests() != 104 || len(got.list()) != 104 || s.Queue != 51 {
			t.Fatalf("%d requests, %d results, %+v", p.requests(), len(got.list()), s)
		}

		// The probe fails: longer.
		time.Sleep(time.Until(s.NextTry) + 20*time.Millisecond)
		if p.requests() != 105 {
			t.Fatalf("%d requests while it is not known whether the server is back", p.requests()-104)
		}
		s2 := r.Status()[0]
		if s2.State != "open" || s2.Queue != 50 {
			t.Fatalf("%+v", s2)
		}

		// The probe succeeds: the others follow at once.
		broken.Store(false)
		time.Sleep(time.Until(s2.NextTry) + 30*time.Millisecond)
		if s := r.Status()[0]; s.State != "ok" || p.requests() != 155 || count(t, r, "accepted") != 50 {
			t.Fatalf("%+v, %d requests", s, p.requests())
		}
	})
}

// TestPause: a configuration fault makes no storm: one request at growing
// distances, one loud line in the log, the work kept.
func TestPause(t *testing.T) {
	var log logBuffer
	var fixed atomic.Bool
	p := fake("s", 50, func(context.Context, Request) error {
		time.Sleep(10 * time.Millisecond)
		if fixed.Load() {
			return nil
		}
		return &PushError{StatusCode: 403, Reason: "InvalidProviderToken", ConfigFault: true, Help: "check the key"}
	})
	bubble(t, Options{Pushers: []Pusher{p}, Logger: log.logger()}, func(t *testing.T, r *Router) {
		start := time.Now()
		// A delivery that does as it is told, and 20 others.
		end := start.Add(2 * time.Hour)
		for i := range 21 {
			token := fmt.Sprint(i)
			var again func(res delivery.PushResult)
			again = func(res delivery.PushResult) {
				if res.Outcome == delivery.PushAccepted && fixed.Load() {
					return
				}
				if res.Outcome != delivery.PushRetry || res.RetryAfter <= 0 || !strings.Contains(res.Detail, "InvalidProviderToken") && !errors.Is(res.Err, ErrClosed) {
					t.Errorf("%+v", res)
				}
				if next := time.Now().Add(res.RetryAfter); next.Before(end) {
					time.AfterFunc(res.RetryAfter, func() { r.Push(t.Context(), fakePush("s", token), again) })
				}
			}
			r.Push(t.Context(), fakePush("s", token), again)
		}
		time.Sleep(10 * time.Minute)
		s := r.Status()[0]
		if s.State != "paused" || !strings.Contains(s.Cause, "check the key") || s.Since.Sub(start) > time.Second {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Until(end))
		synctest.Wait()
		// 21 that were under way together, then a probe at half a minute and so on.
		if n := p.requests(); n < 21+2*6 || n > 21+10+2*12 {
			t.Errorf("%d requests in 2 h", n)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d error lines:\n%s", n, log.String())
		}

		fixed.Store(true)
		r.Resume()
		var got results
		r.Push(t.Context(), fakePush("s", "t"), got.done)
		time.Sleep(time.Second)
		if l := got.list(); len(l) != 1 || l[0].Outcome != delivery.PushAccepted || r.Status()[0].State != "ok" {
			t.Errorf("%+v %+v", l, r.Status()[0])
		}
	})
}

// TestThrottle: a 429 for one token holds back that token and no other.
func TestThrottle(t *testing.T) {
	p := fake("s", 10, func(_ context.Context, r Request) error {
		if r.Registration.Token == "hot" {
			return &PushError{StatusCode: 429, Reason: "TooManyRequests", Throttled: true, RetryAfter: 20 * time.Second}
		}
		return nil
	})
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		var hot, cold results
		push := func(seq delivery.Seq) {
			x := fakePush("s", "hot")
			x.Seq = seq
			r.Push(t.Context(), x, hot.done)
			synctest.Wait()
		}
		push(1)
		push(2)
		push(3)
		r.Push(t.Context(), fakePush("s", "cold"), cold.done)
		synctest.Wait()
		if l := cold.list(); len(l) != 1 || l[0].Outcome != delivery.PushAccepted {
			t.Errorf("%+v", l)
		}
		if l := hot.list(); len(l) != 1 || l[0].Outcome != delivery.PushRetry || l[0].RetryAfter < 20*time.Second || !strings.Contains(l[0].Detail, "429 TooManyRequests") {
			t.Errorf("%+v", l)
		}
		if n := p.requests(); n != 2 {
			t.Errorf("%d requests: the token was not left in peace", n)
		}
		time.Sleep(hot.list()[0].RetryAfter)
		push(1)
		if n := p.requests(); n != 3 {
			t.Errorf("%d requests: the token is left in peace for ever", n)
		}
		if s := r.Status()[0]; s.State != "ok" {
			t.Errorf("%+v", s)
		}
	})
}

func TestThrottledTokensAreBounded(t *testing.T) {
	p := fake("s", 1, func(context.Context, Request) error { return &PushError{StatusCode: 429, Throttled: true} })
	bubble(t, Options{Pushers: []Pusher{p}}, func(t *testing.T, r *Router) {
		for i := range maxThrottled + 100 {
			r.Push(t.Context(), fakePush("s", fmt.Sprint(i)), func(delivery.PushResult) {})
		}
		synctest.Wait()
		l := r.lanes[laneKey{app: p.apps[0]}]
		l.mu.Lock()
		defer l.mu.Unlock()
		if n := len(l.throttled); n > maxThrottled {
			t.Errorf("%d tokens are remembered", n)
		}
	})
}

// TestClose: waiting pushes are handed back at once; running ones may finish
// within the grace and are cut off after it.
func TestClose(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		want  delivery.PushOutcome
		after time.Duration
	}{
		{2 * time.Second, delivery.PushAccepted, 2 * time.Second},
		{8 * time.Second, delivery.PushRetry, 5 * time.Second},
	} {
		p := fake("s", 1, func(ctx context.Context, _ Request) error {
			select {
			case <-time.After(c.takes):
				return nil
			case <-ctx.Done():
				return &PushError{Err: context.Cause(ctx)}
			}
		})
		testtool.Bubble(t, func(t *testing.T) {
			r, err := New(Options{Pushers: []Pusher{p}, Content: content})
			if err != nil {
				t.Fatal(err)
			}
			var running, waiting, late results
			r.Push(t.Context(), fakePush("s", "t"), running.done)
			synctest.Wait()
			r.Push(t.Context(), fakePush("s", "t"), waiting.done)
			start := time.Now()
			second := make(chan error, 1)
			go func() { second <- r.Close(context.Background()) }()
			if err := r.Close(context.Background()); err != nil {
				t.Error(err)
			}
			if err := <-second; err != nil {
				t.Error(err)
			}
			if d := time.Since(start); d != c.after {
				t.Errorf("took %v", d)
			}
			if l := running.list(); len(l) != 1 || l[0].Outcome != c.want {
				t.Errorf("running: %+v", l)
			}
			if l := waiting.list(); len(l) != 1 || !errors.Is(l[0].Err, ErrClosed) || l[0].Outcome != delivery.PushRetry {
				t.Errorf("waiting: %+v", l)
			}
			if !p.closed {
				t.Error("the pusher was not closed")
			}
			r.Push(t.Context(), fakePush("s", "t"), late.done)
			synctest.Wait()
			if l := late.list(); len(l) != 1 || !errors.Is(l[0].Err, ErrClosed) {
				t.Errorf("late: %+v", l)
			}
		})
	}
}

// TestExpiryAfterAStepOfTheWallClock: the request expires when the Core says, whatever the time
// that was stored. The content, which others read, stays as it is.
func TestExpiryAfterAStepOfTheWallClock(t *testing.T) {
	stored := note("1")
	want := stored.ExpiresAt.Add(-40 * time.Minute)
	var got time.Time
	p := fake("s", 1, func(_ context.Context, r Request) error {
		got = r.Notification.ExpiresAt
		return nil
	})
	r := newRouter(t, Options{Pushers: []Pusher{p}, Content: func(delivery.Seq) (*delivery.Notification, error) { return stored, nil }})
	push := fakePush("s", "t")
	push.ExpiresAt = want
	before := stored.ExpiresAt
	if res := do(t, r, push); res.Outcome != delivery.PushAccepted || got.Sub(want).Abs() > time.Second || stored.ExpiresAt != before {
		t.Errorf("%+v; the request expires at %s, want %s; the content at %s", res, got, want, stored.ExpiresAt)
	}
}

func TestContent(t *testing.T) {
	p := fake("s", 1, func(_ context.Context, r Request) error {
		if r.Notification.ID != "from the store" {
			return errors.New("wrong content")
		}
		return nil
	})
	var fail error
	content := func(seq delivery.Seq) (*delivery.Notification, error) {
		if seq != 42 {
			t.Errorf("asked for %d", seq)
		}
		return &delivery.Notification{ID: "from the store"}, fail
	}
	r := newRouter(t, Options{Pushers: []Pusher{p}, Content: content})
	push := fakePush("s", "t")
	push.Seq = 42
	if res := do(t, r, push); res.Outcome != delivery.PushAccepted {
		t.Errorf("%+v", res)
	}
	fail = errors.New("disk")
	if res := do(t, r, push); res.Outcome != delivery.PushRetry || !errors.Is(res.Err, fail) || res.RetryAfter == 0 {
		t.Errorf("%+v", res)
	}
	fail = delivery.ErrNotFound
	if res := do(t, r, push); res.Outcome != delivery.PushRefused {
		t.Errorf("%+v", res)
	}
}

func TestNotConfigured(t *testing.T) {
	r := newRouter(t, Options{Pushers: []Pusher{fake("s", 1, nil)}})
	c := make(chan delivery.PushResult, 1)
	r.Push(t.Context(), fakePush("elsewhere", "t"), func(res delivery.PushResult) { c <- res })
	if res := <-c; res.Outcome != delivery.PushUnserved || !errors.Is(res.Err, ErrNotConfigured) || !strings.Contains(res.Err.Error(), "configured: s/app") {
		t.Errorf("%+v", res)
	}
	if err := r.Validate(delivery.Registration{Server: "elsewhere", App: "x"}); !errors.Is(err, ErrNotConfigured) {
		t.Error(err)
	}
	none := newRouter(t, Options{})
	if err := none.Validate(delivery.Registration{Server: "s"}); !errors.Is(err, ErrNotConfigured) {
		t.Error(err)
	}
	if _, err := New(Options{Pushers: []Pusher{fake("s", 1, nil), fake("s", 1, nil)}}); err == nil {
		t.Error("two pushers for one server")
	}
}

func TestCheckPayload(t *testing.T) {
	r := newRouter(t, Options{Pushers: []Pusher{fake("s", 1, nil)}})
	n := note("n")
	n.Body = "far too long for this one"
	if err := r.CheckPayload(n); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	n.Fallback = false
	if err := r.CheckPayload(n); err != nil {
		t.Error(err)
	}
}

// TestBugIsLogged: what only we can mend is an error in the log, but not one for
// every push.
func TestBugIsLogged(t *testing.T) {
	var log logBuffer
	p := fake("s", 1, func(context.Context, Request) error {
		return &PushError{StatusCode: 400, Reason: "BadMessageId", Permanent: true}
	})
	r := newRouter(t, Options{Pushers: []Pusher{p}, Logger: log.logger()})
	for range 100 {
		if res := do(t, r, fakePush("s", "secret-token")); res.Outcome != delivery.PushRefused || res.Detail != "400 BadMessageId" {
			t.Fatalf("%+v", res)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || strings.Contains(log.String(), "secret-token") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

// TestReconfigure: pushes that wait go to the new server, requests in flight finish with
// the old one, which is closed then, and a server that stays keeps its lanes.
func TestReconfigure(t *testing.T) {
	var release chan struct{} // of the bubble
	before := fake("s", 1, func(context.Context, Request) error { <-release; return nil })
	after := fake("s", 10, func(context.Context, Request) error { return nil })
	stays := fake("other", 1, func(context.Context, Request) error {
		return &PushError{StatusCode: 403, Reason: "InvalidProviderToken", ConfigFault: true}
	})
	bubble(t, Options{Pushers: []Pusher{before, stays}}, func(t *testing.T, r *Router) {
		release = make(chan struct{})
		var got, other results
		push := func(seq delivery.Seq, server, token string, done func(delivery.PushResult)) {
			x := fakePush(server, token)
			x.Seq = seq
			r.Push(t.Context(), x, done)
		}
		push(1, "s", "a", got.done)
		push(2, "s", "a", got.done)
		push(3, "s", "b", got.done)
		push(4, "other", "c", other.done)
		synctest.Wait()
		if n := before.requests(); n != 1 {
			t.Fatalf("%d requests in flight", n)
		}
		if err := r.Reconfigure([]Pusher{after, stays}, nil); err != nil {
			t.Fatal(err)
		}
		push(5, "s", "c", got.done)
		synctest.Wait()
		if n := after.requests(); n != 3 || len(got.list()) != 3 {
			t.Errorf("the new server got %d requests, %d answers; want 3", n, len(got.list()))
		}
		if before.closed {
			t.Error("closed with a request in flight")
		}
		close(release)
		synctest.Wait()
		for _, res := range got.list() {
			if res.Outcome != delivery.PushAccepted {
				t.Errorf("%+v", res)
			}
		}
		if len(got.list()) != 4 || !before.closed || stays.closed || before.requests() != 1 {
			t.Errorf("%d answers, closed: %v and %v, %d old requests", len(got.list()), before.closed, stays.closed, before.requests())
		}
		status := r.Status()
		if len(status) != 2 || status[0].State != "ok" || status[1].State != "paused" || status[0].Counts[Count{"accepted", "accepted"}] != 4 {
			t.Errorf("%+v", status)
		}

		// Another configuration with a mistake changes nothing; without a server a push
		// is not served.
		if err := r.Reconfigure([]Pusher{after, fake("s", 1, nil)}, nil); err == nil {
			t.Error("two pushers for one server are taken")
		}
		if res := do(t, r, fakePush("s", "a")); res.Outcome != delivery.PushAccepted {
			t.Errorf("%+v", res)
		}
		if err := r.Reconfigure([]Pusher{after}, nil); err != nil {
			t.Fatal(err)
		}
		if res := do(t, r, fakePush("other", "c")); res.Outcome != delivery.PushUnserved || len(r.Status()) != 1 {
			t.Errorf("%+v %+v", res, r.Status())
		}
		synctest.Wait()
		if !stays.closed {
			t.Error("a server that was switched off is not closed")
		}
	})
	if !after.closed {
		t.Error("the last server is not closed")
	}
}

// TestReconfigureUnderLoad: every push is answered once, and accepted, while servers are
// replaced. It is for -race, too.
func TestReconfigureUnderLoad(t *testing.T) {
	server := func() *fakePusher {
		return fake("s", 4, func(context.Context, Request) error { runtime.Gosched(); return nil })
	}
	r := newRouter(t, Options{Pushers: []Pusher{server()}})
	const pushes = 4000
	var answers atomic.Int64
	all := make(chan struct{})
	var senders sync.WaitGroup
	for s := range 4 {
		senders.Go(func() {
			for i := range pushes / 4 {
				p := fakePush("s", fmt.Sprint(s, " ", i%50))
				p.Seq = delivery.Seq(i)
				r.Push(t.Context(), p, func(res delivery.PushResult) {
					if res.Outcome != delivery.PushAccepted {
						t.Errorf("%+v", res)
					}
					if answers.Add(1) == pushes {
						close(all)
					}
				})
			}
		})
	}
	for range 50 {
		if err := r.Reconfigure([]Pusher{server()}, nil); err != nil {
			t.Error(err)
		}
	}
	senders.Wait()
	<-all
}

package apns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/h2pool"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// sender pushes as the core would: again after RetryAfter, until each push is
// accepted. Each has its own token and so its own notification.
type sender struct {
	t  *testing.T
	r  *fallback.Router
	wg sync.WaitGroup

	mu       sync.Mutex
	accepted map[string]int
	details  map[string]int // of what was not accepted
}

func newSender(t *testing.T, r *fallback.Router) *sender {
	return &sender{t: t, r: r, accepted: map[string]int{}, details: map[string]int{}}
}

func (s *sender) push(p delivery.Push) {
	s.wg.Add(1)
	s.again(p)
}

func (s *sender) again(p delivery.Push) {
	s.r.Push(context.Background(), p, func(res delivery.PushResult) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch res.Outcome {
		case delivery.PushAccepted:
			s.accepted[p.Registration.Token]++
			s.wg.Done()
		case delivery.PushRetry:
			if res.Detail == "" {
				s.t.Errorf("a retry without a reason: %+v", res)
			}
			s.details[res.Detail]++
			p.Attempt++
			time.AfterFunc(res.RetryAfter, func() { s.again(p) })
		default:
			s.t.Errorf("%+v", res)
			s.wg.Done()
		}
	})
}

// check waits and looks that each device shows its notification, once.
func (s *sender) check(sim *apnssim.Server, n int) {
	s.t.Helper()
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.accepted) != n {
		s.t.Errorf("%d of %d were accepted; on the way: %v", len(s.accepted), n, s.details)
	}
	for i := range n {
		if shown := sim.Shown(hexToken(i)); len(shown) != 1 {
			s.t.Fatalf("device %d shows %d notifications", i, len(shown))
		}
	}
}

// fast is a router that does not make tests wait.
func fast(p ...fallback.Pusher) fallback.Options {
	return fallback.Options{Pushers: p, RetryInitial: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond, PauseInitial: 50 * time.Millisecond}
}

// TestTokenExpiryInMidTraffic: Apple calls the token expired while many requests
// are under way. One new token, everything accepted.
func TestTokenExpiryInMidTraffic(t *testing.T) {
	clocks := newTwoClocks()
	sim := startSim(t, apnssim.Options{Now: clocks.now})
	a := apnsFor(t, sim)
	for _, x := range a.apps {
		x.token.clock = clocks.clock()
	}
	send := newSender(t, newRouter(t, fast(a)))
	const n = 400
	for i := range n {
		if i == n/2 {
			if _, err := sim.Wait(t.Context(), n/4); err != nil {
				t.Fatal(err)
			}
			clocks.advance(30 * time.Minute) // a new one is allowed, and not due
			sim.ExpireProviderTokens()
		}
		send.push(pushTo(hexToken(i), hexToken(i)))
	}
	send.check(sim, n)
	issued := map[time.Time]int{}
	for _, r := range sim.Received() {
		issued[r.TokenIssued]++
	}
	if len(issued) != 2 {
		t.Errorf("provider tokens made at %v", issued)
	}
	if len(send.details) != 0 {
		t.Errorf("not all were sent again at once: %v", send.details)
	}
}

// TestFreshTokenCalledExpired: clocks apart. No storm of tokens, a pause.
func TestFreshTokenCalledExpired(t *testing.T) {
	sim := startSim(t, apnssim.Options{Now: func() time.Time { return time.Now().Add(2 * time.Hour) }})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, sim)}})
	if res := do(t, r, pushTo(deviceToken, "n")); res.Outcome != delivery.PushRetry {
		t.Errorf("%+v", res)
	}
	for i := range 5 {
		r.Push(t.Context(), pushTo(hexToken(i), "n"), func(delivery.PushResult) {})
	}
	if got := sim.Received(); len(got) != 1 || got[0].Reason != "ExpiredProviderToken" {
		t.Errorf("%d requests", len(got))
	}
	if s := r.Status()[0]; s.State != "paused" || !strings.Contains(s.Cause, "clock") {
		t.Errorf("%+v", s)
	}
}

// TestGoAwayUnderLoad: nothing is lost and nothing fails: what Apple has not
// looked at is sent again at once.
func TestGoAwayUnderLoad(t *testing.T) {
	sim := startSim(t, apnssim.Options{MaxConcurrentStreams: 50})
	r := newRouter(t, fast(apnsFor(t, sim)))
	send := newSender(t, r)
	const n = 1000
	for i := range n {
		send.push(pushTo(hexToken(i), hexToken(i)))
	}
	for _, at := range []int{100, 300, 500, 700} {
		if _, err := sim.Wait(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		sim.GoAway()
	}
	send.check(sim, n)
	if len(send.details) != 0 {
		t.Errorf("not all were sent again at once: %v", send.details)
	}
	if _, ever := sim.Connections(); ever > 4+4*4 {
		t.Errorf("%d connections for 4 times GOAWAY", ever)
	}
	if open, _ := sim.Connections(); open > 4 {
		t.Errorf("%d connections are open", open)
	}
}

// TestUnlookedAtRequestsAreSentAgain: by REFUSED_STREAM and by a GOAWAY that
// names an earlier stream.
func TestUnlookedAtRequestsAreSentAgain(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	a := apnsFor(t, sim)
	for _, action := range []apnssim.Action{apnssim.ActionRefuse, apnssim.ActionGoAway} {
		sim.Clear()
		sim.Script(apnssim.Script{Action: action, Times: 1})
		if _, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")}); err != nil {
			t.Errorf("%s: %v", action, err)
		}
		if got := sim.Received(); len(got) != 2 || got[0].APNsID != got[1].APNsID {
			t.Errorf("%s: %d requests", action, len(got))
		}
	}
	// A stream that is reset otherwise may have been looked at.
	sim.Clear()
	sim.Script(apnssim.Script{Action: apnssim.ActionReset, Times: 1})
	var pe *fallback.PushError
	_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")})
	if !errors.As(err, &pe) || pe.Permanent || pe.ConfigFault || len(sim.Received()) != 1 {
		t.Errorf("reset: %v, %d requests", err, len(sim.Received()))
	}
}

// TestSilentConnection: the connection dies without a word under load. It is
// found by ping within seconds, and everything arrives, each once on the screen
// although some was sent twice.
func TestSilentConnection(t *testing.T) {
	if testing.Short() {
		t.Skip("waits 5 s for a ping: not with -short")
	}
	sim := startSim(t, apnssim.Options{})
	r := newRouter(t, fast(apnsFor(t, sim)))
	send := newSender(t, r)
	send.push(pushTo(hexToken(0), hexToken(0)))
	send.wg.Wait()
	sim.Silence()
	const n = 50
	start := time.Now()
	for i := 1; i < n; i++ {
		send.push(pushTo(hexToken(i), hexToken(i)))
	}
	send.check(sim, n)
	t.Logf("recovered after %v: %v", time.Since(start).Round(time.Millisecond), send.details)
	if _, ever := sim.Connections(); ever != 2 {
		t.Errorf("%d connections", ever)
	}
}

// TestLostAnswer: accepted, but we never hear. The second request is the same
// notification for the device.
func TestLostAnswer(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	send := newSender(t, newRouter(t, fast(apnsFor(t, sim))))
	sim.Script(apnssim.Script{Action: apnssim.ActionDrop, Times: 1})
	send.push(pushTo(hexToken(0), "n"))
	send.check(sim, 1)
	got := sim.Received()
	if len(got) != 2 || got[0].APNsID != got[1].APNsID || got[0].CollapseID != got[1].CollapseID {
		t.Errorf("%+v", got)
	}
}

func TestTooManyRequests(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, sim)}})
	sim.Script(apnssim.Script{Token: "aa", Status: 429, Reason: "TooManyRequests", RetryAfter: "40"})
	res := do(t, r, pushTo("aa", "n"))
	if res.Outcome != delivery.PushRetry || res.RetryAfter < 39*time.Second || !strings.Contains(res.Detail, "TooManyRequests") {
		t.Errorf("%+v", res)
	}
	for range 3 {
		r.Push(t.Context(), pushTo("aa", "n"), func(delivery.PushResult) {})
	}
	if res := do(t, r, pushTo("bb", "n")); res.Outcome != delivery.PushAccepted {
		t.Errorf("%+v", res)
	}
	if n := len(sim.ReceivedFor("aa")); n != 1 {
		t.Errorf("%d requests for a token that was to be left in peace", n)
	}
}

// TestServerAway: nobody listens. Few attempts to connect, a named reason, and
// all well when somebody does.
func TestServerAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close() // the port is free, and refuses
	key, err := apnssim.NewKey("KEY", "TEAM")
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Endpoint: "https://" + address, Apps: []App{{Topic: topic, KeyPEM: key.PEM, KeyID: "KEY", TeamID: "TEAM"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{a}})
	for i := range 5 {
		token := deviceToken + hexToken(i)
		res := do(t, r, pushTo(token, "n"))
		if res.Outcome != delivery.PushRetry || res.Detail == "" || strings.Contains(res.Detail+res.Err.Error(), token) {
			t.Fatalf("%+v", res)
		}
	}
	for i := range 200 {
		r.Push(t.Context(), pushTo(hexToken(i), "n"), func(delivery.PushResult) {})
	}
	if dials := a.apps[a.list[0]].pool.FailedDials(); dials > h2pool.DialBurst {
		t.Errorf("%d dials for 200 pushes", dials)
	}
	if s := r.Status()[0]; s.State == "ok" || s.Cause == "" {
		t.Errorf("%+v", s)
	}
}

// TestStreamLimit: one request until the first valid answer, then never more
// than the server allows, on few connections; and again when it allows less.
func TestStreamLimit(t *testing.T) {
	sim := startSim(t, apnssim.Options{MaxConcurrentStreams: 20})
	sim.Script(apnssim.Script{Delay: 5 * time.Millisecond})
	send := newSender(t, newRouter(t, fast(apnsFor(t, sim))))
	const n = 300
	for i := range n {
		send.push(pushTo(hexToken(i), hexToken(i)))
	}
	if _, err := sim.Wait(t.Context(), n/2); err != nil {
		t.Fatal(err)
	}
	sim.LimitStreams(2)
	send.check(sim, n)
	if len(send.details) != 0 {
		t.Errorf("streams were refused: %v", send.details)
	}
	for _, r := range sim.Received() {
		if r.Action == apnssim.ActionRefuse {
			t.Errorf("%+v", r)
		}
	}
	if _, ever := sim.Connections(); ever > 4 {
		t.Errorf("%d connections", ever)
	}
}

// TestAllTokensAreGone: an app whose first tokens are all dead is not stuck with
// one request at a time, nor is its server called broken.
func TestAllTokensAreGone(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, sim)}})
	sim.Script(apnssim.Script{Status: 410, Reason: "Unregistered", Timestamp: 1})
	for i := range 20 {
		if res := do(t, r, pushTo(hexToken(i), "n")); res.Outcome != delivery.PushTokenGone {
			t.Errorf("%+v", res)
		}
	}
	if s := r.Status()[0]; s.State != "ok" || s.Limit < 100 {
		t.Errorf("%+v", s)
	}
}

// TestConfigFaultOfOneApp: the other app of the same team goes on.
func TestConfigFaultOfOneApp(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	a := apnsFor(t, sim, topic, "com.example.other")
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{a}})
	other := pushTo(hexToken(1), "n")
	other.Registration.App = "com.example.other"
	sim.Script(apnssim.Script{Token: hexToken(1), Status: 403, Reason: "Forbidden"})
	if res := do(t, r, other); res.Outcome != delivery.PushRetry || !strings.Contains(res.Detail, "Forbidden") {
		t.Errorf("%+v", res)
	}
	if res := do(t, r, pushTo(deviceToken, "n")); res.Outcome != delivery.PushAccepted {
		t.Errorf("%+v", res)
	}
	sim.ClearScripts()
	r.Resume()
	if res := do(t, r, other); res.Outcome != delivery.PushAccepted {
		t.Errorf("%+v", res)
	}
}

// TestServerKeepsFailing: a connection that only gives 500 is replaced.
func TestServerKeepsFailing(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	a := apnsFor(t, sim)
	sim.Script(apnssim.Script{Status: 500, Reason: "InternalServerError", Times: h2pool.MaxServerErrors})
	for range h2pool.MaxServerErrors {
		_, _ = a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")})
	}
	if _, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")}); err != nil {
		t.Fatal(err)
	}
	if got := sim.Received(); got[0].Connection == got[len(got)-1].Connection {
		t.Error("the same connection")
	}
}

// TestServerFailsForLong: replacing connections that only gave 503 does not keep the next
// request from being made. Until the server works, each has its answer; then it accepts.
func TestServerFailsForLong(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	a := apnsFor(t, sim)
	push := func() error {
		_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")})
		return err
	}
	sim.Script(apnssim.Script{Status: 503, Reason: "ServiceUnavailable"})
	const connections = 8
	for i := range connections * h2pool.MaxServerErrors {
		var pe *fallback.PushError
		if err := push(); !errors.As(err, &pe) || pe.StatusCode != 503 {
			t.Fatalf("request %d: %v", i+1, err)
		}
	}
	sim.ClearScripts()
	if err := push(); err != nil {
		t.Fatal(err)
	}
	if _, ever := sim.Connections(); ever != connections+1 {
		t.Errorf("%d connections", ever)
	}
}

// TestPoolRests: a push that finds no connection, and none to be opened yet, says so.
func TestPoolRests(t *testing.T) {
	untried := connectionError(&h2pool.DialError{Err: errors.New("refused"), RetryAfter: time.Second, Untried: true})
	if !untried.Unsent || untried.RetryAfter != time.Second {
		t.Errorf("%+v", untried)
	}
	// The pause before the next dial is the pool's: the server has named no time.
	failed := connectionError(&h2pool.DialError{Err: errors.New("refused"), RetryAfter: time.Second})
	if failed.Unsent || failed.RetryAfter != 0 {
		t.Errorf("%+v", failed)
	}
}

// TestCloseEndsHangingRequests: Close does not wait for a server that hangs.
func TestCloseEndsHangingRequests(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	r, err := fallback.New(fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, sim)}, Content: content, CloseGrace: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	sim.Script(apnssim.Script{Action: apnssim.ActionHang})
	c := make(chan delivery.PushResult, 1)
	r.Push(t.Context(), pushTo(deviceToken, "n"), func(res delivery.PushResult) { c <- res })
	if _, err := sim.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if res := <-c; res.Outcome != delivery.PushRetry {
		t.Errorf("%+v", res)
	}
}

// TestConnectionWithoutAnswers: a connection may answer PINGs and no request. It is replaced.
func TestConnectionWithoutAnswers(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	send := func(ctx context.Context, id string) error {
		_, err := a.Push(ctx, fallback.Request{App: a.Apps()[0], Device: "phone", Registration: delivery.Registration{Token: deviceToken}, Notification: note(id), Attempt: 1})
		return err
	}
	if err := send(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	s.Script(apnssim.Script{Action: apnssim.ActionHang})
	for i := range h2pool.MaxServerErrors {
		ctx, pass := testtool.Deadline()
		sent := make(chan error, 1)
		go func() { sent <- send(ctx, fmt.Sprint(i)) }()
		if _, err := s.Wait(t.Context(), i+2); err != nil {
			t.Fatal(err)
		}
		pass()
		if <-sent == nil {
			t.Error("a request that hangs is answered")
		}
	}
	s.ClearScripts()
	if err := send(t.Context(), "last"); err != nil {
		t.Errorf("the next request: %v", err)
	}
	if got := s.Received(); got[len(got)-1].Connection == got[0].Connection {
		t.Error("the connection without answers is still used")
	}
}

package faults

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
)

// loop: FCM's or a browser's push service fails for every third push, in each of its ways.
// Half of the devices are away until it has recovered, the others do not acknowledge the
// first copy. inOrder: all are away, and of each registration the pushes of one urgency
// come in the order of acceptance.
func loop(server *standIn, inOrder bool) func(*World, int, bool) error {
	return func(w *World, size int, full bool) error {
		w.server = func(int) *standIn { return server }
		if err := server.start(w); err != nil {
			return err
		}
		devices, err := ready(w, fleet(full, 100), func(_ int, d *Device) { d.Ack = AckFirstNever })
		if err != nil {
			return err
		}
		failures := []fcmsim.Script{
			{Status: 503}, {Status: 429, RetryAfter: "1", Body: `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"Device message rate exceeded"}}`},
			{Status: 500}, {Action: fcmsim.ActionReset}, {Action: fcmsim.ActionDrop}, {Delay: fcmsim.Duration(2500 * time.Millisecond)}, {Action: fcmsim.ActionHang},
		}
		for i := range max(2*len(failures), size/20) {
			f := failures[i%len(failures)]
			f.Times = 1
			if err := server.script(w, f, fcmsim.Script{Times: 2}); err != nil {
				return err
			}
		}
		s := scene{devices: devices, away: devices[:len(devices)/2], inFlight: 200, after: w.pushedOut, drain: 3 * time.Minute}
		if inOrder {
			w.PushOrder, s.away = true, devices
			s.more = func(_ string, n int) string {
				return []string{`,"urgency":"high"`, `,"urgency":"normal"`}[n/len(devices)%2]
			}
		}
		if err := w.play(size, s); err != nil {
			return err
		}
		return w.took(server.name, 1)
	}
}

// took fails if the stand-ins have taken fewer pushes: the row would show nothing.
func (w *World) took(name string, least int) error {
	n := 0
	for _, t := range w.taken() {
		if t.ok {
			n++
		}
	}
	w.note("%d pushes taken (%s)", n, name)
	if n < least {
		return fmt.Errorf("%d pushes taken, want at least %d", n, least)
	}
	return nil
}

// threeServers: a third of the devices each with Apple, FCM and a browser, over kill -9.
func threeServers(w *World, size int, full bool) error {
	w.server = func(i int) *standIn { return []*standIn{nil, &google, &browsers}[i%3] }
	if err := errors.Join(w.startGoogle(fcmsim.Options{}), w.startBrowsers()); err != nil {
		return err
	}
	rounds := 20
	if !full {
		rounds = 3
	}
	devices, err := ready(w, fleet(full, 90), func(_ int, d *Device) { d.Ack = AckLossy(.2) })
	if err != nil {
		return err
	}
	if err := w.play(size, scene{
		devices: devices, away: devices[:len(devices)/2], inFlight: 100, rounds: rounds, fault: w.restarts, after: w.pushedOut, drain: 3 * time.Minute,
	}); err != nil {
		return err
	}
	return w.took("FCM and Web Push", 1)
}

// serverChanges: pushes wait at a slow FCM while each device registers its FID in place of
// its token, and a browser in place of that. Nothing goes to the former registration any
// more, and each delivery is pushed once.
func serverChanges(w *World, size int, full bool) error {
	w.server = func(int) *standIn { return &google }
	if err := errors.Join(w.startGoogle(fcmsim.Options{}), w.startBrowsers()); err != nil {
		return err
	}
	w.Program.env = append(w.Program.env, "HEARTLINE_FALLBACK_FCM_MAX_CONCURRENT=4")
	devices, err := ready(w, fleet(full, 60), nil)
	if err != nil {
		return err
	}
	if err := w.Google.Scripts.Add(fcmsim.Script{Delay: fcmsim.Duration(20 * time.Millisecond)}); err != nil {
		return err
	}
	if err := w.Load(size, 100, nil).Wait(); err != nil {
		return err
	}
	left := map[string]time.Time{} // by token: when another had taken its place
	for i, d := range devices {
		old := w.token(d)
		member, id := fid(i)
		if err := w.register(d, member); err != nil {
			return err
		}
		left[old] = time.Now()
		w.tokens[id] = d.ID
	}
	for i, d := range devices {
		member, token, err := w.subscribe()
		if err == nil {
			err = w.register(d, member)
		}
		if err != nil {
			return err
		}
		_, id := fid(i)
		left[id] = time.Now()
		w.tokens[token] = d.ID
		w.Runs += 2
	}
	w.Google.Scripts.Clear()
	if err := w.pushedOut(); err != nil {
		return err
	}
	pushed := map[deliveryKey]int{}
	browsers := map[string]bool{}
	for _, t := range w.taken() {
		if at, ended := left[t.token]; ended && t.at.After(at.Add(underWay)) {
			return fmt.Errorf("a push went to a registration %s after another had taken its place", t.at.Sub(at))
		} else if !ended && t.ok {
			browsers[w.tokens[t.token]] = true
		}
		if t.ok {
			pushed[deliveryKey{t.id, w.tokens[t.token]}]++
		}
	}
	if len(pushed) != size || len(browsers) != len(devices) {
		return fmt.Errorf("%d of %d deliveries were pushed, and %d of %d devices had one at the last registration", len(pushed), size, len(browsers), len(devices))
	}
	for k, n := range pushed {
		if n > 1 {
			return fmt.Errorf("%s was pushed to %s %d times", k.id, k.device, n)
		}
	}
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	return w.Drain(2 * time.Minute)
}

// quota: Google answers 429 for the project and names a time. Until then nothing is asked,
// and then the urgent pushes go first.
func quota(w *World, size int, full bool) error {
	const rest = 4 * time.Second
	w.server = func(int) *standIn { return &google }
	if err := w.startGoogle(fcmsim.Options{}); err != nil {
		return err
	}
	w.Program.env = append(w.Program.env, "HEARTLINE_FALLBACK_FCM_MAX_CONCURRENT=8", "HEARTLINE_FALLBACK_FCM_RETRY_MAX=10s", "HEARTLINE_FALLBACK_FCM_RETRY_INITIAL=2s")
	devices, err := ready(w, fleet(full, 200), nil)
	if err != nil {
		return err
	}
	if err := w.Google.Scripts.Add(
		fcmsim.Script{Status: 429, RetryAfter: fmt.Sprint(int(rest / time.Second)), Times: 1_000_000, Body: `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"Quota exceeded for quota metric 'Send requests'","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"QUOTA_EXCEEDED"}]}}`},
	); err != nil {
		return err
	}
	isHigh := func(n int) bool { return n/len(devices)%3 == 1 }
	load := w.Load(size, 100, func(_ string, n int) string {
		if isHigh(n) {
			return `,"urgency":"high"`
		}
		return `,"urgency":"normal"`
	})
	if _, err := w.Google.WaitFor(w.ctx, "", 1); err != nil {
		return err
	}
	first := w.Google.Received("")[0].Time
	if err := load.Wait(); err != nil {
		return err
	}
	pause(w, time.Until(first.Add(rest-500*time.Millisecond)))
	w.Google.Scripts.Clear()
	if time.Since(first) > rest {
		w.note("the machine took %s to accept all, longer than the rest: nothing is told of the order", time.Since(first).Round(time.Millisecond))
		return errors.Join(w.pushedOut(), w.returned(devices))
	}
	if err := w.pushedOut(); err != nil {
		return err
	}
	// A request that was under way when the first was refused may be refused with it.
	var firstHigh, firstNormal time.Time
	for _, t := range w.taken() {
		switch since := t.at.Sub(first); {
		case since > underWay && since < rest-10*time.Millisecond:
			return fmt.Errorf("a request came %s after Google had asked for %s of rest", since, rest)
		case !t.ok:
		case t.urgency == "NORMAL" && firstNormal.IsZero():
			firstNormal = t.at
		case t.urgency == "HIGH" && firstHigh.IsZero():
			firstHigh = t.at
		}
	}
	w.note("after the rest the first urgent push came %s before the first normal one", firstNormal.Sub(firstHigh).Round(time.Millisecond))
	if firstHigh.IsZero() || firstNormal.Before(firstHigh) {
		return errors.New("a normal push went first after the rest")
	}
	return w.returned(devices)
}

// returned lets all devices connect, and waits until nothing is outstanding.
func (w *World) returned(devices []*Device) error {
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	return w.Drain(2 * time.Minute)
}

// tokenEndpoint: Google's token endpoint is down for most of an access token's life, and
// pushes go on; then the key is revoked, then Google's clock is ten minutes off. Nothing
// is wiped, the log says what to look at, and all is pushed once it is mended.
func tokenEndpoint(w *World, size int, full bool) error {
	life := 5 * time.Second
	if full {
		life = 20 * time.Second
	}
	var off atomic.Int64 // of Google's clock
	w.server = func(int) *standIn { return &google }
	if err := w.startGoogle(fcmsim.Options{TokenLife: life, Now: func() time.Time { return time.Now().Add(time.Duration(off.Load())) }}); err != nil {
		return err
	}
	devices, err := ready(w, fleet(full, 40), nil)
	if err != nil {
		return err
	}
	notify := func() error {
		if err := w.Load(max(len(devices), size/4), 50, nil).Wait(); err != nil {
			return err
		}
		return nil
	}
	if err := errors.Join(notify(), w.pushedOut()); err != nil {
		return err
	}
	issued := time.Now()
	w.Google.SetOAuth(true, false)
	before := len(w.Google.Received(""))
	pause(w, time.Until(issued.Add(life*6/10)))
	if err := notify(); err != nil {
		return err
	}
	if err := until(w.ctx, "no push goes out while the access token lives", func() (bool, error) { return len(w.Google.Received("")) > before, nil }); err != nil {
		return err
	}
	pause(w, time.Until(issued.Add(life*8/10)))
	w.Google.SetOAuth(false, false)
	if err := w.pushedOut(); err != nil {
		return err
	}
	for name, fault := range map[string]struct{ begin, end func() }{
		"revoked": {func() { w.Google.SetOAuth(false, true) }, func() { w.Google.SetOAuth(false, false) }},
		"clock":   {func() { off.Store(int64(-10 * time.Minute)) }, func() { off.Store(0) }},
	} {
		fault.begin()
		pause(w, life)                      // the access token in use ends
		if err := w.Restart(); err != nil { // another process has no token, as after a reload
			return err
		}
		if err := notify(); err != nil {
			return err
		}
		if err := until(w.ctx, "the log does not name the fault: "+name, func() (bool, error) {
			log := w.Program.current().log()
			return strings.Contains(log, "push paused") && strings.Contains(log, "revoked") && strings.Contains(log, "clock"), nil
		}); err != nil {
			return err
		}
		for _, d := range devices {
			v, err := w.view(d)
			if err != nil {
				return err
			}
			if len(v.Registrations) != 1 || v.Registrations[0].Ended != nil || v.Registrations[0].Suspended != nil {
				return fmt.Errorf("%s: the registration of %s did not survive: %+v", name, d.ID, v.Registrations)
			}
		}
		fault.end()
		if err := w.Restart(); err != nil { // the operator has mended it
			return err
		}
		if err := w.pushedOut(); err != nil {
			return err
		}
		w.Runs++
	}
	for _, t := range w.Google.Received("") {
		if t.Status == http.StatusUnauthorized {
			return errors.New("a push was made with an access token that had ended")
		}
	}
	if err := w.took("FCM", size); err != nil {
		return err
	}
	return w.returned(devices)
}

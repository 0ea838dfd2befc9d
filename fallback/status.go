package fallback

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Count is a label pair of the router's counters.
type Count struct {
	Outcome string // accepted, retry, gone, suspended, refused, withdrawn, unserved
	Reason  string // "410 Unregistered", "timeout", "connection", …: a small set
}

func outcomeName(o delivery.PushOutcome) string {
	switch o {
	case delivery.PushAccepted:
		return "accepted"
	case delivery.PushRetry:
		return "retry"
	case delivery.PushTokenGone:
		return "gone"
	case delivery.PushTokenSuspended:
		return "suspended"
	case delivery.PushRefused:
		return "refused"
	case delivery.PushWithdrawn:
		return "withdrawn"
	case delivery.PushUnserved:
		return "unserved"
	}
	return "unknown"
}

// tally counts and logs for the lanes of one App and origin label. It outlives them.
type tally struct {
	app    App
	origin string // a label; "" where a server has one origin
	lanes  int    // of it; Router.mu guards it

	mu     sync.Mutex
	counts map[Count]uint64
	logged map[string]*logged
}

type logged struct {
	at         time.Time
	suppressed int
}

// maxReasons bounds the reasons that are counted and logged apart: a server that
// invents reasons must not fill our memory.
const maxReasons = 200

func newTally(app App, origin string) *tally {
	return &tally{app: app, origin: origin, counts: map[Count]uint64{}, logged: map[string]*logged{}}
}

func (t *tally) String() string {
	if t.origin == "" {
		return t.app.String()
	}
	return t.app.String() + " at " + t.origin
}

func (t *tally) count(o delivery.PushOutcome, reason string) {
	k := Count{Outcome: outcomeName(o), Reason: reason}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.counts[k]; !ok && len(t.counts) >= maxReasons {
		k.Reason = "other"
	}
	t.counts[k]++
}

// log logs a fault that may strike every push, at most once a minute for each reason.
func (t *tally) log(log *slog.Logger, level slog.Level, reason string, it *item, err error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.logged[reason]
	if s == nil {
		if len(t.logged) >= maxReasons {
			maps.DeleteFunc(t.logged, func(_ string, x *logged) bool { return now.Sub(x.at) >= time.Minute })
		}
		if len(t.logged) >= maxReasons {
			return
		}
		s = &logged{}
		t.logged[reason] = s
	} else if now.Sub(s.at) < time.Minute {
		s.suppressed++
		return
	}
	log.Log(context.Background(), level, "push refused", "app", t.String(), "device", it.push.Device, "seq", uint64(it.push.Seq), "error", err, "suppressed", s.suppressed)
	s.at, s.suppressed = now, 0
}

// AppStatus is the state of one app at one origin, for /readyz, /metrics and the
// dashboard.
type AppStatus struct {
	App App // server, name and environment
	// Origin is the push service of an app that speaks to several, by its label;
	// "" elsewhere. All services without a label of their own share one.
	Origin string
	Lanes  int // the queues that this speaks for: one for each push service
	// State is "ok"; "open" (the server fails steadily, pushes wait until NextTry);
	// "paused" (the configuration is at fault, likewise); "resting" (the server wants
	// no request until NextTry); or "probing" (one push tries). With several lanes it
	// is that of the worst.
	State    string
	Cause    string    // why it is not ok
	Since    time.Time // since when it is not ok
	NextTry  time.Time // with open, paused and resting
	Queue    int
	InFlight int
	Limit    int // requests that may be in flight now
	// Counts are the outcomes since the start.
	Counts      map[Count]uint64
	Credentials Credentials
	// Warnings are what an operator should look at, whatever the State.
	Warnings []string
}

// Status returns the state of each app, in the order of their configuration.
func (r *Router) Status() []AppStatus {
	r.mu.Lock()
	set := r.servers.Load()
	tallies := slices.DeleteFunc(slices.Clone(r.tallies), func(t *tally) bool {
		s := set.byName[t.app.Server]
		return s == nil || !slices.Contains(s.apps, t.app)
	})
	lanes := slices.Collect(maps.Values(r.lanes))
	r.mu.Unlock()
	out := make([]AppStatus, len(tallies))
	for i, t := range tallies {
		s := &out[i]
		s.App, s.Origin, s.State = t.app, t.origin, laneOK.String()
		t.mu.Lock()
		s.Counts = maps.Clone(t.counts)
		t.mu.Unlock()
		if c, ok := set.byName[t.app.Server].pusher.(Credentialed); ok {
			if s.Credentials = c.Credentials(t.app); s.Credentials.Warning != "" {
				s.Warnings = append(s.Warnings, s.Credentials.Warning)
			}
		}
	}
	for _, l := range lanes {
		l.addTo(&out[slices.Index(tallies, l.tally)])
	}
	for i := range out {
		slices.Sort(out[i].Warnings)
	}
	return out
}

// severity orders the states: the worst comes last.
func (s laneState) severity() int {
	return [...]int{laneOK: 0, laneProbing: 1, laneResting: 2, laneOpen: 3, lanePaused: 4}[s]
}

// lackingShown is how long a refusal for a missing part of the configuration is a warning.
const lackingShown = time.Hour

func (l *lane) addTo(s *AppStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.breaker
	worst := laneOK
	for _, x := range []laneState{laneProbing, laneResting, laneOpen, lanePaused} {
		if s.State == x.String() {
			worst = x
		}
	}
	s.Lanes++
	s.Queue += l.waiting
	if l.lacking != "" && time.Since(l.lackingAt) < lackingShown && !slices.Contains(s.Warnings, l.lacking) {
		s.Warnings = append(s.Warnings, l.lacking)
	}
	s.InFlight += l.inFlight
	if b.state == laneOK {
		s.Limit += l.limitLocked()
		return
	}
	s.Limit++
	if b.state.severity() < worst.severity() {
		return
	}
	s.State, s.Cause, s.Since, s.NextTry = b.state.String(), b.cause, b.since, time.Time{}
	if b.state != laneProbing {
		s.NextTry = b.normal
	}
	if b.alarmed && !slices.Contains(s.Warnings, b.cause) {
		s.Warnings = append(s.Warnings, b.cause)
	}
}

package fallback

import (
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/internal/backoff"
)

// laneState says whether a lane sends.
type laneState uint8

const (
	// laneOK sends.
	laneOK laneState = iota
	// laneOpen keeps pushes until gate.normal: the server has failed steadily. An
	// urgent push is sent at gate.high. The lane is then probing.
	laneOpen
	// lanePaused is laneOpen for a fault of the configuration: longer, and louder.
	lanePaused
	// laneResting is laneOpen because the server has asked for it.
	laneResting
	// laneProbing has sent one push and keeps the others until its outcome is known.
	laneProbing
)

func (s laneState) String() string {
	return [...]string{"ok", "open", "paused", "resting", "probing"}[s]
}

// breaker is a lane's state. It is guarded by lane.mu.
type breaker struct {
	state     laneState
	from      laneState // laneProbing: the state before
	cause     string    // why the state is not laneOK
	since     time.Time // when it left laneOK
	normal    time.Time // when any push may be the probe
	high      time.Time // when an urgent push may be the probe
	trips     int       // consecutive times that it left laneOK; sets the length
	streak    int       // consecutive failures; concurrent ones count as one
	streakEnd time.Time // when the last counted failure ended
	alarmed   bool      // the pause is because of refused registrations; see tokenHistory
}

const (
	// highProbe is the longest wait of an urgent push for its turn as a probe, unless
	// the server has named a time or refuses our credentials.
	highProbe = 5 * time.Second
	// busyDefault is how long an app rests if the server does not say.
	busyDefault = time.Minute
	// maxRetryAfter bounds the effect of a server's Retry-After.
	maxRetryAfter = time.Hour
	// highGrace is how much longer normal pushes rest than urgent ones that the server has
	// sent away: those come back from the core, which writes the attempt to the disk first.
	highGrace = 500 * time.Millisecond
)

// open reports whether a push of the class may be sent at the time now, and if not,
// when.
func (b *breaker) open(class int, now time.Time) (open bool, at time.Time) {
	switch b.state {
	case laneOK:
		return true, now
	case laneProbing:
		return false, time.Time{}
	}
	at = b.normal
	if class == classHigh {
		at = b.high
	}
	return !now.Before(at), at
}

// probe notes that the push that is sent now is the probe, if one is needed.
func (b *breaker) probe() bool {
	if b.state == laneOK {
		return false
	}
	b.from, b.state = b.state, laneProbing
	return true
}

// leave sets the state for length; strict: urgent pushes wait as long as others.
func (b *breaker) leave(state laneState, cause string, now time.Time, length time.Duration, strict bool) {
	if b.state == laneOK {
		b.since = now
	}
	// An alarm outlasts an outage of the server: the last answers are still refusals.
	if !b.alarmed || state == lanePaused {
		b.state, b.cause, b.alarmed = state, cause, false
	} else {
		b.state = lanePaused
	}
	b.trips++
	end := now.Add(length)
	if !b.alarmed || b.normal.Before(end) { // of an alarm urgent pushes are probes of their own
		b.normal = end
	}
	if b.high = end; !strict {
		b.high = now.Add(min(length, highProbe))
	}
}

// recoverLocked closes the breaker: the server has answered as one that works.
func (l *lane) recoverLocked(probe bool) {
	b := &l.breaker
	b.streak = 0
	// A request that left before the breaker opened may be answered after it: good
	// news, too. One that left before a pause says nothing of the requests refused
	// since: only a probe ends a pause or a rest.
	if b.state == laneOK || !probe && b.state != laneOpen {
		return
	}
	if b.state != laneProbing {
		b.from = b.state
	}
	l.log.Info("push works again", "app", l.String(), "was", b.from.String(), "cause", b.cause, "for", time.Since(b.since).Round(time.Millisecond))
	b.state, b.cause, b.trips, b.alarmed = laneOK, "", 0, false
	l.tokens = tokenHistory{}
}

// judgedLocked: a push was refused for good. That is the answer of a server that works,
// or, without a status, of the Pusher, which has not asked the server.
func (l *lane) judgedLocked(pe *PushError, now time.Time, probe bool) {
	switch {
	case pe.StatusCode != 0:
		l.recoverLocked(probe)
	case probe:
		l.abandonProbeLocked(now)
	}
}

// failLocked counts a passing failure and opens the breaker after BreakerFailures of
// them without a success between. Requests that were in flight together and fail
// together, as when one connection dies under 500 of them, count as one failure: only
// a request that began after the last failure counts again. named is the server's
// Retry-After.
func (l *lane) failLocked(now, started time.Time, cause string, named time.Duration, probe bool) {
	b := &l.breaker
	if started.Before(b.streakEnd) && !probe {
		return
	}
	b.streakEnd = now
	b.streak++
	if !probe && (b.state != laneOK || b.streak < l.r.opts.BreakerFailures) {
		return
	}
	first := b.state == laneOK
	length := backoff.Jitter(backoff.Doubled(l.limits.RetryInitial, l.limits.RetryMax, b.trips))
	named = min(named, maxRetryAfter)
	b.leave(laneOpen, cause, now, max(length, named), named > 0)
	if first {
		l.log.Warn("push server unavailable, pushes wait", "app", l.String(), "cause", cause, "failures", b.streak, "next_try_in", length)
	}
}

// pauseLocked stops the lane for a fault that only a person can mend, or for as long
// as the server asks. One push is sent as a probe, at growing distances.
func (l *lane) pauseLocked(now time.Time, pe *PushError, probe bool) {
	b := &l.breaker
	if b.state == lanePaused || b.state == laneProbing && !probe {
		return // it was in flight when the first one was refused
	}
	first := b.state == laneOK || b.cause != pe.Error()
	if b.state == laneOK {
		b.trips = 0
	}
	b.streakEnd = now
	length := backoff.Jitter(backoff.Doubled(l.r.opts.PauseInitial, l.r.opts.PauseMax, b.trips))
	length = max(length, min(pe.RetryAfter, maxRetryAfter))
	b.leave(lanePaused, pe.Error(), now, length, true)
	if first {
		l.log.Error("push paused: the configuration of this app is at fault; pushes are kept", "app", l.String(), "cause", b.cause, "next_try_in", length)
	}
}

// restLocked stops the lane for as long as the server asks, and returns how long that
// is. Nobody is at fault. With an urgent push among those sent away, normal ones wait a
// little longer, so that it goes first.
func (l *lane) restLocked(now time.Time, pe *PushError, class int) time.Duration {
	length := busyDefault
	if pe.RetryAfter > 0 {
		length = min(pe.RetryAfter, maxRetryAfter)
	}
	b := &l.breaker
	if b.state == lanePaused {
		return b.normal.Sub(now)
	}
	awaited := class == classHigh || b.state == laneResting && b.normal.After(b.high)
	// A normal push may be the probe while b.high is ahead; its answer ends the probing.
	if b.state == laneOK || b.state == laneProbing || b.high.Before(now.Add(length)) {
		if b.state != laneResting {
			l.log.Info("push rests as the server asks; pushes wait", "app", l.String(), "cause", pe.detail(), "for", length)
		}
		b.leave(laneResting, pe.detail(), now, length, true)
	}
	if awaited && b.state == laneResting {
		b.normal = b.high.Add(highGrace)
	}
	return max(0, b.high.Sub(now))
}

// abandonProbeLocked: the probe has told nothing about the server.
func (l *lane) abandonProbeLocked(now time.Time) {
	if l.breaker.state == laneProbing {
		l.breaker.state, l.breaker.normal, l.breaker.high = l.breaker.from, now, now
	}
}

// deferProbeLocked: the probe could not be sent before the time at. The pause is no
// longer for it: nothing is known that was not known when it began.
func (l *lane) deferProbeLocked(at time.Time) {
	if b := &l.breaker; b.state == laneProbing {
		b.state, b.high = b.from, at
		if b.normal.Before(at) {
			b.normal = at
		}
	}
}

// resume lets the next push through as a probe.
func (l *lane) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := &l.breaker; b.state != laneOK && b.state != laneProbing {
		b.normal = time.Now()
		b.high = b.normal
		l.kickLocked(b.normal)
	}
}

// tokenHistory holds the last answers: whether the server knew the registration. It counts
// an account's refusals once, so that nobody raises the alarm with registrations of their
// own.
type tokenHistory struct {
	last      [32]tokenAnswer
	n         int       // that there are
	next      int       // the place of the next one
	refusedAt time.Time // the last refusal; zero: none
}

type tokenAnswer struct {
	refused bool
	account string
}

func (h *tokenHistory) add(a tokenAnswer) {
	h.last[h.next] = a
	h.next = (h.next + 1) % len(h.last)
	h.n = min(h.n+1, len(h.last))
}

// refuse counts a refused registration of account. refused is of how many accounts the
// last answers refuse one.
func (h *tokenHistory) refuse(account string, now time.Time) (refused int, alarming bool) {
	h.refusedAt = now
	a := tokenAnswer{refused: true, account: account}
	if !slices.Contains(h.last[:h.n], a) {
		h.add(a)
	}
	for _, a := range h.last[:h.n] {
		if a.refused {
			refused++
		}
	}
	return refused, refused >= 5 && 2*refused >= h.n
}

const wrongTokens = "most push tokens are refused"

// suspectLocked counts a registration that the server does not know. Many of them, of
// several accounts, mean that the configuration is wrong, not the registrations: the lane
// then stops asking, so that they are not all suspended.
func (l *lane) suspectLocked(now time.Time, it *item, pe *PushError, probe bool) {
	b := &l.breaker
	if probe && b.alarmed {
		l.stayAlarmedLocked(now, it)
		return
	}
	l.recoverLocked(probe) // the server has looked at the registration, so it works
	if refused, alarming := l.tokens.refuse(it.push.Account, now); alarming && b.state == laneOK {
		b.trips = 0
		cause := wrongTokens + ", the last one with " + pe.detail()
		if pe.Help != "" {
			cause += ": " + pe.Help
		}
		b.leave(lanePaused, cause, now, backoff.Jitter(l.r.opts.PauseInitial), false)
		b.alarmed = true
		l.log.Error("push paused: most push tokens are refused; pushes are kept", "app", l.String(), "cause", pe.Error(), "accounts", refused, "of", l.tokens.n)
	}
}

// stayAlarmedLocked: the probe of an alarm was refused, too. The other registrations of its
// account go behind those of all others, and each urgency has a time of its own: an
// account whose registrations are all bad takes one probe from the others.
func (l *lane) stayAlarmedLocked(now time.Time, it *item) {
	b := &l.breaker
	b.state = lanePaused
	if classOf(&it.push) == classHigh {
		b.high = now.Add(min(l.r.opts.PauseInitial, highProbe))
	} else {
		b.normal = now.Add(backoff.Jitter(backoff.Doubled(l.r.opts.PauseInitial, l.r.opts.PauseMax, b.trips)))
		b.trips++
	}
	for class := range l.ready {
		l.ready[class].moveBack(class, it.push.Account)
	}
}

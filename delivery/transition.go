package delivery

import "time"

// progress is the part of a delivery that the state machine reads and writes.
// Times are readings of the core's steady clock (clock.go), 0 for none.
type progress struct {
	state        State
	ack          AckKind // the asked-for ack
	message      MessageState
	fallback     bool        // a push is allowed
	received     bool        // the PUBACK came, AckDisplayed is still to come
	displayed    bool        // said once; saying it again is nothing new
	pushAccepted bool        // never ask for another
	refused      RefusedKind // why no push is asked for
	pushUnderway bool        // asked for and not answered yet; never stored
	atOnce       bool        // ack_window 0: the first attempt asks for a push, too
	ahead        bool        // its push did not wait for room on the channel; never stored
	lapsed       bool        // a window has elapsed since the first publish; never stored
	once         bool        // ttl 0: one attempt and no more
	attempts     uint16
	pushAttempts uint16
	window       uint32 // ack window of its own, in milliseconds; 0: the configured one
	kind         uint32 // of the registration that a push goes to, a number of the slab; 0: KindAlert
	deadline     int64  // the window, backoff or retry in force elapses
	pushAfter    int64  // no push before: a Retry-After outlives a try over the channel
}

// situation is what surrounds a delivery at the moment of an input.
type situation struct {
	now      int64
	up       bool   // the channel is up
	room     bool   // and may take this delivery now
	hasToken bool   // a notification server can be asked
	noToken  string // why not, where it is not that there is none
	late     bool   // with an ack: its window had elapsed
	detail   string // for the timeline
	after    time.Duration
	refused  RefusedKind // with inPushRefused
	ended    EventKind   // likewise: what it did to the registration; 0: nothing
	windows  *Windows
}

// Windows are the two windows of contract §2.
type Windows struct {
	Ack      time.Duration // how long a pseudo-notification may go unacknowledged
	Fallback time.Duration // how long an accepted push may go unacknowledged
}

// input is what can happen to a delivery.
type input uint8

const (
	inOffer        input = iota + 1 // its turn on a channel that is up and has room
	inNoRoom                        // accepted, and the channel is up and has no room
	inNoChannel                     // pending, and the channel is down
	inChannelLost                   // the connection that carried it is gone
	inReceived                      // PUBACK, reason code below 0x80
	inDisplayed                     // the device has shown it
	inNacked                        // PUBACK of 0x80 and up, or not queued
	inElapsed                       // deadline passed
	inPushAccepted                  // answers of the notification server
	inPushRetry                     //
	inPushRefused                   //
	inPushPossible                  // a registration has come, or its app was configured
	inMessageSent
	inMessageReceived
	inExpire
	inSupersede
	inCancel
)

// step holds the acts that a transition asks of the core, and its events.
type step struct {
	events   [3]timelineEntry
	n        int
	publish  bool // hand the pseudo-notification to the channel
	push     bool // ask the notification server, once that is recorded
	finished bool // nothing is left to do: remove the record
}

type timelineEntry struct {
	kind   EventKind
	detail string
}

func (s *step) event(kind EventKind, detail string) {
	s.events[s.n] = timelineEntry{kind, detail}
	s.n++
}

// transition is the whole state machine of contract §2 (patent CN104125141A,
// claims 1 to 5): a delivery and an input in, the delivery and what to do out. It
// has no other effect. An input that means nothing in a state changes nothing.
func transition(p progress, in input, s situation) (progress, step) {
	var out step
	if p.state.Final() {
		return afterFinal(p, in, s, out)
	}
	switch in {
	case inOffer:
		offer(&p, s, &out)
	case inNoRoom:
		if p.state == StatePending && (p.atOnce || p.once) && mayPush(&p, s) {
			askForPush(&p, &out)
			p.ahead = true
			if p.once {
				p.deadline = s.now + ackWindow(&p, s)
			}
		}
	case inNoChannel:
		if p.state == StatePending {
			p.deadline = 0
			fallBack(&p, s, &out)
		}
	case inChannelLost:
		// The window runs on: a device back within it is published to again.
		if p.state == StatePublished {
			out.event(EventChannelLost, s.detail)
		}
	case inReceived:
		if p.ack == AckDisplayed {
			if !p.received {
				out.event(EventReceived, s.detail)
			}
			p.received = true
			break
		}
		out.event(EventReceived, ackDetail(p, s))
		finish(&p, StateAcked, &out)
	case inDisplayed:
		p.displayed = true
		out.event(EventDisplayed, ackDetail(p, s))
		finish(&p, StateAcked, &out)
	case inNacked:
		if p.attempts == 0 {
			break
		}
		out.event(EventNacked, s.detail)
		p.lapsed = true
		switch {
		case p.state == StatePublished:
			p.deadline = 0
			fallBack(&p, s, &out)
		case p.once: // its push goes on alone
			p.deadline = 0
			endOnce(&p, s, &out)
		}
	case inElapsed:
		elapsed(&p, s, &out)
	case inPushAccepted:
		out.event(EventPushed, s.detail)
		p.pushAccepted, p.pushUnderway = true, false
		if p.once {
			p.state = StatePushed
			endOnce(&p, s, &out)
		} else if p.state == StatePushing {
			p.state, p.deadline = StatePushed, s.now+int64(s.windows.Fallback)
		}
	case inPushRetry:
		p.pushUnderway, p.pushAfter = false, s.now+int64(s.after)
		if p.once {
			out.event(EventPushFailed, s.detail)
			endOnce(&p, s, &out)
			break
		}
		out.event(EventPushRetry, s.detail)
		if p.state == StatePushing {
			p.deadline = p.pushAfter
		}
	case inPushRefused:
		out.event(EventPushFailed, s.detail)
		registrationEnded(s, &out)
		p.refused, p.pushUnderway = max(s.refused, RefusedContent), false
		if p.state == StatePushing {
			wait(&p, s, "", &out)
		}
	case inPushPossible:
		pushPossible(&p, s, &out)
	case inExpire:
		out.event(EventExpired, s.detail)
		finish(&p, StateExpired, &out)
	case inSupersede:
		out.event(EventSuperseded, s.detail)
		finish(&p, StateSuperseded, &out)
	case inCancel:
		out.event(EventCancelled, s.detail)
		finish(&p, StateCancelled, &out)
	}
	return p, out
}

// offer publishes. The first attempt of a notification with an ack window of 0, or
// of a TTL of 0, asks for a push at the same time.
func offer(p *progress, s situation, out *step) {
	first := p.attempts == 0 && p.pushAttempts == 0
	// The push went ahead, and this is the publish of the same attempt.
	second := p.ahead && p.attempts == 0 && p.state == StatePushing
	if p.once && !first && !second {
		return
	}
	out.event(pick(p.attempts == 0, EventPublished, EventRedelivered), "")
	p.attempts = oneMore(p.attempts)
	out.publish = true
	if second && p.pushUnderway {
		return
	}
	if first && (p.atOnce || p.once) && mayPush(p, s) {
		askForPush(p, out)
		if p.once { // final after its window, or at the answer
			p.deadline = s.now + ackWindow(p, s)
		}
		return
	}
	p.state, p.deadline = StatePublished, s.now+ackWindow(p, s)
}

func ackWindow(p *progress, s situation) int64 {
	if p.window > 0 {
		return int64(p.window) * int64(time.Millisecond)
	}
	return int64(s.windows.Ack)
}

// elapsed is the end of a window or of a backoff.
func elapsed(p *progress, s situation, out *step) {
	p.deadline = 0
	switch p.state {
	case StatePending:
		if s.up { // the in-flight window had no room, and no ack made any
			out.event(EventAckTimeout, "in-flight window full")
		} // else: after a restart, the device has not come back
		fallBack(p, s, out)
	case StatePublished:
		out.event(EventAckTimeout, "")
		p.lapsed = true
		fallBack(p, s, out)
	case StatePushing: // the backoff is over, or with a TTL of 0 the ack window
		p.lapsed = p.lapsed || p.once
		fallBack(p, s, out)
	case StatePushed: // patent claim 4: look at the channel again
		if p.once {
			endOnce(p, s, out)
			return
		}
		out.event(EventFallbackTimeout, "")
		p.lapsed = true
		if s.up && s.room {
			out.event(EventRedelivered, "")
			if p.attempts == 0 {
				out.events[out.n-1].kind = EventPublished
			}
			p.state, p.deadline, out.publish = StatePublished, s.now+ackWindow(p, s), true
			p.attempts = oneMore(p.attempts)
			return
		}
		wait(p, s, pick(s.up, "in-flight window full", ""), out)
	}
}

// mayPush reports whether a push may be asked for now.
func mayPush(p *progress, s situation) bool {
	return p.fallback && s.hasToken && !p.pushAccepted && p.refused == RefusedNot && !p.pushUnderway && p.pushAfter <= s.now
}

// oneMore is n+1, or the most that a counter holds: a device that comes back every 30 s for a month,
// and never acknowledges, must not begin again as one that was never tried.
func oneMore(n uint16) uint16 { return max(n, n+1) }

func askForPush(p *progress, out *step) {
	p.pushAttempts = oneMore(p.pushAttempts)
	out.event(EventPushRequested, "")
	p.state, p.deadline, p.pushUnderway, out.push = StatePushing, 0, true, true
}

// fallBack leaves the channel for the notification server, or waits where that is
// not to be had, or not again.
func fallBack(p *progress, s situation, out *step) {
	switch {
	case p.once && p.attempts+p.pushAttempts > 0: // that was the one attempt
		endOnce(p, s, out)
	case p.pushAccepted:
		wait(p, s, "a push was accepted before", out)
	case p.refused != RefusedNot:
		wait(p, s, "the push was refused before", out)
	case !p.fallback:
		wait(p, s, "no fallback asked for", out)
	case p.pushUnderway:
		p.state, p.deadline = StatePushing, 0
	case !s.hasToken:
		wait(p, s, pick(s.noToken != "", s.noToken, "no push token, or no notification server configured"), out)
	case p.pushAfter > s.now:
		p.state, p.deadline = StatePushing, p.pushAfter
	default:
		askForPush(p, out)
	}
}

// pushPossible lets a push be asked for that had no way before.
func pushPossible(p *progress, s situation, out *step) {
	if p.refused == RefusedContent || p.pushAccepted || !s.hasToken {
		return
	}
	p.refused = RefusedNot
	if p.state == StateWaiting && p.fallback && !p.pushUnderway {
		fallBack(p, s, out)
	}
}

// registrationEnded puts it into the timeline that a refusal ended or suspended the registration.
func registrationEnded(s situation, out *step) {
	if s.ended != 0 {
		out.event(s.ended, s.detail)
	}
}

func wait(p *progress, s situation, detail string, out *step) {
	if p.once {
		endOnce(p, s, out)
		return
	}
	out.event(EventWaiting, detail)
	p.state, p.deadline = StateWaiting, 0
}

// endOnce ends a delivery of a TTL of 0, unless its ack window or its push goes on.
func endOnce(p *progress, s situation, out *step) {
	if p.pushUnderway || p.deadline > s.now {
		return
	}
	out.event(EventExpired, "ttl 0")
	finish(p, StateExpired, out)
}

// finish ends a delivery. An acked one is not over before its message is.
func finish(p *progress, final State, out *step) {
	p.state, p.deadline = final, 0
	out.finished = final != StateAcked || p.message == MessageNone || p.message == MessageReceived
}

// afterFinal handles the message's part of the journey, and late inputs.
func afterFinal(p progress, in input, s situation, out step) (progress, step) {
	open := p.state == StateAcked && (p.message == MessageHeld || p.message == MessageSent)
	switch in {
	case inElapsed: // no window runs any more
		p.deadline = 0
	case inDisplayed: // asked for `received`, and then told more
		if !p.displayed {
			p.displayed = true
			out.event(EventDisplayed, s.detail)
		}
	case inPushAccepted: // the ack overtook the answer
		out.event(EventPushed, s.detail)
		p.pushAccepted, p.pushUnderway = true, false
	case inPushRetry:
		p.pushUnderway = false
	case inPushRefused:
		p.pushUnderway = false
		registrationEnded(s, &out)
	case inMessageSent:
		if open {
			out.event(EventMessageSent, "")
			p.message = MessageSent
		}
	case inMessageReceived:
		if open {
			out.event(EventMessageReceived, "")
			p.message, out.finished = MessageReceived, true
		}
	case inChannelLost:
		if p.message == MessageSent {
			p.message = MessageHeld
		}
	case inExpire, inCancel:
		if open {
			out.event(pick(in == inExpire, EventExpired, EventCancelled), "message not delivered")
			out.finished = true
		}
	}
	return p, out
}

func ackDetail(p progress, s situation) string {
	// Published and pushed at the same time: no window has elapsed while the push is under way, or
	// has just been accepted.
	both := (p.atOnce || p.once) && p.attempts == 1 && !p.lapsed && p.state != StateWaiting
	if s.late || p.state != StatePublished && !both {
		return "late"
	}
	return s.detail
}

func pick[T any](cond bool, yes, no T) T {
	if cond {
		return yes
	}
	return no
}

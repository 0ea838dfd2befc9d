package delivery

import "time"

// progress is the part of a delivery that the state machine reads and writes.
// Times are readings of the core's steady clock (clock.go), 0 for none.
type progress struct {
	state        State
	ack          AckKind // the asked-for ack
	message      MessageState
	fallback     bool // a push is allowed
	received     bool // the PUBACK came, AckDisplayed is still to come
	displayed    bool // said once; saying it again is nothing new
	pushAccepted bool
	refused      RefusedKind // why no push is asked for
	pushUnderway bool        // asked for and not answered yet; never stored
	attempts     uint16
	pushAttempts uint16
	deadline     int64 // the window, backoff or retry in force elapses
	pushAfter    int64 // no push before: a Retry-After outlives a try over the channel
}

// situation is what surrounds a delivery at the moment of an input.
type situation struct {
	now      int64
	up       bool   // the channel is up
	room     bool   // and may take this delivery now
	hasToken bool   // a notification server can be asked
	late     bool   // with an ack: its window had elapsed
	detail   string // for the timeline
	after    time.Duration
	refused  RefusedKind // with inPushRefused
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
	inNoChannel                     // pending, and the channel is down
	inChannelLost                   // the connection that carried it is gone
	inReceived                      // PUBACK, reason code below 0x80
	inDisplayed                     // the device has shown it
	inNacked                        // PUBACK of 0x80 and up, or not queued
	inElapsed                       // deadline passed
	inPushAccepted                  // answers of the notification server
	inPushRetry                     //
	inPushRefused                   //
	inMessageSent
	inMessageReceived
	inExpire
	inSupersede
	inCancel
)

// step is what a transition asks of the core, and what it puts into the
// timeline.
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
		out.event(pick(p.attempts == 0, EventPublished, EventRedelivered), "")
		p.state, p.deadline, out.publish = StatePublished, s.now+int64(s.windows.Ack), true
		p.attempts++
	case inNoChannel:
		if p.state == StatePending {
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
		if p.state == StatePublished {
			out.event(EventNacked, s.detail)
			fallBack(&p, s, &out)
		}
	case inElapsed:
		elapsed(&p, s, &out)
	case inPushAccepted:
		out.event(EventPushed, s.detail)
		p.pushAccepted, p.pushUnderway = true, false
		if p.state == StatePushing {
			p.state, p.deadline = StatePushed, s.now+int64(s.windows.Fallback)
		}
	case inPushRetry:
		out.event(EventPushRetry, s.detail)
		p.pushUnderway, p.pushAfter = false, s.now+int64(s.after)
		if p.state == StatePushing {
			p.deadline = p.pushAfter
		}
	case inPushRefused:
		out.event(EventPushFailed, s.detail)
		p.refused, p.pushUnderway = max(s.refused, RefusedContent), false
		if p.state == StatePushing {
			wait(&p, "", &out)
		}
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

// elapsed is the end of a window or of a backoff.
func elapsed(p *progress, s situation, out *step) {
	switch p.state {
	case StatePending:
		if s.up { // the in-flight window had no room, and no ack made any
			out.event(EventAckTimeout, "in-flight window full")
		} // else: after a restart, the device has not come back
		fallBack(p, s, out)
	case StatePublished:
		out.event(EventAckTimeout, "")
		fallBack(p, s, out)
	case StatePushing: // the backoff is over
		fallBack(p, s, out)
	case StatePushed: // patent claim 4: look at the channel again
		out.event(EventFallbackTimeout, "")
		if s.up && s.room {
			out.event(EventRedelivered, "")
			if p.attempts == 0 {
				out.events[out.n-1].kind = EventPublished
			}
			p.state, p.deadline, out.publish = StatePublished, s.now+int64(s.windows.Ack), true
			p.attempts++
			return
		}
		wait(p, pick(s.up, "in-flight window full", ""), out)
	default:
		p.deadline = 0
	}
}

// fallBack leaves the channel for the notification server, or waits where that is
// not to be had, or not again.
func fallBack(p *progress, s situation, out *step) {
	switch {
	case p.pushAccepted:
		wait(p, "a push was accepted before", out)
	case p.refused != RefusedNot:
		wait(p, "the push was refused before", out)
	case !p.fallback:
		wait(p, "no fallback asked for", out)
	case !s.hasToken:
		wait(p, "no push token, or no notification server configured", out)
	case p.pushUnderway:
		p.state, p.deadline = StatePushing, 0
	case p.pushAfter > s.now:
		p.state, p.deadline = StatePushing, p.pushAfter
	default:
		p.pushAttempts++
		out.event(EventPushRequested, "")
		p.state, p.deadline, p.pushUnderway, out.push = StatePushing, 0, true, true
	}
}

func wait(p *progress, detail string, out *step) {
	out.event(EventWaiting, detail)
	p.state, p.deadline = StateWaiting, 0
}

// finish ends a delivery. An acked one is not over before its message is.
func finish(p *progress, final State, out *step) {
	p.state, p.deadline = final, 0
	out.finished = final != StateAcked || p.message == MessageNone || p.message == MessageReceived
}

// afterFinal is the message's part of the journey, and what comes after the end.
func afterFinal(p progress, in input, s situation, out step) (progress, step) {
	open := p.state == StateAcked && (p.message == MessageHeld || p.message == MessageSent)
	switch in {
	case inDisplayed: // asked for `received`, and then told more
		if !p.displayed {
			p.displayed = true
			out.event(EventDisplayed, s.detail)
		}
	case inPushAccepted: // the ack overtook the answer
		out.event(EventPushed, s.detail)
		p.pushAccepted, p.pushUnderway = true, false
	case inPushRetry, inPushRefused:
		p.pushUnderway = false
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
	if s.late || p.state != StatePublished {
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

// StateAfter returns the state that a timeline tells of: what transition leaves
// behind, read back from its events. ack is the notification's asked-for ack.
func StateAfter(timeline []Event, ack AckKind) State {
	state := StatePending
	for _, e := range timeline {
		if state.Final() {
			return state
		}
		switch e.Kind {
		case EventPublished, EventRedelivered:
			state = StatePublished
		case EventAckTimeout, EventNacked, EventPushRequested:
			state = StatePushing
		case EventPushed:
			if state == StatePushing {
				state = StatePushed
			}
		case EventWaiting:
			state = StateWaiting
		case EventReceived:
			if ack != AckDisplayed {
				state = StateAcked
			}
		case EventDisplayed:
			state = StateAcked
		case EventExpired:
			state = StateExpired
		case EventSuperseded:
			state = StateSuperseded
		case EventCancelled:
			state = StateCancelled
		}
	}
	return state
}

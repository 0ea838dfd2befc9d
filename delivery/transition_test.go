package delivery

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var testWindows = &Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}

const second = int64(time.Second)

// journey plays inputs on a delivery and returns the timeline it leaves.
type journey struct {
	progress
	now    int64
	events []Event
}

func (j *journey) do(in input, s situation) step {
	s.now, s.windows = j.now, testWindows
	var st step
	j.progress, st = transition(j.progress, in, s)
	for _, e := range st.events[:st.n] {
		j.events = append(j.events, Event{Kind: e.kind, Detail: e.detail, Attempt: int(j.attempts)})
	}
	return st
}

func newJourney() *journey {
	return &journey{progress: progress{state: StatePending, ack: AckReceived, fallback: true}, now: second}
}

// TestMostAttempts: a delivery that was tried as often as its counters hold goes on as one that was
// tried.
func TestMostAttempts(t *testing.T) {
	up := situation{up: true, room: true, hasToken: true}
	j := newJourney()
	j.state, j.attempts, j.pushAttempts = StateWaiting, 65534, 65535
	for range 3 {
		j.do(inOffer, up)
		j.now += 3 * second
		j.do(inElapsed, up)
	}
	if j.attempts != 65535 || j.pushAttempts != 65535 {
		t.Errorf("%d attempts, %d pushes", j.attempts, j.pushAttempts)
	}
	for _, e := range j.events {
		if e.Kind == EventPublished {
			t.Errorf("published for the first time again: %+v", j.events)
		}
	}
}

// The table of contract §2, a row a transition.
func TestTransitionTable(t *testing.T) {
	token := situation{hasToken: true}
	up := situation{up: true, room: true, hasToken: true}
	in := func(state State, change func(*progress)) progress {
		p := progress{state: state, ack: AckReceived, fallback: true, attempts: 1}
		if change != nil {
			change(&p)
		}
		return p
	}
	accepted := func(p *progress) { p.pushAccepted = true }
	noFallback := func(p *progress) { p.fallback = false }
	for _, row := range []struct {
		name   string
		from   progress
		in     input
		around situation
		want   State
		events []EventKind
	}{
		{"pending, channel up", in(StatePending, func(p *progress) { p.attempts = 0 }), inOffer, up, StatePublished, []EventKind{EventPublished}},
		{"pending, channel down", in(StatePending, nil), inNoChannel, token, StatePushing, []EventKind{EventPushRequested}},
		{"pending, down, no token", in(StatePending, nil), inNoChannel, situation{}, StateWaiting, []EventKind{EventWaiting}},
		{"pending, down, no fallback", in(StatePending, noFallback), inNoChannel, token, StateWaiting, []EventKind{EventWaiting}},
		{"pending, no room for a window", in(StatePending, nil), inElapsed, up, StatePushing, []EventKind{EventAckTimeout, EventPushRequested}},
		{"pending, not back after a restart", in(StatePending, nil), inElapsed, token, StatePushing, []EventKind{EventPushRequested}},
		{"published, ack", in(StatePublished, nil), inReceived, up, StateAcked, []EventKind{EventReceived}},
		{"published, displayed", in(StatePublished, nil), inDisplayed, up, StateAcked, []EventKind{EventDisplayed}},
		{"published, window over", in(StatePublished, nil), inElapsed, token, StatePushing, []EventKind{EventAckTimeout, EventPushRequested}},
		{"published, window over, pushed before", in(StatePublished, accepted), inElapsed, token, StateWaiting, []EventKind{EventAckTimeout, EventWaiting}},
		{"published, window over, refused before", in(StatePublished, func(p *progress) { p.refused = RefusedContent }), inElapsed, token, StateWaiting, []EventKind{EventAckTimeout, EventWaiting}},
		{"published, window over, no token", in(StatePublished, nil), inElapsed, situation{up: true}, StateWaiting, []EventKind{EventAckTimeout, EventWaiting}},
		{"published, window over, push under way", in(StatePublished, func(p *progress) { p.pushUnderway = true }), inElapsed, token, StatePushing, []EventKind{EventAckTimeout}},
		{"published, channel lost", in(StatePublished, nil), inChannelLost, token, StatePublished, []EventKind{EventChannelLost}},
		{"published, lost and back", in(StatePublished, nil), inOffer, up, StatePublished, []EventKind{EventRedelivered}},
		{"published, nack", in(StatePublished, nil), inNacked, token, StatePushing, []EventKind{EventNacked, EventPushRequested}},
		{"pushing, nack", in(StatePushing, nil), inNacked, token, StatePushing, []EventKind{EventNacked}},
		{"waiting, nack", in(StateWaiting, nil), inNacked, token, StateWaiting, []EventKind{EventNacked}},
		{"pushing, accepted", in(StatePushing, nil), inPushAccepted, token, StatePushed, []EventKind{EventPushed}},
		{"pushing, retry", in(StatePushing, nil), inPushRetry, situation{after: time.Second}, StatePushing, []EventKind{EventPushRetry}},
		{"pushing, backoff over", in(StatePushing, nil), inElapsed, token, StatePushing, []EventKind{EventPushRequested}},
		{"pushing, refused", in(StatePushing, nil), inPushRefused, token, StateWaiting, []EventKind{EventPushFailed, EventWaiting}},
		{"pushing, refused, token gone", in(StatePushing, nil), inPushRefused, situation{ended: EventTokenRemoved}, StateWaiting, []EventKind{EventPushFailed, EventTokenRemoved, EventWaiting}},
		{"published, refused, token suspended", in(StatePublished, nil), inPushRefused, situation{ended: EventTokenSuspended}, StatePublished, []EventKind{EventPushFailed, EventTokenSuspended}},
		{"ttl 0, refused, token gone", in(StatePushing, func(p *progress) { p.once = true }), inPushRefused, situation{ended: EventTokenRemoved}, StateExpired, []EventKind{EventPushFailed, EventTokenRemoved, EventExpired}},
		{"acked, refused, token gone", in(StateAcked, func(p *progress) { p.message = MessageHeld }), inPushRefused, situation{ended: EventTokenRemoved}, StateAcked, []EventKind{EventTokenRemoved}},
		{"pushing, channel up", in(StatePushing, nil), inOffer, up, StatePublished, []EventKind{EventRedelivered}},
		{"pushed, ack", in(StatePushed, accepted), inReceived, up, StateAcked, []EventKind{EventReceived}},
		{"pushed, back up", in(StatePushed, accepted), inOffer, up, StatePublished, []EventKind{EventRedelivered}},
		{"pushed, window over, up", in(StatePushed, accepted), inElapsed, up, StatePublished, []EventKind{EventFallbackTimeout, EventRedelivered}},
		{"pushed, window over, up, first try", in(StatePushed, func(p *progress) { p.attempts = 0; p.pushAccepted = true }), inElapsed, up, StatePublished, []EventKind{EventFallbackTimeout, EventPublished}},
		{"pushed, window over, down", in(StatePushed, accepted), inElapsed, token, StateWaiting, []EventKind{EventFallbackTimeout, EventWaiting}},
		{"pushed, window over, no room", in(StatePushed, accepted), inElapsed, situation{up: true}, StateWaiting, []EventKind{EventFallbackTimeout, EventWaiting}},
		{"waiting, up", in(StateWaiting, nil), inOffer, up, StatePublished, []EventKind{EventRedelivered}},
		{"waiting, ack", in(StateWaiting, nil), inReceived, token, StateAcked, []EventKind{EventReceived}},
		{"waiting, expired", in(StateWaiting, nil), inExpire, token, StateExpired, []EventKind{EventExpired}},
		{"published, superseded", in(StatePublished, nil), inSupersede, up, StateSuperseded, []EventKind{EventSuperseded}},
		{"pushing, cancelled", in(StatePushing, nil), inCancel, up, StateCancelled, []EventKind{EventCancelled}},
		{"acked, expired", in(StateAcked, nil), inExpire, token, StateAcked, nil},
		{"expired, ack", in(StateExpired, nil), inReceived, token, StateExpired, nil},
		{"acked, answer overtaken", in(StateAcked, nil), inPushAccepted, token, StateAcked, []EventKind{EventPushed}},
	} {
		t.Run(row.name, func(t *testing.T) {
			j := &journey{progress: row.from, now: second}
			j.do(row.in, row.around)
			if j.state != row.want {
				t.Errorf("state %v, want %v", j.state, row.want)
			}
			if len(j.events) != len(row.events) {
				t.Fatalf("events %v, want %v", j.events, row.events)
			}
			for i, e := range j.events {
				if e.Kind != row.events[i] {
					t.Errorf("event %d is %v, want %v", i, e.Kind, row.events[i])
				}
			}
		})
	}
}

func TestAckWindows(t *testing.T) {
	j := newJourney()
	j.do(inOffer, situation{up: true, room: true})
	if j.deadline != j.now+3*second {
		t.Errorf("ack window ends at %d, want 3 s from %d", j.deadline, j.now)
	}
	j.now = j.deadline
	j.do(inElapsed, situation{hasToken: true})
	j.do(inPushAccepted, situation{})
	if j.deadline != j.now+10*second {
		t.Errorf("fallback window ends at %d, want 10 s from %d", j.deadline, j.now)
	}
}

func TestLateAckSaysSo(t *testing.T) {
	for name, play := range map[string]func(*journey){
		"after the window": func(j *journey) { j.do(inElapsed, situation{hasToken: true}); j.do(inReceived, situation{}) },
		"of an older attempt": func(j *journey) {
			j.do(inOffer, situation{up: true, room: true})
			j.do(inReceived, situation{late: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJourney()
			j.do(inOffer, situation{up: true, room: true})
			play(j)
			last := j.events[len(j.events)-1]
			if j.state != StateAcked || last.Kind != EventReceived || last.Detail != "late" {
				t.Errorf("state %v, last event %v %q; want acked by a late ack", j.state, last.Kind, last.Detail)
			}
		})
	}
}

// TestAckOfTheFirstPublishDuringAPush: it is late once a window has elapsed, and the server's answer ends
// none.
func TestAckOfTheFirstPublishDuringAPush(t *testing.T) {
	up := situation{up: true, room: true, hasToken: true}
	noRoom := situation{up: true, hasToken: true}
	for _, c := range []struct {
		name string
		once bool // ttl 0; else ack_window 0
		play func(j *journey)
		late bool
	}{
		{"before the answer", false, func(*journey) {}, false},
		{"accepted", false, func(j *journey) { j.do(inPushAccepted, up) }, false},
		{"to be retried", false, func(j *journey) { j.do(inPushRetry, up) }, false},
		{"refused", false, func(j *journey) { j.do(inPushRefused, up) }, true},
		{"retried", false, func(j *journey) { j.do(inPushRetry, up); j.do(inElapsed, up) }, false},
		{"after the fallback window", false, func(j *journey) { j.do(inPushAccepted, up); j.do(inElapsed, noRoom) }, true},
		{"published again", false, func(j *journey) { j.do(inPushAccepted, up); j.do(inElapsed, up); j.do(inElapsed, up) }, true},
		{"after a nack", false, func(j *journey) { j.do(inNacked, up) }, true},
		{"ttl 0, before the answer", true, func(*journey) {}, false},
		{"ttl 0, accepted", true, func(j *journey) { j.do(inPushAccepted, up) }, false},
		{"ttl 0, after the ack window", true, func(j *journey) { j.now = j.deadline; j.do(inElapsed, up) }, true},
	} {
		for _, in := range []input{inReceived, inDisplayed} {
			j := newJourney()
			j.atOnce, j.once = !c.once, c.once
			j.do(inOffer, up)
			c.play(j)
			j.do(in, up)
			if last := j.events[len(j.events)-1]; j.state != StateAcked || last.Detail != pick(c.late, "late", "") {
				t.Errorf("%s: state %v, last event %v %q", c.name, j.state, last.Kind, last.Detail)
			}
		}
	}
	// The device came while the push was under way, and let an ack window elapse.
	j := newJourney()
	j.atOnce = true
	j.do(inNoChannel, up)
	j.do(inOffer, up)
	j.do(inElapsed, up)
	j.do(inPushAccepted, up)
	j.do(inReceived, up)
	if last := j.events[len(j.events)-1]; last.Detail != "late" {
		t.Errorf("after an ack window: %v %q", last.Kind, last.Detail)
	}
}

func TestDisplayedIsAskedFor(t *testing.T) {
	j := newJourney()
	j.ack = AckDisplayed
	j.do(inOffer, situation{up: true, room: true})
	j.do(inReceived, situation{})
	if j.state != StatePublished || !j.received {
		t.Fatalf("state %v after the PUBACK, want published until it is displayed", j.state)
	}
	if st := j.do(inDisplayed, situation{}); j.state != StateAcked || !st.finished {
		t.Fatalf("state %v after displayed, want acked and over", j.state)
	}
}

func TestRetryAfterOutlivesTheChannel(t *testing.T) {
	j := newJourney()
	token := situation{hasToken: true, after: time.Minute}
	j.do(inNoChannel, token)
	j.do(inPushRetry, token)
	j.do(inOffer, situation{up: true, room: true})
	j.now += 3 * second
	if st := j.do(inElapsed, situation{hasToken: true}); st.push || j.state != StatePushing || j.deadline != second+int64(time.Minute) {
		t.Errorf("push %v, state %v, deadline %d: want to wait for the server's minute", st.push, j.state, j.deadline)
	}
}

func TestMessageFollowsTheAck(t *testing.T) {
	j := newJourney()
	j.message = MessageHeld
	j.do(inOffer, situation{up: true, room: true})
	if st := j.do(inReceived, situation{}); st.finished {
		t.Fatal("over before its message is delivered")
	}
	j.do(inMessageSent, situation{})
	j.do(inChannelLost, situation{})
	if j.message != MessageHeld {
		t.Fatalf("message %d after the channel was lost, want held", j.message)
	}
	j.do(inMessageSent, situation{})
	if st := j.do(inMessageReceived, situation{}); !st.finished || j.state != StateAcked {
		t.Errorf("finished %v in %v, want over and acked", st.finished, j.state)
	}
}

// Whatever happens to a delivery: at most one accepted push asked for once at a
// time, no way out of a final state, and a deadline wherever only time can help.
func TestTransitionProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := newJourney()
		j.ack = rapid.SampledFrom([]AckKind{AckReceived, AckDisplayed}).Draw(t, "ack")
		j.fallback = rapid.Bool().Draw(t, "fallback")
		j.message = rapid.SampledFrom([]MessageState{MessageNone, MessageHeld}).Draw(t, "message")
		j.atOnce, j.once = rapid.Bool().Draw(t, "at once"), rapid.Bool().Draw(t, "once")
		underway := false
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if j.state == StatePublished && j.deadline == 0 || j.state == StatePushed && j.deadline == 0 {
					t.Fatalf("%v without a deadline", j.state)
				}
				if j.state == StatePushing && j.deadline == 0 && !underway {
					t.Fatal("pushing, and nothing under way or planned")
				}
			},
			"input": func(t *rapid.T) {
				in := input(rapid.IntRange(int(inOffer), int(inCancel)).Draw(t, "in"))
				s := situation{
					up: rapid.Bool().Draw(t, "up"), hasToken: rapid.Bool().Draw(t, "token"), after: time.Second,
					late: rapid.Bool().Draw(t, "late"),
				}
				s.room = s.up && rapid.Bool().Draw(t, "room")
				answer := in == inPushAccepted || in == inPushRetry || in == inPushRefused
				if answer && !underway || in == inOffer && !s.room || in == inNoChannel && s.up {
					t.Skip("the core never says this")
				}
				if in == inElapsed {
					if j.deadline == 0 && j.state != StatePending {
						t.Skip("no deadline")
					}
					j.now = max(j.now, j.deadline)
				}
				before := j.progress
				st := j.do(in, s)
				if answer {
					underway = false
				}
				if st.push {
					if underway || before.pushAccepted || !before.fallback || !s.hasToken {
						t.Fatalf("asked for a push: under way %v, before %+v", underway, before)
					}
					underway = true
				}
				if before.state.Final() && j.state != before.state {
					t.Fatalf("left %v for %v", before.state, j.state)
				}
				if st.finished && !j.state.Final() {
					t.Fatalf("over in %v", j.state)
				}
			},
		})
	})
}

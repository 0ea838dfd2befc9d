package delivery

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

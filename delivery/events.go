package delivery

import (
	"fmt"
	"slices"
)

// EventReader is the part of a Reader that ReadEvents uses.
type EventReader interface {
	EventsFrom(after Position, fn func(at Position, account string, e Event) bool) error
	EventsEnd() (Place, error)
}

// mergeStep bounds the events of one partition that are read ahead of the others.
const mergeStep = 256

// ReadEvents calls fn with every event behind a place, of all partitions, until fn returns
// false or the events that r had at the beginning are read. It returns the place up to
// which fn has had everything, also with an error. Each event is passed once, and those of
// one notification in their order.
//
// The events of a notification are in more than one partition where its account has
// moved to another owner. The new owner's numbers exceed all that were stored before, of
// whatever account. So the partition whose next event has the lowest number is the one to
// go on with: where another has an earlier event of the same account, everything in front
// of that one, too, has a lower number.
func ReadEvents(r EventReader, after Place, fn func(at Position, account string, e Event) bool) (Place, error) {
	next := slices.Clone(after)
	end, err := r.EventsEnd()
	if err != nil {
		return next, err
	}
	if !after.Within(end) {
		return next, fmt.Errorf("events behind %v, with the store at %v: %w", after, end, ErrNotFound)
	}
	var heads []*head
	for _, to := range end {
		if from := after.Of(to.Partition); from.Less(to) {
			heads = append(heads, &head{r: r, at: from, end: to})
		}
	}
	if len(heads) == 1 {
		return next, heads[0].pass(&next, fn)
	}
	for {
		var first *head
		for _, h := range heads {
			if err := h.fill(); err != nil {
				return next, err
			}
			if len(h.events) > 0 && (first == nil || h.events[0].event.Number < first.events[0].event.Number) {
				first = h
			}
		}
		if first == nil {
			for _, h := range heads { // the rest of a partition holds no event
				next.Advance(h.end)
			}
			return next, nil
		}
		e := first.take()
		next.Advance(e.at)
		if !fn(e.at, e.account, e.event) {
			return next, nil
		}
	}
}

// head is the beginning of the unread events of a partition.
type head struct {
	r       EventReader
	at, end Position // read up to here; to be read up to there
	events  []placed // read and not passed
	done    bool
}

type placed struct {
	at      Position
	account string
	event   Event
}

// fill reads some events if there are none.
func (h *head) fill() error {
	if len(h.events) > 0 || h.done {
		return nil
	}
	h.done = true
	err := h.r.EventsFrom(h.at, func(at Position, account string, e Event) bool {
		if h.end.Less(at) { // it came meanwhile
			return false
		}
		h.events = append(h.events, placed{at, account, e})
		h.done = len(h.events) < mergeStep
		return h.done
	})
	if n := len(h.events); n > 0 {
		h.at = h.events[n-1].at
	}
	return err
}

func (h *head) take() placed {
	e := h.events[0]
	h.events = h.events[1:]
	return e
}

// pass passes a partition that needs no merging, as it is read.
func (h *head) pass(next *Place, fn func(at Position, account string, e Event) bool) error {
	stopped := false
	err := h.r.EventsFrom(h.at, func(at Position, account string, e Event) bool {
		if h.end.Less(at) {
			return false
		}
		next.Advance(at)
		stopped = !fn(at, account, e)
		return !stopped
	})
	if err == nil && !stopped {
		next.Advance(h.end)
	}
	return err
}

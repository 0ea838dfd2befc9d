package cluster

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// heldAccept is an acceptance on its way to an owner.
type heldAccept struct {
	request delivery.Request
	done    func(delivery.Receipt, error)
	but     owner     // not there: it has stopped, or is cut off
	again   time.Time // when a node that is cut off is asked again; zero: it has stopped
	why     error     // of the last refusal of such a node
	term    uint64    // of another node: for the Core of this node under this term. 0: of this node
	until   time.Time // when it is refused
}

// AcceptAsync is Core.AcceptAsync. A request whose owner is lost before the answer is
// asked for again at the next one, which finds the first if it was accepted: by its ID,
// or by a mark of this node's.
func (r *Router) AcceptAsync(q delivery.Request, done func(delivery.Receipt, error)) {
	if q.ID == "" && q.Mark == nil {
		q.Mark = &delivery.RequestMark{Client: r.opts.Name, Payload: rand.Uint64()}
	}
	r.accept(r.part(q.Account), heldAccept{request: q, done: done, until: time.Now().Add(r.table.hold)})
}

// AcceptAt implements relay.Local.
func (r *Router) AcceptAt(part uint16, term uint64, q delivery.Request, done func(delivery.Receipt, error)) {
	if part >= r.opts.Parts {
		done(delivery.Receipt{}, errNoPart)
		return
	}
	r.accept(part, heldAccept{request: q, done: done, term: term, until: time.Now().Add(r.table.hold)})
}

// accept passes an acceptance on at once, or behind those of the partition that wait.
func (r *Router) accept(part uint16, h heldAccept) {
	s := &r.table.slots[part]
	s.mu.Lock()
	o, err := h.ownerLocked(s)
	switch {
	case err != nil && !s.draining:
	case o != nil && !s.draining:
	case len(s.accepts) >= maxHeld:
		err = r.table.unowned(part)
	default:
		if s.draining = s.draining || r.start(func() { r.acceptHeld(part) }); s.draining {
			s.accepts = append(s.accepts, h)
			s.mu.Unlock()
			return
		}
		err = delivery.ErrStopped
	}
	s.mu.Unlock()
	r.acceptAt(part, o, err, h)
}

// ownerLocked returns the owner that accepts; nil: there is none yet.
func (h *heldAccept) ownerLocked(s *slot) (owner, error) {
	switch {
	case h.term == 0 && (s.owner != h.but || !h.again.IsZero() && !time.Now().Before(h.again)):
		return s.owner, nil
	case h.term == 0 || h.term > s.term:
		return nil, nil
	case h.term < s.term:
		return nil, errMoved
	case s.core == nil:
		return nil, nil
	}
	return s.core, nil
}

func (r *Router) acceptAt(part uint16, o owner, err error, h heldAccept) {
	if err != nil {
		h.finish(delivery.Receipt{}, err)
		return
	}
	o.AcceptAsync(h.request, func(receipt delivery.Receipt, err error) {
		switch {
		case h.term != 0:
			h.done(receipt, err)
			return
		case moved(err):
			_, here := o.(*delivery.Core)
			// A stopped Core of this node accepts nothing. The error about a commit, or about an
			// earlier request with the ID, wraps its answer.
			refused := here && err == delivery.ErrStopped //nolint:errorlint // as above
			h.request.Again = h.request.Again || !refused
			h.but, h.again, h.until = o, time.Time{}, time.Now().Add(r.table.hold)
		case r.cutOff(o, err) && time.Now().Before(h.until):
			h.but, h.again, h.why = o, time.Now().Add(askPause), err
		default:
			h.finish(receipt, err)
			return
		}
		r.accept(part, h)
	})
}

// finish answers. What a former owner was asked for may have been accepted, whatever the store
// of this one is in, and also where this node stops.
func (h *heldAccept) finish(receipt delivery.Receipt, err error) {
	if h.request.Again && h.term == 0 && (errors.Is(err, delivery.ErrUnavailable) || moved(err)) {
		err = delivery.ErrInDoubt
	}
	h.done(receipt, err)
}

// overdue is the error of an acceptance that has waited for too long.
func (h *heldAccept) overdue(unowned error) error {
	if h.why != nil {
		return h.why
	}
	return unowned
}

// wake is when an acceptance that waits is to be looked at again.
func (h *heldAccept) wake() time.Time {
	if h.again.After(time.Now()) && h.again.Before(h.until) {
		return h.again
	}
	return h.until
}

// acceptHeld passes on the acceptances that wait, in their order, until there are no
// more.
func (r *Router) acceptHeld(part uint16) {
	s := &r.table.slots[part]
	for {
		s.mu.Lock()
		if len(s.accepts) == 0 {
			s.accepts, s.draining = nil, false
			s.mu.Unlock()
			return
		}
		h := s.accepts[0]
		o, err := h.ownerLocked(s)
		switch {
		case r.table.ctx.Err() != nil:
			err = delivery.ErrStopped
		case err == nil && o == nil && !time.Now().Before(h.until):
			err = h.overdue(r.table.unowned(part))
		}
		if err == nil && o == nil {
			changed := s.changedLocked()
			s.mu.Unlock()
			patience := time.NewTimer(time.Until(h.wake()))
			select {
			case <-changed:
			case <-patience.C:
			case <-r.table.ctx.Done():
			}
			patience.Stop()
			continue
		}
		s.accepts = s.accepts[1:]
		s.mu.Unlock()
		r.acceptAt(part, o, err, h)
	}
}

package store

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// commitAll is the committer: it writes group after group until the outbox is
// closed and the queue is empty.
func (o *Outbox) commitAll() {
	going := true
	for {
		g := o.next()
		if g == nil {
			return
		}
		if going = going && o.commit(g); !going {
			o.giveUp(g)
		}
		reset(&o.merged)
	}
}

// commit writes g and retries as often as needed. It tries acceptances once. It returns
// false if the outbox is closing and the store does not work; g then holds the unwritten commits.
func (o *Outbox) commit(g *group) bool {
	wait := o.opts.RetryInitial
	for len(g.commits) > 0 {
		err := o.apply(g)
		var taken *Taken
		switch {
		case err == nil:
			if slices.ContainsFunc(g.commits, (*commit).accepts) {
				o.untried = false
			}
			o.tell(g, nil)
			*g = group{}
		case errors.Is(err, ErrFenced):
			o.loseTo(err)
			return false
		case errors.As(err, &taken) && len(taken.IDs) > 0:
			o.refuseAll(g.take(taken.IDs), fmt.Errorf("%w: the ID belongs to a notification of another account", delivery.ErrConflict))
		case errors.Is(err, ErrBroken):
			o.troubled(g, fmt.Errorf("%w: the store failed and is being reopened: %w", delivery.ErrUnavailable, err))
			if errors.Is(err, ErrUnsent) {
				o.refuseAll(g.split(), o.cause())
			}
			if !o.reopen(g) {
				return false
			}
		default:
			// Nothing of it took effect.
			cause := fmt.Errorf("%w: the store refused a write: %w", delivery.ErrUnavailable, err)
			o.untried = true
			o.troubled(g, cause)
			o.refuseAll(g.split(), cause)
			// Not even if nothing is left of g: the next acceptance is the next
			// try, and should not come at once.
			if !o.sleep(&wait) {
				return false
			}
		}
	}
	o.recovered()
	return true
}

// giveUp tells a closing outbox's callers that g is not written. An acceptance in
// it may be: whoever asks again with the same ID will know.
func (o *Outbox) giveUp(g *group) {
	o.mu.Lock()
	lost := o.lost
	o.mu.Unlock()
	if lost == nil {
		lost = fmt.Errorf("the store was closed before it took this: %w", delivery.ErrStopped)
	}
	o.tell(g, lost)
}

// loseTo notes that another process has taken over: nothing is written any more.
func (o *Outbox) loseTo(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost == nil {
		o.lost = err
		o.stats.LastError, o.stats.LastErrorAt = err.Error(), o.opts.Now()
		close(o.fenced)
		o.opts.Logger.Error("another node has taken over, refusing all changes", "error", err)
	}
}

// sleep waits for *wait, which it doubles, and reports whether to go on.
func (o *Outbox) sleep(wait *time.Duration) bool {
	t := time.NewTimer(*wait)
	defer t.Stop()
	*wait = min(2**wait, o.opts.RetryMax)
	select {
	case <-t.C:
		return true
	case <-o.stop:
		return false
	}
}

// apply writes g once, watched.
func (o *Outbox) apply(g *group) error {
	if o.sinceGuard += g.bytes; uint64(o.sinceGuard) > o.opts.MinFreeBytes/8 {
		o.sinceGuard = 0
		o.guard()
		o.mu.Lock()
		low := o.low
		o.mu.Unlock()
		if low != nil {
			o.refuseAll(g.split(), low)
		}
	}
	b := g.merge(&o.merged)
	if !b.Sync && (o.unsyncedBytes > o.opts.MaxGroupBytes || len(o.unsynced) > 8*o.opts.MaxGroup) {
		synced := *b
		synced.Sync = true
		b = &synced
	}
	h := o.engine.Load() // only the committer changes it
	if err := o.applyTo(h.engine, b, g); err != nil {
		return err
	}
	o.written(g, b.Sync)
	return nil
}

// written remembers a group that a breaking engine may lose, though its callers have
// been notified: the group is applied again then. A synced group vouches for all before it.
func (o *Outbox) written(g *group, synced bool) {
	if synced {
		clear(o.unsynced)
		o.unsynced, o.unsyncedBytes = o.unsynced[:0], 0
		return
	}
	o.unsynced = append(o.unsynced, g.commits...)
	o.unsyncedBytes += g.bytes
}

// replay applies to a new engine what the one before it may have lost, and then the commits in
// flight that took effect: a repetition of those before them would undo these.
func (o *Outbox) replay(e Engine, inFlight []*commit) error {
	for rest := slices.Concat(o.unsynced, inFlight); len(rest) > 0; {
		g := &group{}
		for len(rest) > 0 && len(g.commits) < o.opts.MaxGroup && g.admits(rest[0].batch) {
			g.add(rest[0])
			rest = rest[1:]
		}
		b := *g.merge(&o.merged)
		b.Sync = len(rest) == 0
		if err := o.applyTo(e, &b, g); err != nil {
			return fmt.Errorf("apply the unsynced writes again: %w", err)
		}
	}
	o.written(nil, true)
	return nil
}

func (o *Outbox) applyTo(e Engine, b *delivery.Batch, g *group) error {
	if b.Empty() && !b.Sync {
		return nil
	}
	o.applying <- struct{}{}
	defer func() { <-o.applying }()
	began := time.Now()
	end := o.watch(e, g)
	err := e.Apply(b)
	end()
	took := time.Since(began)

	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats.note(g, b.Sync, took, err)
	return err
}

// watch begins to wait for the write of g; end is called when it has returned.
func (o *Outbox) watch(e Engine, g *group) (end func()) {
	returned := make(chan struct{})
	finished := make(chan struct{})
	t := time.AfterFunc(o.opts.CommitTimeout, func() {
		defer close(finished)
		o.overdue(e, g, returned)
	})
	return func() {
		close(returned)
		if !t.Stop() {
			<-finished
		}
	}
}

// overdue is run when the write of g has not returned in time. The committer waits
// for its end.
func (o *Outbox) overdue(e Engine, g *group, returned <-chan struct{}) {
	o.troubled(g, fmt.Errorf("%w: a write to the store has not returned for %v", delivery.ErrUnavailable, o.opts.CommitTimeout))
	if o.opts.Doubt > 0 {
		o.doubt(g)
	}
	o.guard()
	o.mu.Lock()
	full := o.full
	o.mu.Unlock()
	if !full { // it may only be slow
		t := time.NewTimer(max(o.opts.AbandonAfter-o.opts.CommitTimeout, 0))
		defer t.Stop()
		select {
		case <-returned:
			return
		case <-t.C:
		}
	}
	e.Abandon()
}

// troubled turns Ready off, and refuses the acceptances and the fences that wait.
// g is in flight: its fences wait for what may take long, its acceptances are in
// doubt.
func (o *Outbox) troubled(g *group, err error) {
	o.mu.Lock()
	if !o.announced {
		o.announced = true
		o.opts.Logger.Error("notifications are refused until the store recovers", "error", err)
	}
	o.refusing = err
	o.stats.LastError, o.stats.LastErrorAt = err.Error(), o.opts.Now()
	for _, c := range g.commits {
		if c.fences() && !c.told {
			o.refuse(c, err)
		}
	}
	kept := o.queue[:0]
	for _, c := range o.queue {
		if !c.accepts() && !c.fences() {
			kept = append(kept, c)
			continue
		}
		o.queuedBytes -= c.bytes
		o.refuse(c, err)
	}
	clear(o.queue[len(kept):])
	o.queue = kept
	o.mu.Unlock()
}

// cause returns why acceptances are refused.
func (o *Outbox) cause() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refusing
}

// doubt tells the callers of the acceptances in g that nobody knows their outcome now.
func (o *Outbox) doubt(g *group) {
	var inDoubt []*commit
	for _, c := range g.commits {
		if c.accepts() && !c.told && !c.doubted && c.batch.InDoubt != nil {
			c.doubted = true
			inDoubt = append(inDoubt, c)
		}
	}
	if len(inDoubt) > 0 {
		o.teller.add(outcome{commits: inDoubt, inDoubt: true})
	}
}

// recovered turns Ready on again.
func (o *Outbox) recovered() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refusing = nil
	if o.announced && !o.untried {
		o.announced = false
		o.opts.Logger.Info("notifications are accepted again")
	}
}

// tell has the callers of g told that have not been.
func (o *Outbox) tell(g *group, err error) {
	g.commits = slices.DeleteFunc(g.commits, func(c *commit) bool { return c.told })
	for _, c := range g.commits {
		c.told = true
		if err == nil {
			o.recent.apply(c.batch)
		}
	}
	o.teller.tell(g.commits, err)
}

func (o *Outbox) refuseAll(commits []*commit, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range commits {
		o.refuse(c, err)
	}
}

// detach takes the engine away from the readers.
func (o *Outbox) detach() *handle { return o.engine.Swap(nil) }

// bury closes an engine once its last reader has left. It is not waited for: an
// engine that was abandoned holds nothing that the next one needs.
func (o *Outbox) bury(h *handle) {
	o.burials.Go(func() {
		h.drain()
		if err := h.engine.Close(); err != nil {
			o.opts.Logger.Warn("abandoned engine not closed", "error", err)
		}
	})
}

// reopen replaces a broken engine. g was in flight. When reopen returns true, there is
// an engine, and g holds the commits still to be applied; it may be empty. Before that,
// as soon as the outcome is known, reopen notifies the callers of g. It returns false if
// the outbox is closing.
func (o *Outbox) reopen(g *group) bool {
	old := o.detach()
	old.engine.Abandon()
	o.bury(old)
	o.mu.Lock()
	o.stats.Reopened++
	o.mu.Unlock()

	wait := o.opts.RetryInitial
	began := time.Now()
	var last string
	full, left := false, uint64(0) // the last try found no room, and left this much
	for {
		// The guard reserves room for ending deliveries that have begun. Less room than
		// the guard wants may therefore be enough. If it was not enough, readers keep
		// their engine until there is more.
		if low, free := o.room(); !low || !full || free > left {
			if h := o.detach(); h != nil { // the one for reading
				h.drain()
				if err := h.engine.Close(); err != nil {
					o.opts.Logger.Warn("store opened for reading not closed", "error", err)
				}
			}
			e, err := o.opts.Open(false)
			if err == nil {
				var took []*commit
				if took, err = o.settle(g, e); err == nil {
					err = o.replay(e, took)
				}
				if err == nil {
					if took != nil { // not before: a caller may use its batch again once it is notified
						o.tell(g, nil)
						*g = group{}
					}
					o.engine.Store(newHandle(e))
					o.opts.Logger.Info("store reopened")
					return true
				}
				err = errors.Join(err, e.Close())
			}
			if errors.Is(err, ErrFenced) {
				o.loseTo(err)
				return false
			}
			o.reopenFailed(err, &last)
			full = errors.Is(err, syscall.ENOSPC)
			_, left = o.room() // after it: what it wrote may still be there
		}
		if o.engine.Load() == nil {
			if e, err := o.opts.Open(true); err == nil && e != nil {
				if _, err := o.settle(g, e); err != nil {
					o.reopenFailed(err, &last)
				}
				o.engine.Store(newHandle(e))
			}
		}
		if due := o.opts.Doubt - time.Since(began); o.opts.Doubt > 0 && due <= 0 {
			o.doubt(g)
		} else if o.opts.Doubt > 0 {
			wait = min(wait, due)
		}
		if !o.sleep(&wait) {
			return false
		}
	}
}

func (o *Outbox) reopenFailed(err error, last *string) {
	o.mu.Lock()
	o.stats.LastError, o.stats.LastErrorAt = err.Error(), o.opts.Now()
	o.mu.Unlock()
	if err.Error() != *last { // it is tried every few seconds
		*last = err.Error()
		o.opts.Logger.Error("store not reopened, retrying", "error", err)
	}
}

// settle finds out in e whether g took effect before its engine was abandoned.
// Where it did not, it never will: its acceptances are refused, and the rest
// stays in g. Where it did, all of it did, and is returned. An engine opened for writing has
// it on the disk.
func (o *Outbox) settle(g *group, e Engine) (took []*commit, err error) {
	seq, accepts := g.accept()
	if !accepts {
		return nil, nil
	}
	switch _, err := e.Notification(seq); {
	case errors.Is(err, delivery.ErrNotFound):
		o.refuseAll(g.split(), o.cause())
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("check the write that was in flight: %w", err)
	}
	return g.commits, nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// pruneStep is how many notifications are pruned between two pauses.
const pruneStep = 64

// prunePause is how long the housekeeper pauses after a step of pruning, as a
// multiple of the time that the step took. So pruning takes no more than a third of
// one core, and Apply, which the write of a step can hold up, runs alone in between.
// A round that is longer than HousekeepingInterval pauses for less.
const prunePause = 2

// wallSettles is how long the wall clock must go on after it was set by more than that
// before notifications are pruned by it.
const wallSettles = time.Hour

// wallClock tells whether Options.Now was set: it does not go on as the monotonic clock does.
type wallClock struct {
	now   func() time.Time
	began time.Time
	ahead time.Duration // of the monotonic clock since then, at the last look
	setAt time.Time     // when it was set far; zero: it was not
}

func newWallClock(now func() time.Time) *wallClock {
	w := &wallClock{now: now, began: time.Now()}
	w.step()
	return w
}

// step returns how far the wall clock has been set forward (or back, below 0) since the
// last call.
func (w *wallClock) step() time.Duration {
	ahead := w.now().Round(0).Sub(w.began.Round(0)) - time.Since(w.began) // Round(0): by the wall clock
	step := ahead - w.ahead
	w.ahead = ahead
	return step
}

// settled reports whether the wall clock may be used to prune, and how far it was set, if it was.
func (w *wallClock) settled() (ok bool, set time.Duration) {
	if step := w.step(); step.Abs() > wallSettles {
		w.setAt, set = time.Now(), step
	}
	return w.setAt.IsZero() || time.Since(w.setAt) >= wallSettles, set
}

// keepHouse is the housekeeper: it audits at the start and every AuditInterval, and
// prunes every HousekeepingInterval, until the outbox is closed.
func (o *Outbox) keepHouse() {
	wall := newWallClock(o.opts.Now)
	if o.keepsHouse() {
		o.logged(o.audit())
	}
	prune := time.NewTicker(o.opts.HousekeepingInterval)
	defer prune.Stop()
	audit := time.NewTicker(o.opts.AuditInterval)
	defer audit.Stop()
	for {
		select {
		case <-prune.C:
			settled, set := wall.settled()
			if o.keepsHouse() { // nothing to be changed, or even seen, until then
				if set != 0 {
					o.opts.Logger.Warn("wall clock was set, removing no history for an hour", "by", set.Round(time.Second).String())
				}
				if settled {
					o.logged(o.prune(prunePause))
				}
				if o.Stats().AuditedAt.IsZero() {
					o.logged(o.audit())
				}
			}
		case <-audit.C:
			if o.keepsHouse() {
				o.logged(errors.Join(o.audit(), o.scrub()))
			}
		case <-o.stop:
			return
		}
	}
}

// keepsHouse reports whether there is something to prune or audit now.
func (o *Outbox) keepsHouse() bool {
	return o.Ready() == nil && (o.opts.KeepsHouse == nil || o.opts.KeepsHouse())
}

func (o *Outbox) logged(err error) {
	if err == nil || errors.Is(err, delivery.ErrStopped) || o.stopping() {
		return
	}
	o.mu.Lock()
	o.stats.LastError, o.stats.LastErrorAt = err.Error(), o.opts.Now()
	o.mu.Unlock()
	o.opts.Logger.Error("housekeeping of the store failed, trying again in the next round", "error", err)
}

// Housekeep does at once, and without pauses, the work of every HousekeepingInterval
// and AuditInterval: it prunes notifications that finished longer than History ago and
// takes stock. Stats has the results.
func (o *Outbox) Housekeep() error { return errors.Join(o.prune(0), o.audit()) }

func (o *Outbox) stopping() bool {
	select {
	case <-o.stop:
		return true
	default:
		return false
	}
}

// prune removes in steps the notifications that finished longer than History ago. It
// pauses after each step for `pause` times as long as the step took.
func (o *Outbox) prune(pause time.Duration) error {
	before := o.pruneBefore()
	o.recent.forget(before)
	round := time.Now()
	for !o.stopping() {
		n := 0
		began := time.Now()
		err := o.read(func(e Engine) (err error) {
			n, err = e.Prune(before, pruneStep)
			return err
		})
		o.mu.Lock()
		o.stats.Pruned += uint64(n)
		o.mu.Unlock()
		if err != nil {
			return fmt.Errorf("prune: %w", err)
		}
		if n < pruneStep {
			return nil
		}
		d := pause * time.Since(began)                       //nolint:durationcheck // pause is a factor
		if time.Since(round) > o.opts.HousekeepingInterval { // more is finished than that removes
			d /= 8
		}
		if !o.rest(d) {
			return nil
		}
	}
	return nil
}

// pruneBefore is the time before which finished notifications are pruned.
func (o *Outbox) pruneBefore() time.Time {
	before := o.opts.Now().Add(-o.opts.History)
	if o.opts.Unread == nil {
		return before
	}
	if oldest, ok := o.opts.Unread(); ok && oldest.Add(-o.opts.History).Before(before) {
		before = oldest.Add(-o.opts.History)
	}
	return before
}

// rest waits, and reports whether to go on.
func (o *Outbox) rest(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-o.stop:
		return false
	}
}

// scrub takes data that was erased longer than ScrubDelay ago off the disk.
func (o *Outbox) scrub() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.background.Go(func() {
		select {
		case <-o.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	return o.read(func(e Engine) error {
		s, ok := e.(Scrubber)
		if !ok {
			return nil
		}
		began := time.Now()
		scrubbed, err := s.Scrub(ctx, o.opts.Now().Add(-o.opts.ScrubDelay))
		if scrubbed && err == nil {
			o.opts.Logger.Info("erased notifications and devices have left the disk", "took", time.Since(began).Round(time.Millisecond))
		}
		return err
	})
}

// audit compares the store's totals with the deliveries that are there.
func (o *Outbox) audit() error {
	return o.read(func(e Engine) error {
		if a, ok := e.(Auditor); ok {
			sum, err := a.Audit()
			if err != nil {
				return fmt.Errorf("audit: %w", err)
			}
			o.audited(sum)
			return nil
		}
		// Nothing may be applied between the totals and the moment at which
		// Unfinished looks: that is before it first calls, and long before it ends.
		select {
		case o.applying <- struct{}{}:
		case <-o.stop: // not behind a write that hangs
			return nil
		}
		looking := true
		looked := func() {
			if looking {
				looking = false
				<-o.applying
			}
		}
		defer looked()
		totals, err := e.Totals()
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		var count uint64
		err = e.Unfinished(delivery.Shard{}, func(*delivery.Record) bool {
			looked()
			count++
			return count%4096 != 0 || !o.stopping()
		})
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		if o.stopping() {
			return nil
		}
		o.audited(Audit{Totals: totals, Unfinished: count, Unaccounted: int64(totals.Accepted - totals.Finished - count)})
		return nil
	})
}

func (o *Outbox) audited(a Audit) {
	o.mu.Lock()
	o.stats.Totals, o.stats.Unfinished, o.stats.Unaccounted, o.stats.AuditedAt = a.Totals, a.Unfinished, a.Unaccounted, o.opts.Now()
	o.mu.Unlock()
	if a.Unaccounted != 0 {
		o.opts.Logger.Error("deliveries are unaccounted for", "unaccounted", a.Unaccounted,
			"accepted", a.Accepted, "finished", a.Finished, "unfinished", a.Unfinished)
	}
}

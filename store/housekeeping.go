package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// pruneStep is how many notifications are pruned between two looks at whether to
// stop.
const pruneStep = 1000

// keepHouse is the housekeeper: it audits at the start, and prunes and audits
// every HousekeepingInterval until the outbox is closed.
func (o *Outbox) keepHouse() {
	o.logged(o.audit())
	t := time.NewTicker(o.opts.HousekeepingInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if o.Ready() == nil { // nothing to be changed, or even seen, until then
				o.logged(o.Housekeep())
			}
		case <-o.stop:
			return
		}
	}
}

func (o *Outbox) logged(err error) {
	if err == nil || errors.Is(err, delivery.ErrStopped) {
		return
	}
	o.mu.Lock()
	o.stats.LastError, o.stats.LastErrorAt = err.Error(), o.opts.Now()
	o.mu.Unlock()
	o.opts.Logger.Error("outbox: housekeeping failed; it is tried again in the next round", "error", err)
}

// Housekeep does at once what is otherwise done every HousekeepingInterval: it
// prunes what was finished longer than History ago and takes stock. Stats has
// the results.
func (o *Outbox) Housekeep() error { return errors.Join(o.prune(), o.audit()) }

func (o *Outbox) stopping() bool {
	select {
	case <-o.stop:
		return true
	default:
		return false
	}
}

func (o *Outbox) prune() error {
	before := o.opts.Now().Add(-o.opts.History)
	for !o.stopping() {
		n := 0
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
	}
	return nil
}

// audit compares the store's totals with the deliveries that are there.
func (o *Outbox) audit() error {
	return o.read(func(e Engine) error {
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
		err = e.Unfinished(func(*delivery.Record) bool {
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
		difference := int64(totals.Accepted - totals.Finished - count)
		o.mu.Lock()
		o.stats.Totals = totals
		o.stats.Unfinished = count
		o.stats.Unaccounted = difference
		o.stats.AuditedAt = o.opts.Now()
		o.mu.Unlock()
		if difference != 0 {
			o.opts.Logger.Error("outbox: deliveries are unaccounted for", "unaccounted", difference,
				"accepted", totals.Accepted, "finished", totals.Finished, "unfinished", count)
		}
		return nil
	})
}

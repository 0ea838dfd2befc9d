package receipts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// This file is for several nodes on one store. A webhook belongs to the partition of the
// accounts that its name is in, and the owner of that partition sends all its events:
// whichever node stored them, every node can read them. So a receiver is asked by one
// node at a time, with one position and one view of whether it works.

// Tenure is what the owner of a partition sends its webhooks with.
type Tenure struct {
	// State keeps the positions under the owner's fence: once another node has taken over,
	// ApplyState changes nothing.
	State store.State
	// Trusted returns nil while no other node can have taken over. Without that nothing
	// is sent.
	Trusted func() error
}

// ErrElsewhere is wrapped by the error about a webhook that another node sends.
var ErrElsewhere = errors.New("another node sends this webhook")

type tenure struct {
	Tenure
	ctx  context.Context //nolint:containedctx // it ends with the tenure
	end  context.CancelFunc
	busy sync.Mutex // held while the position of one of its webhooks is read or changed without a worker
}

// shared reports whether the owners of partitions send the webhooks.
func (r *Receipts) shared() bool { return r.opts.Part != nil }

// Take begins to send the webhooks of a partition, after Start. One whose position cannot
// be read now is taken up later.
func (r *Receipts) Take(part uint16, t Tenure) {
	own := &tenure{Tenure: t}
	own.ctx, own.end = context.WithCancel(context.Background())
	r.mu.Lock()
	if r.stopped || r.tenures[part] != nil {
		r.mu.Unlock()
		own.end()
		return
	}
	r.tenures[part] = own
	var mine []Webhook
	for _, w := range r.configured {
		if r.opts.Part(w.Name) == part {
			mine = append(mine, w)
		}
	}
	r.mu.Unlock()
	for _, w := range mine {
		r.takeUp(own, w.Name)
	}
}

// Yield ends the sending for some partitions. Requests under way have until ctx ends; the
// next owner makes those without an answer again. When Yield returns, this Receipts
// changes no position of theirs any more, so that another may take them.
func (r *Receipts) Yield(ctx context.Context, parts ...uint16) {
	tenures, workers := r.leave(parts)
	var all sync.WaitGroup
	for _, k := range workers {
		all.Go(func() { k.stop(ctx) })
	}
	for _, own := range tenures {
		own.busy.Lock()   // a position that is being read
		own.busy.Unlock() //nolint:staticcheck // as above
	}
	all.Wait()
}

// Lose ends the sending for some partitions that another node has taken over. It waits for
// nothing: where the life is over, the State refuses whatever comes later. Where it is not, a position
// that is being written may overwrite that of the next owner until that writes its own.
func (r *Receipts) Lose(parts ...uint16) {
	_, workers := r.leave(parts)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range workers {
		k.abandon()
		if !r.stopped {
			r.tasks.Go(k.end)
		}
	}
}

// leave takes out what belongs to some partitions.
func (r *Receipts) leave(parts []uint16) (tenures []*tenure, workers []*worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, part := range parts {
		if own := r.tenures[part]; own != nil {
			own.end()
			tenures = append(tenures, own)
			delete(r.tenures, part)
		}
	}
	r.listMu.Lock()
	defer r.listMu.Unlock()
	var kept []*worker
	for _, k := range r.workers {
		if slices.Contains(parts, r.opts.Part(k.name)) {
			workers = append(workers, k)
		} else {
			kept = append(kept, k)
		}
	}
	r.workers = kept
	return tenures, workers
}

// takeUp begins to send a webhook, now or once its position can be read.
func (r *Receipts) takeUp(own *tenure, name string) {
	if r.tryTakeUp(own, name) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.tasks.Go(func() {
		for sleep(own.ctx, localRetry) {
			if r.tryTakeUp(own, name) {
				return
			}
		}
	})
}

// tryTakeUp returns false if it is to be tried again.
func (r *Receipts) tryTakeUp(own *tenure, name string) bool {
	own.busy.Lock()
	defer own.busy.Unlock()
	r.mu.Lock()
	w, there := r.configuredLocked(name)
	r.mu.Unlock()
	if !there || own.ctx.Err() != nil || r.worker(name) != nil {
		return true
	}
	k, err := r.newWorker(w, own.Tenure)
	if err != nil {
		r.log.Warn("webhook not taken up, retrying", "webhook", name, "error", err)
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w, there = r.configuredLocked(name) // it may have changed
	if !there || r.stopped || own.ctx.Err() != nil {
		k.abandon()
		k.sender.close()
		return true
	}
	k.setWebhook(w)
	r.listMu.Lock()
	r.workers = append(slices.Clone(r.workers), k)
	slices.SortFunc(r.workers, byName)
	r.listMu.Unlock()
	if r.started {
		k.start()
	}
	return true
}

func (r *Receipts) configuredLocked(name string) (Webhook, bool) {
	i := slices.IndexFunc(r.configured, func(w Webhook) bool { return w.Name == name })
	if i < 0 {
		return Webhook{}, false
	}
	return r.configured[i], true
}

// reconfigure replaces the webhooks. Of one that is no longer there, this node removes the
// position if it is the one that sends it.
func (r *Receipts) reconfigure(ctx context.Context, webhooks []Webhook) error {
	r.mu.Lock()
	r.listMu.Lock()
	r.configured = webhooks
	var kept, gone []*worker
	for _, k := range r.workers {
		if w, there := r.configuredLocked(k.name); there {
			k.setWebhook(w)
			kept = append(kept, k)
		} else {
			gone = append(gone, k)
		}
	}
	r.workers = kept
	r.listMu.Unlock()
	tenures := map[string]*tenure{}
	for _, w := range webhooks {
		tenures[w.Name] = r.tenures[r.opts.Part(w.Name)]
	}
	for _, k := range gone {
		tenures[k.name] = r.tenures[r.opts.Part(k.name)]
	}
	r.mu.Unlock()
	var errs []error
	for _, k := range gone {
		errs = append(errs, r.drop(ctx, k, tenures[k.name]))
	}
	for _, w := range webhooks {
		if own := tenures[w.Name]; own != nil {
			r.takeUp(own, w.Name)
		}
	}
	return errors.Join(errs...)
}

// drop ends a webhook that is no longer configured.
func (r *Receipts) drop(ctx context.Context, k *worker, own *tenure) error {
	if own != nil { // Yield waits for the removal
		own.busy.Lock()
		defer own.busy.Unlock()
	}
	k.stop(ctx)
	if own == nil || own.ctx.Err() != nil {
		return nil
	}
	r.log.Warn("webhook is no longer configured: events that it has not received will not be sent", "webhook", k.name)
	return own.State.ApplyState(removal(k.name))
}

// elsewhere is the error about a webhook that this Receipts does not send; nil: it does.
func (r *Receipts) elsewhere(name string) error {
	r.mu.Lock()
	_, there := r.configuredLocked(name)
	r.mu.Unlock()
	if !there {
		return fmt.Errorf("%w: %q", ErrUnknownWebhook, name)
	}
	return fmt.Errorf("%w: %q is sent by %s: ask that node", ErrElsewhere, name, r.nodeOf(name))
}

func (r *Receipts) nodeOf(name string) string {
	if node := r.opts.Node(r.opts.Part(name)); node != "" {
		return "node " + node
	}
	return "no node at the moment"
}

// others returns the webhooks that other nodes send, as far as the store tells of them.
func (r *Receipts) others() (all []Status) {
	r.mu.Lock()
	configured := r.configured
	r.mu.Unlock()
	for i := range configured {
		w := &configured[i]
		if r.worker(w.Name) != nil {
			continue
		}
		s := Status{Name: w.Name, URL: shownURL(w.URL), State: StateElsewhere, Reason: "sent by " + r.nodeOf(w.Name), Events: slices.Clone(w.Events), Accounts: slices.Clone(w.Accounts)}
		if rec, items, found, err := loadWebhook(r.state, w.Name); err != nil {
			s.LastError = err.Error()
		} else if found {
			end, err := r.core.EventsEnd()
			if err == nil && !rec.At.Covers(end) {
				s.Lag = r.lag(rec.Time)
			}
			for _, d := range items {
				if d.Parked.IsZero() {
					s.Deferred++
					s.Lag = max(s.Lag, r.lag(d.Time))
				} else {
					s.Parked++
				}
			}
		}
		all = append(all, s)
	}
	return all
}

// storedOldest is oldest for all webhooks, whichever nodes send them: what the store tells.
func (r *Receipts) storedOldest() (at time.Time, ok bool) {
	r.mu.Lock()
	configured := r.configured
	r.mu.Unlock()
	end, err := r.core.EventsEnd()
	if len(configured) == 0 {
		return at, false
	}
	see := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	for _, w := range configured {
		rec, items, found, failed := loadWebhook(r.state, w.Name)
		if err = errors.Join(err, failed); err != nil {
			r.log.Warn("positions of webhooks not read, nothing is removed from the history", "error", err)
			return time.Time{}, true
		}
		if found && !rec.At.Covers(end) {
			see(rec.Time)
		}
		for _, d := range items {
			see(d.Time)
		}
	}
	return latest(at, r.keptSince()), ok // older ones are dropped
}

// storedItems reads the parked events of a webhook that another node sends.
func (r *Receipts) storedItems(name string) (map[delivery.Position]*item, error) {
	err := r.elsewhere(name)
	if !errors.Is(err, ErrElsewhere) {
		return nil, err
	}
	_, stored, _, err := loadWebhook(r.state, name)
	items := map[delivery.Position]*item{}
	for at, d := range stored {
		items[at] = &item{at: at, kind: d.Kind.String(), deferred: d}
	}
	return items, err
}

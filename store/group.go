package store

import (
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// group is what shares one write: commits in their order.
type group struct {
	commits []*commit
	bytes   int
	touched delivery.Seq    // highest Seq that an Update, Event or Finish names
	removed map[string]bool // devices that a RemoveDevices names
	put     map[string]bool // devices that a PutDevices names
	alone   bool            // its commit reads what it changes: nothing shares its write
}

// admits reports whether b's changes, merged behind the group's, come out as if
// they were applied after them. Merged, kinds apply in the order of Batch's
// fields, so what matters is an earlier commit's later kind:
//
//   - an Update after a Finish of the same delivery changes nothing in either
//     order, since there is no Record;
//   - an Accept after an Update, Event or Finish of the same Seq would make these
//     take hold, where they found nothing;
//   - a PutDevices after a RemoveDevices of the same device would be undone;
//   - a RemoveDevices after a PutDevices of the same device would let that take hold, where it
//     found the entry of another account, when the write is repeated.
//
// Nothing else depends on a kind further down: a notification's changes do not
// look at the registry, nor the other way round, and a removal frees a push token
// only where the device still holds it.
func (g *group) admits(b *delivery.Batch) bool {
	if len(g.commits) > 0 && (g.alone || readsStore(b)) {
		return false
	}
	for i := range b.Accept {
		if b.Accept[i].Notification.Seq <= g.touched {
			return false
		}
	}
	if len(g.removed) > 0 {
		for i := range b.PutDevices {
			if g.removed[b.PutDevices[i].ID] {
				return false
			}
		}
	}
	if len(g.put) > 0 {
		for _, k := range b.RemoveDevices {
			if g.put[k.ID] {
				return false
			}
		}
	}
	return true
}

// readsStore reports whether applying b reads the notifications that it changes,
// which must be in the store before its write.
func readsStore(b *delivery.Batch) bool { return len(b.Assign) > 0 || len(b.Erase) > 0 }

func (g *group) add(c *commit) {
	g.commits = append(g.commits, c)
	g.alone = readsStore(c.batch)
	g.bytes += c.bytes
	b := c.batch
	for i := range b.Update {
		g.touched = max(g.touched, b.Update[i].Seq)
	}
	for i := range b.Events {
		g.touched = max(g.touched, b.Events[i].Seq)
	}
	for i := range b.Finish {
		g.touched = max(g.touched, b.Finish[i].Seq)
	}
	for _, k := range b.RemoveDevices {
		g.removed = with(g.removed, k.ID)
	}
	for i := range b.PutDevices {
		g.put = with(g.put, b.PutDevices[i].ID)
	}
}

func with(set map[string]bool, name string) map[string]bool {
	if set == nil {
		set = map[string]bool{}
	}
	set[name] = true
	return set
}

// accept returns the first notification that the group accepts: since the group
// is written as a whole, it stands for all of it. ok: there is one.
func (g *group) accept() (seq delivery.Seq, ok bool) {
	for _, c := range g.commits {
		if c.accepts() {
			return c.batch.Accept[0].Notification.Seq, true
		}
	}
	return 0, false
}

// split takes the acceptances out of the group.
func (g *group) split() (acceptances []*commit) {
	g.commits = slices.DeleteFunc(g.commits, func(c *commit) bool {
		if c.accepts() {
			acceptances = append(acceptances, c)
		}
		return c.accepts()
	})
	return acceptances
}

// take takes the acceptances of some IDs out of the group, with all that their batches
// hold.
func (g *group) take(ids []string) (taken []*commit) {
	g.commits = slices.DeleteFunc(g.commits, func(c *commit) bool {
		hit := slices.ContainsFunc(c.batch.Accept, func(a delivery.Acceptance) bool { return slices.Contains(ids, a.Notification.ID) })
		if hit {
			taken = append(taken, c)
		}
		return hit
	})
	return taken
}

// merge makes one batch of the group, in into's slices if it needs any.
func (g *group) merge(into *delivery.Batch) *delivery.Batch {
	if len(g.commits) == 1 {
		return g.commits[0].batch
	}
	reset(into)
	for _, c := range g.commits {
		into.Merge(c.batch)
	}
	return into
}

// reset empties b, keeping its slices but nothing that they held.
func reset(b *delivery.Batch) {
	clear(b.Accept)
	clear(b.Assign)
	clear(b.PutDismissals)
	clear(b.RemoveDismissals)
	clear(b.Erase)
	clear(b.Update)
	clear(b.Events)
	clear(b.Finish)
	clear(b.PutDevices)
	clear(b.RemoveDevices)
	*b = delivery.Batch{
		Accept: b.Accept[:0], Assign: b.Assign[:0], Erase: b.Erase[:0], Update: b.Update[:0], Events: b.Events[:0], Finish: b.Finish[:0],
		PutDismissals: b.PutDismissals[:0], RemoveDismissals: b.RemoveDismissals[:0],
		PutDevices: b.PutDevices[:0], RemoveDevices: b.RemoveDevices[:0],
	}
}

// size estimates what b needs on the disk.
func size(b *delivery.Batch) int {
	n := 64 + 256*len(b.Assign) + 32*len(b.Erase) + 160*len(b.PutDismissals) + 32*len(b.RemoveDismissals) + 128*len(b.Update) + 96*len(b.Finish) + 160*len(b.PutDevices) + 32*len(b.RemoveDevices)
	for i := range b.Accept {
		c := b.Accept[i].Notification
		n += 256 + contentBytes(c) + len(b.Accept[i].Data) + 128*len(c.Devices)
	}
	for i := range b.Events {
		n += 64 + len(b.Events[i].Detail)
	}
	return n
}

// contentBytes is the length of what a backend has written into n.
func contentBytes(n *delivery.Notification) int {
	size := len(n.Title) + len(n.Body) + len(n.Subtitle) + len(n.Link) + len(n.Image) + len(n.Extra)
	if n.Localized != nil {
		size += 1 << 10 // its limit
	}
	if o := n.Overlay; o != nil {
		size += len(o.APNs) + len(o.FCM) + len(o.WebPush)
	}
	return size
}

// early returns how much longer to wait for more commits; 0 or less means write now. mu is held.
func (o *Outbox) early() time.Duration {
	if o.closing || len(o.queue) == 0 || len(o.queue) >= o.opts.MaxGroup || slices.ContainsFunc(o.queue, (*commit).urgent) {
		return 0
	}
	return o.opts.Gathering - time.Since(o.began)
}

// next takes from the queue what may share a write, and waits for something to
// be there. nil: the outbox is closing and the queue is empty.
func (o *Outbox) next() *group {
	for {
		o.mu.Lock()
		early := o.early()
		if early <= 0 {
			if g := o.form(); g != nil {
				o.mu.Unlock()
				o.began = time.Now()
				return g
			}
		}
		closing := o.closing
		o.mu.Unlock()
		if closing {
			return nil
		}
		if early > 0 {
			o.gather.Reset(early)
		}
		select {
		case <-o.wake:
		case <-o.gather.C:
		}
	}
}

// form takes the group at the head of the queue; nil: the queue is empty. mu is
// held.
func (o *Outbox) form() *group {
	g := &group{}
	n := 0
	for _, c := range o.queue {
		if len(g.commits) > 0 && (len(g.commits) == o.opts.MaxGroup || g.bytes+c.bytes > o.opts.MaxGroupBytes) {
			break
		}
		refused := c.accepts() && o.low != nil // queued while there was room
		if !refused && len(g.commits) > 0 && !g.admits(c.batch) {
			break
		}
		if refused {
			o.refuse(c, o.low)
		} else {
			g.add(c)
		}
		o.queuedBytes -= c.bytes
		n++
	}
	o.queue = slices.Delete(o.queue, 0, n)
	if len(g.commits) == 0 {
		return nil
	}
	return g
}

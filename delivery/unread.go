package delivery

import (
	"slices"

	"github.com/cespare/xxhash/v2"
)

// MaxUnread is how many notifications a device counts as unread. Beyond it the oldest
// are not counted any more.
const MaxUnread = 1000

// Unread is the notifications that a device's badge counts (badge "auto"), by Seq: those
// accepted for it and not yet displayed, read, dismissed or ended otherwise. A set, and
// no number: whatever is said twice counts once. It is never changed in place.
type Unread []UnreadMark

// UnreadMark is one of them. The hash of its ID lets a device say `read` of a
// notification whose history is gone.
type UnreadMark struct {
	Seq Seq
	ID  uint32
}

func markOf(n *Notification) UnreadMark { return UnreadMark{Seq: n.Seq, ID: hashID(n.ID)} }

func hashID(id string) uint32 { return uint32(xxhash.Sum64String(id)) }

func (u Unread) index(seq Seq) (int, bool) {
	return slices.BinarySearchFunc(u, seq, func(m UnreadMark, seq Seq) int {
		switch {
		case m.Seq < seq:
			return -1
		case m.Seq > seq:
			return 1
		}
		return 0
	})
}

func (u Unread) with(m UnreadMark) Unread {
	i, found := u.index(m.Seq)
	if found {
		return u
	}
	u = slices.Insert(slices.Clone(u), i, m)
	return u[max(0, len(u)-MaxUnread):]
}

func (u Unread) without(i int) Unread {
	if len(u) == 1 {
		return nil
	}
	return slices.Concat(u[:i], u[i+1:])
}

// countUnread counts n on its devices, in the commit b that accepts it.
func (c *Core) countUnread(b *Batch, n *Notification, targets []*device) {
	for _, dev := range targets {
		dev.Unread = dev.Unread.with(markOf(n))
		if dev.ID != "" { // else: held for the first device to come
			b.PutDevices = append(b.PutDevices, dev.Device.Clone())
			c.bumpVersions(dev)
		}
	}
}

// countedUnread ends what countUnread began: the store has the acceptance, or has
// refused it.
func (c *Core) countedUnread(n *Notification, deliveries []*delivery, refused bool) {
	for _, d := range deliveries {
		c.bumpVersions(c.dev(d))
		if refused {
			c.markRead(c.dev(d), n.Seq)
		}
	}
}

// bumpVersions notes that an account that was read from the store meanwhile may lack a
// change of dev.
func (c *Core) bumpVersions(dev *device) {
	c.versions[slot(dev.account.name)]++
	c.versions[slot(dev.ID)]++
}

// markRead stops counting a notification on dev.
func (c *Core) markRead(dev *device, seq Seq) {
	if i, found := dev.Unread.index(seq); found {
		c.uncount(dev, i)
	}
}

func (c *Core) uncount(dev *device, i int) {
	dev.Unread = dev.Unread.without(i)
	if dev.ID != "" && dev.dropped == "" {
		c.putDevice(dev)
	}
}

// readForgotten stops counting a notification whose history is gone, and reports
// whether it was counted.
func (c *Core) readForgotten(id, deviceID, accountName string) (counted bool, err error) {
	err = c.withDevice(deviceID, accountName, func(a *account, dev *device) error {
		if dev == nil || dev.account != a {
			return nil
		}
		hash := hashID(id)
		i := slices.IndexFunc(dev.Unread, func(m UnreadMark) bool { return m.ID == hash })
		if counted = i >= 0; counted {
			c.uncount(dev, i)
			c.seen(dev)
		}
		return nil
	})
	return counted, err
}

// unread is the number that a copy to dev carries now.
func (c *Core) unread(dev *device) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(dev.Unread)
}

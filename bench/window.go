package bench

import "sync"

// window is what a sender has under way: messages that the broker has not answered.
type window struct {
	account *account
	lane    *lane
	size    int

	mu    sync.Mutex
	slots []slot   // by identifier, which is the index plus one
	free  []uint16 // identifiers, a ring: the longest free is taken first
	taken int      // where in the ring the next is taken
	count int      // free ones

	failed chan struct{} // closed when the connection has ended
	err    error         // why, once it is closed
}

// slot is a message under way.
type slot struct {
	seq uint64
	due int64
	out bool
}

func newWindow(a *account, l *lane, size int) *window {
	w := &window{account: a, lane: l, size: size, slots: make([]slot, size), free: make([]uint16, size), count: size, failed: make(chan struct{})}
	for i := range w.free {
		w.free[i] = uint16(i + 1)
	}
	return w
}

// reserve takes up to want identifiers off the ring. It waits until it has
// one, or stop or the connection's end comes first: then it has none.
func (w *window) reserve(ids []uint16, want int, stop <-chan struct{}) []uint16 {
	for {
		w.mu.Lock()
		n := min(want, w.count)
		if w.account.closeLoop {
			n = min(n, w.size-int(w.lane.sent-w.lane.delivered.Load()))
		}
		for range n {
			ids = append(ids, w.free[w.taken])
			w.taken = (w.taken + 1) % len(w.free)
			w.count--
		}
		w.mu.Unlock()
		if n > 0 {
			return ids
		}
		select {
		case <-w.lane.wake:
		case <-stop:
			return nil
		case <-w.failed:
			return nil
		}
	}
}

// open makes a message and puts it under way.
func (w *window) open(id uint16, due int64) stamp {
	seq := w.lane.next()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots[id-1] = slot{seq: seq, due: due, out: true}
	return stamp{w.account.run, uint32(w.lane.index), seq, due}
}

// close takes the broker's answer to a message; the caller holds mu. ok is whether
// there was such a message.
func (w *window) close(id uint16, accepted bool) (_ answer, ok bool) {
	if id == 0 || int(id) > len(w.slots) || !w.slots[id-1].out {
		return answer{}, false
	}
	s := &w.slots[id-1]
	s.out = false
	w.free[(w.taken+w.count)%len(w.free)] = id
	w.count++
	return answer{s.seq, s.due, accepted}, true
}

// broken is why the connection has ended, if it has.
func (w *window) broken() error {
	select {
	case <-w.failed:
		return w.err
	default:
		return nil
	}
}

// underWay is how many messages the broker has not answered.
func (w *window) underWay() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.free) - w.count
}

package persist

import (
	"fmt"
	"runtime"
	"time"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/store"
)

// maxWrite bounds a batch, in bytes and in changes: a notification that is accepted
// meanwhile waits in the store's log behind the whole batch. maxTaken bounds the marks
// that it looks at: most are of packets that have come and gone.
const (
	maxWriteBytes = 256 << 10
	maxWriteCount = 1000
	maxTaken      = 10_000
)

// markBytes is the price of a mark itself, in bytes of values that are as much work.
const markBytes = 256

// yieldEvery is how many marks are encoded before other goroutines have a turn.
const yieldEvery = 16

// write is the writer: it runs from Restore to Stop.
func (h *Keeper) write() {
	defer close(h.done)
	retry := h.opts.RetryInitial
	for quitting := false; ; {
		began := time.Now()
		wait := h.opts.Gather
		more, err := h.flush()
		if err != nil {
			if quitting {
				h.log.Error("MQTT state not stored: the latest changes are lost", "error", err)
				return
			}
			if h.failed.Add(1); retry == h.opts.RetryInitial {
				h.log.Error("MQTT state not stored for now, retrying", "error", err)
			}
			wait, retry = retry, min(2*retry, h.opts.RetryMax)
		} else {
			if retry != h.opts.RetryInitial {
				h.log.Info("MQTT state is stored again")
			}
			retry = h.opts.RetryInitial
			wait = rest(wait, time.Since(began))
		}
		switch {
		case quitting && more:
			continue
		case quitting:
			return
		case more:
			h.signal()
		}
		select {
		case <-h.wake:
		case <-h.quit:
			quitting = true
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-h.quit:
			quitting = true
		}
		t.Stop()
	}
}

// maxRest bounds the pause between writes when they are slow.
const maxRest = 250 * time.Millisecond

// rest returns how long to pause after a write that took some time: three times as long,
// so that an account that queues and retains at full speed leaves three quarters of the
// disk's time to notifications. Changes that cancel each other out meanwhile cost no write.
func rest(gather, took time.Duration) time.Duration {
	return max(gather, min(3*took, maxRest))
}

// flush writes marked entries, as many as one batch takes. more reports whether others
// are left. On an error it restores the marks.
func (h *Keeper) flush() (more bool, err error) {
	w := batch{keeper: h}
	for !w.full() {
		h.mu.Lock()
		account, m, ok := h.marks.next()
		if ok {
			h.writing++
		}
		h.mu.Unlock()
		if !ok {
			break
		}
		w.taken = append(w.taken, taken{account, m})
		cost := -w.bytes
		if err = w.add(m); err != nil {
			break
		}
		cost += w.bytes + markBytes
		h.mu.Lock()
		h.marks.spend(account, cost)
		h.mu.Unlock()
		if len(w.taken)%yieldEvery == 0 {
			runtime.Gosched()
		}
	}
	if err == nil {
		err = w.apply()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writing = 0
	if err != nil {
		for _, t := range w.taken {
			h.marks.add(t.account, t.mark)
		}
	}
	return h.marks.count > 0, err
}

// taken is a mark of which a batch has the value.
type taken struct {
	account string
	mark    mark
}

// batch is a write in the making.
type batch struct {
	keeper  *Keeper
	taken   []taken
	changes []store.StateChange
	bytes   int // of the changes

	retained []*ordinary.Message // among the changes
}

func (w *batch) full() bool {
	return w.bytes >= maxWriteBytes || len(w.changes) >= maxWriteCount || len(w.taken) >= maxTaken
}

func (w *batch) add(m mark) error {
	value, there, err := w.value(m)
	if err != nil {
		return fmt.Errorf("keep %q of %q: %w", m.name, m.client, err)
	}
	key := m.key()
	switch {
	case there && value == nil: // the disk has it
		return nil
	case there && m.ofPacket():
		w.keeper.stored[key] = struct{}{} // even where the write fails: it may have been made
		w.changes = append(w.changes, store.StateChange{Key: key, Value: value})
	case there:
		w.changes = append(w.changes, store.StateChange{Key: key, Value: value})
	case m.ofPacket():
		if _, stored := w.keeper.stored[key]; !stored {
			return nil // come and gone between two writes
		}
		w.changes = append(w.changes, store.StateChange{Key: key, Remove: true})
	case m.kind == kindClient:
		w.changes = append(w.changes,
			store.StateChange{Key: key, Remove: true},
			store.StateChange{Key: ofClient(kindSubscription, m.client), Remove: true, Prefix: true},
			store.StateChange{Key: ofClient(kindInflight, m.client), Remove: true, Prefix: true},
			store.StateChange{Key: ofClient(kindIncoming, m.client), Remove: true, Prefix: true})
	default:
		w.changes = append(w.changes, store.StateChange{Key: key, Remove: true})
	}
	w.bytes += len(key) + len(value)
	return nil
}

func (w *batch) apply() error {
	if len(w.changes) == 0 {
		return nil
	}
	end := w.keeper.watch()
	err := w.keeper.opts.Store.ApplyState(w.changes)
	end()
	if err != nil {
		return err
	}
	for i := range w.changes { // an entry that changed meanwhile is in the batch twice
		switch c := &w.changes[i]; {
		case c.Prefix || c.Key[0] != kindInflight && c.Key[0] != kindIncoming:
		case c.Remove:
			delete(w.keeper.stored, c.Key)
		default:
			w.keeper.stored[c.Key] = struct{}{}
		}
	}
	for _, m := range w.retained {
		w.keeper.hub.Written(m)
	}
	w.keeper.writes.Add(1)
	w.keeper.written.Add(uint64(len(w.changes)))
	return nil
}

// value is what the Hub has under m now. It is nil if the entry exists and is unchanged.
func (w *batch) value(m mark) (value []byte, there bool, err error) {
	hub := w.keeper.hub
	switch m.kind {
	case kindRetained:
		msg, ok := hub.SavedRetained(m.name)
		if !ok || msg == nil {
			return nil, ok, nil
		}
		w.retained = append(w.retained, msg)
		value, err = encodeRetained(msg)
		return value, true, err
	case kindClient:
		s, ok := hub.SavedSession(m.client)
		if !ok {
			return nil, false, nil
		}
		value, err = encode(&session{Username: []byte(s.Account), Service: s.Service, Version: s.Version, Expiry: s.Expiry, Gone: s.Gone}, nil)
		return value, true, err
	case kindSubscription:
		sub, replay, ok := hub.SavedSubscription(m.client, m.name)
		if !ok {
			return nil, false, nil
		}
		s := subscription{
			QoS: sub.QoS, Identifier: sub.Identifier, RetainHandling: sub.RetainHandling, RetainAsPublished: sub.RetainAsPublished, NoLocal: sub.NoLocal,
		}
		if replay != nil {
			s.Replaying, s.After = true, replay.After
		}
		value, err = encode(&s, nil)
		return value, true, err
	case kindInflight:
		o, ok := hub.SavedOutgoing(m.client, m.id)
		if !ok {
			return nil, false, nil
		}
		value, err = encodeOutgoing(&o)
		return value, true, err
	case kindIncoming:
		return []byte{version}, hub.SavedIncoming(m.client, m.id), nil
	}
	return nil, false, nil
}

// ofPacket reports whether m is of a packet, which often is over before it is written.
func (m mark) ofPacket() bool { return m.kind == kindInflight || m.kind == kindIncoming }

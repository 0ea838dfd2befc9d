package persist

import (
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/store"
)

// maxWrite bounds a batch, in bytes and in changes.
const (
	maxWriteBytes = 4 << 20
	maxWriteCount = 10_000
)

// write is the writer: it runs from Restore to Stop.
func (h *Keeper) write() {
	defer close(h.done)
	retry := h.opts.RetryInitial
	for quitting := false; ; {
		began := time.Now()
		wait := h.opts.Gather
		if err := h.flush(); err != nil {
			if quitting {
				h.log.Error("MQTT state not stored: the latest changes are lost", "error", err)
				return
			}
			if h.failed.Add(1); retry == h.opts.RetryInitial {
				h.log.Error("MQTT state not stored for now, retrying", "error", err)
			}
			wait, retry = retry, min(2*retry, h.opts.RetryMax)
			h.signal() // there is something left
		} else {
			if retry != h.opts.RetryInitial {
				h.log.Info("MQTT state is stored again")
			}
			retry = h.opts.RetryInitial
			wait = rest(wait, time.Since(began))
		}
		if quitting {
			return
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

// maxRest bounds for how long changes are gathered when writes are slow.
const maxRest = 250 * time.Millisecond

// rest returns how long to gather changes after a write that took some time: as long as
// the write, so that a client that queues and retains at full speed leaves half of the
// disk's time to notifications. Changes that cancel each other out meanwhile cost no write.
func rest(gather, took time.Duration) time.Duration {
	return max(gather, min(took, maxRest))
}

// flush writes the marked entries. On an error it restores the marks.
func (h *Keeper) flush() error {
	h.mu.Lock()
	marks := h.marks
	if len(marks) == 0 {
		h.mu.Unlock()
		return nil
	}
	h.marks, h.writing = map[mark]struct{}{}, len(marks)
	h.mu.Unlock()

	w := batch{keeper: h}
	err := func() error {
		for m := range marks { // sessions first: one that is over takes all that is its own away
			if m.kind == kindClient {
				if err := w.add(m); err != nil {
					return err
				}
			}
		}
		for m := range marks {
			if m.kind != kindClient {
				if err := w.add(m); err != nil {
					return err
				}
			}
		}
		return w.apply()
	}()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writing = 0
	if err != nil {
		for m := range marks { // what was written already is written once more
			h.marks[m] = struct{}{}
		}
	}
	return err
}

// batch is a write in the making.
type batch struct {
	keeper  *Keeper
	changes []store.StateChange
	bytes   int

	retained []*ordinary.Message // among the changes
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
	if w.bytes += len(key) + len(value); w.bytes >= maxWriteBytes || len(w.changes) >= maxWriteCount {
		return w.apply()
	}
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
	for i := range w.changes {
		if c := &w.changes[i]; c.Remove && !c.Prefix && (c.Key[0] == kindInflight || c.Key[0] == kindIncoming) {
			delete(w.keeper.stored, c.Key)
		}
	}
	for _, m := range w.retained {
		w.keeper.hub.Written(m)
	}
	clear(w.retained)
	w.retained = w.retained[:0]
	w.keeper.writes.Add(1)
	w.keeper.written.Add(uint64(len(w.changes)))
	clear(w.changes)
	w.changes, w.bytes = w.changes[:0], 0
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
		sub, ok := hub.SavedSubscription(m.client, m.name)
		if !ok {
			return nil, false, nil
		}
		value, err = encode(&subscription{sub.QoS, sub.Identifier, sub.RetainHandling, sub.RetainAsPublished, sub.NoLocal}, nil)
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

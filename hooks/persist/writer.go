package persist

import (
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/store"
)

// maxWrite bounds a batch, in bytes and in changes.
const (
	maxWriteBytes = 4 << 20
	maxWriteCount = 10_000
)

// write is the writer: it runs from Init to Stop.
func (h *Hook) write() {
	defer close(h.done)
	retry := h.opts.RetryInitial
	for quitting := false; ; {
		wait := h.opts.Gather
		if err := h.flush(); err != nil {
			if quitting {
				h.log.Error("MQTT state: the latest changes are not kept", "error", err)
				return
			}
			if h.failed.Add(1); retry == h.opts.RetryInitial {
				h.log.Error("MQTT state: retained messages and sessions are not kept for now; trying on", "error", err)
			}
			wait, retry = retry, min(2*retry, h.opts.RetryMax)
			h.signal() // there is something left
		} else {
			if retry != h.opts.RetryInitial {
				h.log.Info("MQTT state: kept again")
			}
			retry = h.opts.RetryInitial
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

// flush writes what is marked. On an error the marks are there again.
func (h *Hook) flush() error {
	if !h.started.Load() { // what mochi has is not what there is yet
		return nil
	}
	h.mu.Lock()
	marks := h.marks
	if len(marks) == 0 {
		h.mu.Unlock()
		return nil
	}
	h.marks, h.writing = map[mark]struct{}{}, len(marks)
	h.mu.Unlock()

	w := batch{hook: h}
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
	hook    *Hook
	changes []store.StateChange
	bytes   int
}

func (w *batch) add(m mark) error {
	value, there, err := w.hook.value(m)
	if err != nil {
		return fmt.Errorf("keep %q of %q: %w", m.name, m.client, err)
	}
	key := m.key()
	switch {
	case there && m.kind == kindInflight:
		w.hook.stored[key] = struct{}{} // even where the write fails: it may have been made
		w.changes = append(w.changes, store.StateChange{Key: key, Value: value})
	case there:
		w.changes = append(w.changes, store.StateChange{Key: key, Value: value})
	case m.kind == kindInflight:
		if _, stored := w.hook.stored[key]; !stored {
			return nil // come and gone between two writes
		}
		w.changes = append(w.changes, store.StateChange{Key: key, Remove: true})
	case m.kind == kindClient:
		w.changes = append(w.changes,
			store.StateChange{Key: key, Remove: true},
			store.StateChange{Key: ofClient(kindSubscription, m.client), Remove: true, Prefix: true},
			store.StateChange{Key: ofClient(kindInflight, m.client), Remove: true, Prefix: true})
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
	end := w.hook.watch()
	err := w.hook.opts.Store.ApplyState(w.changes)
	end()
	if err != nil {
		return err
	}
	for i := range w.changes {
		if c := &w.changes[i]; c.Remove && !c.Prefix && c.Key[0] == kindInflight {
			delete(w.hook.stored, c.Key)
		}
	}
	w.hook.writes.Add(1)
	w.hook.written.Add(uint64(len(w.changes)))
	clear(w.changes)
	w.changes, w.bytes = w.changes[:0], 0
	return nil
}

// value is what mochi has under m now.
func (h *Hook) value(m mark) (value []byte, there bool, err error) {
	if m.kind == kindRetained {
		pk, ok := h.server.Topics.Retained.Get(m.name)
		if !ok || len(pk.Payload) == 0 {
			return nil, false, nil
		}
		value, err = encodePacket(&pk)
		return value, true, err
	}
	v, ok := h.sessions.Load(m.client)
	if !ok {
		return nil, false, nil
	}
	if m.kind == kindClient {
		value, err = encode(&v.(*kept).session, nil)
		return value, true, err
	}
	cl, ok := h.server.Clients.Get(m.client)
	if !ok {
		return nil, false, nil
	}
	if m.kind == kindSubscription {
		sub, ok := cl.State.Subscriptions.Get(m.name)
		if !ok {
			return nil, false, nil
		}
		value, err = encode(&subscription{sub.Qos, sub.Identifier, sub.RetainHandling, sub.RetainAsPublished, sub.NoLocal}, nil)
		return value, true, err
	}
	pk, ok := cl.State.Inflight.Get(m.id)
	if !ok {
		return nil, false, nil
	}
	value, err = encodePacket(&pk)
	return value, true, err
}

package receipts

import (
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// changed reports whether something is to be written. mu is held.
func (k *worker) changed() bool { return k.unsaved || len(k.dirty) > 0 }

func (k *worker) saveDue(now time.Time) bool {
	return k.changed() && now.Sub(k.savedAt) >= saveEvery
}

// save writes the position and the deferred events, all or nothing: the cursor has not
// passed an event that is neither finished nor written.
func (k *worker) save() error {
	k.mu.Lock()
	k.savedAt = time.Now()
	if !k.changed() {
		k.mu.Unlock()
		return nil
	}
	changes := []store.StateChange{put(recordKey(k.name), &k.rec)}
	for at, i := range k.dirty {
		if key := deferredKey(k.name, at); i == nil {
			changes = append(changes, store.StateChange{Key: key, Remove: true})
		} else {
			changes = append(changes, put(key, &i.deferred))
		}
	}
	dirty := k.dirty
	k.dirty, k.unsaved = map[delivery.Position]*item{}, false
	k.mu.Unlock()
	err := k.own.State.ApplyState(changes)
	if err != nil {
		k.mu.Lock()
		for at, i := range dirty {
			if _, newer := k.dirty[at]; !newer {
				k.dirty[at] = i
			}
		}
		k.unsaved = true
		k.mu.Unlock()
	}
	return err
}

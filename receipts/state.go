package receipts

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// The keys of a webhook in the store's State. Names hold no 0x00.
//
//	w name            record
//	w name 0 position deferred event
//	w 0               record of the events topics
//
// They hold no account and no device: an erasure of the store leaves no copy here.
const stateKind = "w"

func recordKey(name string) string { return stateKind + name }

func deferredKey(name string, at delivery.Position) string {
	b := append([]byte(stateKind+name), 0)
	b = binary.BigEndian.AppendUint32(b, at.Partition)
	b = binary.BigEndian.AppendUint64(b, at.Commit)
	return string(binary.BigEndian.AppendUint64(b, at.Number))
}

// topicsName is the name of the events topics' record.
const topicsName = "\x00"

// record is the stored state of a webhook.
type record struct {
	At       delivery.Place `json:"at"`   // everything up to here is finished or deferred
	Time     time.Time      `json:"time"` // of the latest event up to there
	Disabled *disabling     `json:"disabled,omitempty"`
	Gap      *gap           `json:"gap,omitempty"`
	NextGap  *gap           `json:"next_gap,omitempty"` // of those dropped since Gap was sent
}

// UnmarshalJSON implements json.Unmarshaler. Stores from before 0.1.0 hold a single Position.
func (r *record) UnmarshalJSON(b []byte) error {
	type plain record
	v := struct {
		*plain
		At json.RawMessage `json:"at"`
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if bytes.HasPrefix(v.At, []byte("{")) {
		r.At = make(delivery.Place, 1)
		return json.Unmarshal(v.At, &r.At[0])
	}
	return json.Unmarshal(v.At, &r.At)
}

// disabling says when and why a webhook was switched off.
type disabling struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Of     string    `json:"of,omitempty"` // hash of the URL, which may hold a secret
}

// hashURL names a URL in a disabling.
func hashURL(url string) string {
	sum := sha256.Sum256([]byte(url))
	return hex.EncodeToString(sum[:8])
}

// gap is a number of events that were dropped, before the receiver knows of it.
type gap struct {
	Dropped int       `json:"dropped"`
	Since   time.Time `json:"since"` // of the first and the last of them
	Until   time.Time `json:"until"`
	First   uint64    `json:"first"` // number of the first
	Sent    bool      `json:"sent"`  // an attempt has been made: it must not change
}

// deferred is an event that is retried, or parked, while the cursor goes on.
type deferred struct {
	Seq      delivery.Seq       `json:"seq"`
	Kind     delivery.EventKind `json:"kind"`
	Time     time.Time          `json:"time"`
	Attempts int                `json:"attempts"`
	Strikes  int                `json:"strikes"`
	First    time.Time          `json:"first,omitzero"` // attempt
	Due      time.Time          `json:"due,omitzero"`
	Error    string             `json:"error,omitempty"`
	Parked   time.Time          `json:"parked,omitzero"`
}

// loadWebhook reads the stored state of a webhook; found is false for a new one.
func loadWebhook(s store.State, name string) (rec record, items map[delivery.Position]deferred, found bool, err error) {
	items = map[delivery.Position]deferred{}
	err = s.ScanState(recordKey(name), func(key string, value []byte) error {
		if key == recordKey(name) {
			found = true
			return json.Unmarshal(value, &rec)
		}
		rest, ok := strings.CutPrefix(key, recordKey(name)+"\x00")
		if !ok || len(rest) != 20 {
			return nil // of another webhook, whose name begins with this one's
		}
		b := []byte(rest)
		var d deferred
		if err := json.Unmarshal(value, &d); err != nil {
			return err
		}
		items[delivery.Position{
			Partition: binary.BigEndian.Uint32(b), Commit: binary.BigEndian.Uint64(b[4:]), Number: binary.BigEndian.Uint64(b[12:]),
		}] = d
		return nil
	})
	if err != nil {
		return rec, nil, false, fmt.Errorf("read the position of webhook %s: %w", name, err)
	}
	return rec, items, found, nil
}

// storedNames lists the webhooks that have a record.
func storedNames(s store.State) (names []string, err error) {
	err = s.ScanState(stateKind, func(key string, _ []byte) error {
		if name := key[len(stateKind):]; name != topicsName && !strings.Contains(name, "\x00") {
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// removal removes the stored state of a webhook.
func removal(name string) []store.StateChange {
	return []store.StateChange{
		{Key: recordKey(name), Remove: true},
		{Key: recordKey(name) + "\x00", Remove: true, Prefix: true},
	}
}

func put(key string, v any) store.StateChange {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own types, which have no such values
	}
	return store.StateChange{Key: key, Value: b}
}

// volatile is a State in memory, for an engine that keeps none.
type volatile struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (v *volatile) ScanState(prefix string, fn func(string, []byte) error) error {
	v.mu.Lock()
	var keys []string
	for k := range v.values {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	v.mu.Unlock()
	slices.Sort(keys)
	for _, k := range keys {
		v.mu.Lock()
		value := v.values[k]
		v.mu.Unlock()
		if err := fn(k, value); err != nil {
			return err
		}
	}
	return nil
}

func (v *volatile) ApplyState(changes []store.StateChange) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.values == nil {
		v.values = map[string][]byte{}
	}
	for _, c := range changes {
		switch {
		case c.Remove && c.Prefix:
			for k := range v.values {
				if strings.HasPrefix(k, c.Key) {
					delete(v.values, k)
				}
			}
		case c.Remove:
			delete(v.values, c.Key)
		default:
			v.values[c.Key] = c.Value
		}
	}
	return nil
}

// errStopping ends a Follow.
var errStopping = errors.New("stopping")

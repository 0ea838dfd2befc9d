package pebblestore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// lookup returns a copy of a value, or an error that wraps ErrNotFound.
func (s *Store) lookup(key []byte, what string, name any) ([]byte, error) {
	v, err := s.get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, fmt.Errorf("%s %v: %w", what, name, delivery.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %v: %w", what, name, oneLine{err})
	}
	return v, nil
}

// Notification implements delivery.Reader.
func (s *Store) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	v, err := s.lookup(keyContent(nil, seq), "notification", seq)
	if err != nil {
		return nil, err
	}
	n := new(delivery.Notification)
	if err := codec.DecodeNotification(n, seq, v); err != nil {
		return nil, fmt.Errorf("read notification %d: %w", seq, err)
	}
	return n, nil
}

// Data implements delivery.Reader.
func (s *Store) Data(seq delivery.Seq) (json.RawMessage, error) {
	return s.lookup(keyData(nil, seq), "data of notification", seq)
}

// Lookup implements delivery.Reader.
func (s *Store) Lookup(id string) (delivery.Seq, error) {
	v, err := s.lookup(keyID(nil, id), "notification", id)
	if errors.Is(err, delivery.ErrNotFound) {
		if seq, ok := delivery.SeqOf(id); ok {
			if n, err := s.Notification(seq); err == nil && n.ID == id {
				return seq, nil
			} else if err != nil && !errors.Is(err, delivery.ErrNotFound) {
				return 0, err
			}
		}
	}
	if err != nil {
		return 0, err
	}
	seq, err := seqAt(v)
	if err != nil {
		return 0, fmt.Errorf("read notification %s: %w", id, err)
	}
	return seq, nil
}

// Timeline implements delivery.Reader.
func (s *Store) Timeline(seq delivery.Seq) ([]delivery.Event, error) {
	_, err := s.folded()
	there := false
	if err == nil {
		there, err = s.has(keyContent(nil, seq))
	}
	if err != nil {
		return nil, fmt.Errorf("read timeline of notification %d: %w", seq, oneLine{err})
	}
	if !there {
		return nil, fmt.Errorf("notification %d: %w", seq, delivery.ErrNotFound)
	}
	var events []delivery.Event
	err = s.scan(keySeqPrefix(prefixEvents, seq), func(_, value []byte) (_ bool, err error) {
		events, err = codec.DecodeEvents(events, seq, value)
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("read timeline of notification %d: %w", seq, oneLine{err})
	}
	// By Number across values; one that was applied twice, in another company
	// the second time, counts once.
	slices.SortStableFunc(events, func(a, b delivery.Event) int {
		switch {
		case a.Number < b.Number:
			return -1
		case a.Number > b.Number:
			return 1
		}
		return 0
	})
	return slices.CompactFunc(events, func(a, b delivery.Event) bool { return a.Number == b.Number }), nil
}

// Deliveries implements delivery.Reader.
func (s *Store) Deliveries(seq delivery.Seq) (_ []delivery.DeliveryState, err error) {
	// Of one moment: a delivery that is finished meanwhile has a Record or a final
	// state, never neither.
	snap, err := s.snapshot()
	if err != nil {
		return nil, fmt.Errorf("read deliveries of notification %d: %w", seq, oneLine{err})
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	v, err := getFrom(snap, keyContent(nil, seq))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, fmt.Errorf("notification %d: %w", seq, delivery.ErrNotFound)
	}
	var n delivery.Notification
	if err == nil {
		err = codec.DecodeNotification(&n, seq, v)
	}
	if err != nil {
		return nil, fmt.Errorf("read notification %d: %w", seq, oneLine{err})
	}
	out := make([]delivery.DeliveryState, len(n.Devices))
	for i, device := range n.Devices {
		if out[i], err = deliveryState(snap, delivery.Key{Seq: seq, Device: device}, len(n.Devices) == 1); err != nil {
			return nil, fmt.Errorf("read the delivery of notification %d to device %s: %w", seq, device, oneLine{err})
		}
	}
	return out, nil
}

// deliveryState reads by keys alone: an iterator costs several times as much, and a list
// reads many. alone: it is the notification's only delivery.
func deliveryState(snap *pebble.Snapshot, k delivery.Key, alone bool) (delivery.DeliveryState, error) {
	d := delivery.DeliveryState{Device: k.Device}
	v, err := getFrom(snap, keyRecord(nil, k))
	if err == nil {
		var r delivery.Record
		err = codec.DecodeRecord(&r, k, v)
		d.State, d.Attempts, d.Pushed = r.State, r.Attempts, r.PushAccepted
		return d, err
	}
	if errors.Is(err, pebble.ErrNotFound) && alone {
		v, err = getFrom(snap, keyFinal(nil, k.Seq, ""))
	}
	if errors.Is(err, pebble.ErrNotFound) {
		v, err = getFrom(snap, keyFinal(nil, k.Seq, k.Device))
	}
	if errors.Is(err, pebble.ErrNotFound) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	f, err := codec.DecodeFinish(k, v)
	d.State, d.Attempts, d.Pushed = f.State, f.Attempts, f.Pushed
	return d, err
}

func keySeqPrefix(prefix byte, seq delivery.Seq) []byte { return appendSeq([]byte{prefix}, seq) }

// getFrom returns a copy of a value.
func getFrom(r pebble.Reader, key []byte) ([]byte, error) {
	v, c, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(v), c.Close()
}

// scan calls fn with every key that begins with prefix, without it, until fn
// returns false.
func (s *Store) scan(prefix []byte, fn func(rest, value []byte) (bool, error)) error {
	return s.scanAfter(prefix, "", fn)
}

func (s *Store) scanAfter(prefix []byte, after string, fn func(rest, value []byte) (bool, error)) error {
	db, err := s.folded()
	if err != nil {
		return err
	}
	return scanAfter(db, prefix, after, fn)
}

func scanFrom(r pebble.Reader, prefix []byte, fn func(rest, value []byte) (bool, error)) error {
	return scanAfter(r, prefix, "", fn)
}

// scanAfter scans the keys greater than prefix+after; with "" all of the prefix.
func scanAfter(r pebble.Reader, prefix []byte, after string, fn func(rest, value []byte) (bool, error)) (err error) {
	lower := prefix
	if after != "" {
		lower = append(slices.Concat(prefix, []byte(after)), 0) // the key behind it
	}
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: successor(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if more, err := fn(it.Key()[len(prefix):], v); err != nil || !more {
			return err
		}
	}
	return nil // it.Close has the iterator's own error
}

// List implements delivery.Reader.
func (s *Store) List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) (err error) {
	prefix := []byte{prefixContent}
	if account != "" {
		prefix = codec.AppendName([]byte{prefixAccount}, account)
	}
	end := successor(prefix)
	if before != 0 {
		end = appendSeq(slices.Clone(prefix), before)
	}
	// One snapshot for the index and the content: a notification pruned in
	// between is not missing.
	snap, err := s.snapshot()
	if err != nil {
		return fmt.Errorf("list notifications: %w", oneLine{err})
	}
	defer func() {
		if err = errors.Join(err, snap.Close()); err != nil {
			err = fmt.Errorf("list notifications: %w", oneLine{err})
		}
	}()
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: end})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.Last(); ok; ok = it.Prev() {
		seq, err := seqAt(it.Key()[len(prefix):])
		if err != nil {
			return err
		}
		n := new(delivery.Notification)
		if account == "" {
			v, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			if err := codec.DecodeNotification(n, seq, v); err != nil {
				return fmt.Errorf("notification %d: %w", seq, err)
			}
		} else {
			v, c, err := snap.Get(keyContent(nil, seq))
			if err != nil {
				return fmt.Errorf("notification %d: %w", seq, err)
			}
			if err := errors.Join(codec.DecodeNotification(n, seq, v), c.Close()); err != nil {
				return fmt.Errorf("notification %d: %w", seq, err)
			}
		}
		if !fn(n) {
			return nil
		}
	}
	return nil
}

// Device implements delivery.Reader.
func (s *Store) Device(id string) (*delivery.Device, error) {
	v, err := s.lookup(keyDevice(id), "device", id)
	if err != nil {
		return nil, err
	}
	d := new(delivery.Device)
	if err := codec.DecodeDevice(d, id, v); err != nil {
		return nil, fmt.Errorf("read device %s: %w", id, err)
	}
	return d, nil
}

// AccountDevices implements delivery.Reader.
func (s *Store) AccountDevices(account string) (devices []delivery.Device, err error) {
	err = s.scan(codec.AppendName([]byte{prefixOfAccount}, account), func(rest, _ []byte) (bool, error) {
		d, err := s.Device(string(rest))
		if errors.Is(err, delivery.ErrNotFound) {
			return true, nil // removed since the scan began
		}
		if err == nil && d.Account == account {
			devices = append(devices, *d)
		}
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("read devices of account %s: %w", account, oneLine{err})
	}
	return devices, nil
}

// Devices implements delivery.Reader.
func (s *Store) Devices(after string, fn func(*delivery.Device) bool) error {
	err := s.scanAfter([]byte{prefixDevice}, after, func(rest, value []byte) (bool, error) {
		d := new(delivery.Device)
		if err := codec.DecodeDevice(d, string(rest), value); err != nil {
			return false, fmt.Errorf("device %s: %w", rest, err)
		}
		return fn(d), nil
	})
	if err != nil {
		return fmt.Errorf("read the registry: %w", oneLine{err})
	}
	return nil
}

// TokenOwner implements delivery.Reader.
func (s *Store) TokenOwner(server, token string) (string, error) {
	// The token itself is a secret of the device: no error names it.
	v, err := s.lookup(keyHolder(server, token), "holder of a push token of", server)
	return string(v), err
}

// Unfinished implements delivery.Reader.
func (s *Store) Unfinished(of delivery.Shard, fn func(*delivery.Record) bool) error {
	var (
		r      delivery.Record
		device string // shared by the device's Records
	)
	err := s.scan([]byte{prefixRecord}, func(rest, value []byte) (bool, error) {
		name, rest, err := codec.CutName(rest)
		if err != nil {
			return false, err
		}
		if string(name) != device {
			device = string(name)
		}
		seq, err := seqAt(rest)
		if err != nil || !of.Holds(uint64(seq)) {
			return true, err
		}
		if err := codec.DecodeRecord(&r, delivery.Key{Seq: seq, Device: device}, value); err != nil {
			return false, fmt.Errorf("record %d of device %s: %w", seq, device, err)
		}
		return fn(&r), nil
	})
	if err != nil {
		return fmt.Errorf("read unfinished deliveries: %w", oneLine{err})
	}
	return nil
}

// Dismissals implements delivery.Reader.
func (s *Store) Dismissals(of delivery.Shard, fn func(*delivery.Dismissal) bool) error {
	err := s.scan([]byte{prefixDismissal}, func(rest, value []byte) (bool, error) {
		name, rest, err := codec.CutName(rest)
		if err != nil {
			return false, err
		}
		seq, err := seqAt(rest)
		if err != nil || !of.Holds(uint64(seq)) {
			return true, err
		}
		var d delivery.Dismissal
		if err := codec.DecodeDismissal(&d, delivery.Key{Seq: seq, Device: string(name)}, value); err != nil {
			return false, fmt.Errorf("dismissal %d of device %s: %w", seq, name, err)
		}
		return fn(&d), nil
	})
	if err != nil {
		return fmt.Errorf("read dismissals: %w", oneLine{err})
	}
	return nil
}

func (s *Store) readCounters() (codec.Counters, error) {
	db, err := s.folded()
	if err != nil {
		return codec.Counters{}, err
	}
	return countersOf(db)
}

func countersOf(r pebble.Reader) (codec.Counters, error) {
	v, err := getFrom(r, keyCounters)
	if errors.Is(err, pebble.ErrNotFound) {
		return codec.Counters{}, nil
	}
	if err != nil {
		return codec.Counters{}, fmt.Errorf("read counters: %w", oneLine{err})
	}
	return codec.DecodeCounters(v)
}

// LastSeq implements delivery.Reader: the last of the store is above that of every
// shard.
func (s *Store) LastSeq(delivery.Shard) (uint64, error) {
	c, err := s.readCounters()
	return c.Last, err
}

// Totals implements delivery.Reader.
func (s *Store) Totals() (delivery.Totals, error) {
	c, err := s.readCounters()
	return delivery.Totals{Accepted: c.Accepted, Finished: c.Finished}, err
}

package pebblestore

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// stored returns a notification as it was before this batch; nil: there is none.
func (a *application) stored(seq delivery.Seq) (*delivery.Notification, error) {
	v, err := a.get(keyContent(nil, seq))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := new(delivery.Notification)
	return n, codec.DecodeNotification(n, seq, v)
}

// assign gives a Record without a device to k.Device.
func (a *application) assign(k delivery.Key) error {
	held := delivery.Key{Seq: k.Seq}
	v, err := a.get(keyRecord(nil, held))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := a.stored(k.Seq)
	if n == nil || err != nil {
		return err
	}
	i := slices.Index(n.Devices, "")
	if i < 0 {
		return nil
	}
	n.Devices[i] = k.Device
	a.live.set(held, life{})
	a.live.set(k, life{live: true, alone: len(n.Devices) == 1})
	a.value = codec.AppendNotification(a.value[:0], n)
	return errors.Join(
		a.batch.Set(keyContent(nil, k.Seq), a.value, nil),
		a.batch.Delete(keyRecord(nil, held), nil),
		a.batch.Set(keyRecord(nil, k), v, nil),
	)
}

// erase removes a notification with everything of it. An entry of the index of
// finished deliveries may stay: Prune drops one that leads to nothing.
func (a *application) erase(seq delivery.Seq) error {
	n, err := a.stored(seq)
	if n == nil || err != nil {
		return err
	}
	var errs []error
	del := func(key []byte) { errs = append(errs, a.batch.Delete(key, nil)) }
	for _, device := range n.Devices {
		k := delivery.Key{Seq: seq, Device: device}
		of, err := a.lifeOf(k)
		if err != nil {
			return err
		}
		if of.live {
			a.live.set(k, life{})
			del(keyRecord(nil, k))
			a.counters.Finished++
		}
	}
	for _, prefix := range []byte{prefixFinish, prefixEvents} {
		errs = append(errs, a.scan(keySeqPrefix(prefix, seq), func(rest, _ []byte) (bool, error) {
			del(append(keySeqPrefix(prefix, seq), rest...))
			return true, nil
		}))
	}
	del(keyData(nil, seq))
	del(keyAccount(nil, n.Account, seq))
	del(keyContent(nil, seq))
	holder, err := a.get(keyID(nil, n.ID)) // a later notification may have taken it over
	if err == nil && binary.BigEndian.Uint64(append(holder, make([]byte, 8)...)) == uint64(seq) {
		del(keyID(nil, n.ID))
	} else if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		errs = append(errs, err)
	}
	a.counters.Pruned = max(a.counters.Pruned, seq) // events that come late look whether it is there
	return errors.Join(errs...)
}

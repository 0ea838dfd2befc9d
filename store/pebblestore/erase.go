package pebblestore

import (
	"encoding/binary"
	"slices"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// stored returns a notification as this batch has left it; nil: there is none.
func (a *application) stored(seq delivery.Seq) (*delivery.Notification, error) {
	v, err := a.read(keyContent(nil, seq))
	if v == nil || err != nil {
		return nil, err
	}
	n := new(delivery.Notification)
	return n, codec.DecodeNotification(n, seq, v)
}

// assign gives a Record without a device to k.Device.
func (a *application) assign(k delivery.Key) error {
	held := delivery.Key{Seq: k.Seq}
	v, err := a.read(keyRecord(nil, held))
	if v == nil || err != nil {
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
	if err := a.batch.Set(keyContent(nil, k.Seq), a.value, nil); err != nil {
		return err
	}
	if err := a.batch.Delete(keyRecord(nil, held), nil); err != nil {
		return err
	}
	return a.batch.Set(keyRecord(nil, k), v, nil)
}

// erase removes a notification with everything of it. Entries of the index of
// finished deliveries and of commits stay: they hold no content, lead to nothing
// now, and Prune drops them.
func (a *application) erase(seq delivery.Seq) error {
	n, err := a.stored(seq)
	if n == nil || err != nil {
		return err
	}
	a.removes = true
	keys := [][]byte{keyData(nil, seq), keyAccount(nil, n.Account, seq), keyContent(nil, seq)}
	for _, device := range n.Devices {
		k := delivery.Key{Seq: seq, Device: device}
		of, err := a.lifeOf(k)
		if err != nil {
			return err
		}
		if of.live {
			a.live.set(k, life{})
			keys = append(keys, keyRecord(nil, k))
			a.counters.Finished++
		}
	}
	for _, prefix := range []byte{prefixFinal, prefixEvents} {
		from := keySeqPrefix(prefix, seq)
		err := scanFrom(a.batch, from, func(rest, _ []byte) (bool, error) {
			keys = append(keys, append(slices.Clip(from), rest...))
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	holder, err := a.read(keyID(nil, n.ID))
	if err != nil {
		return err
	}
	if len(holder) == 8 && binary.BigEndian.Uint64(holder) == uint64(seq) { // no later notification has taken it over
		keys = append(keys, keyID(nil, n.ID))
	}
	for _, key := range keys {
		if err := a.batch.Delete(key, nil); err != nil {
			return err
		}
	}
	a.counters.Pruned = max(a.counters.Pruned, seq) // events that come late look whether it is there
	if a.pruning != nil {
		a.pruning.touch(seq)
	}
	return nil
}

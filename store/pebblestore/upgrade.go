package pebblestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// upgrade makes a store of format 2 out of one of format 1, in place:
//
//   - a final state for each finished delivery, which format 1 left to be read out of
//     the timeline, in place of the time alone;
//   - the index of tokens by their hash;
//   - registry entries with a list of registrations.
//
// FORMAT says 2 already, or 3 where a journal is used. The database says so with the last write, which alone is
// synced: a crash before it is followed by another upgrade, which writes the same.
// The entries it replaces go with that write too. Events from before have no commit:
// EventsFrom begins with the first event after the upgrade.
func (s *Store) upgrade() error {
	s.opts.Logger.Info("upgrading the store", "dir", s.dir, "from", oldFormat, "to", format)
	u := upgrade{Store: s, batch: s.db.NewBatch()}
	err := u.run()
	if err = errors.Join(err, u.batch.Close()); err != nil {
		return fmt.Errorf("data directory %s: upgrade from format %d: %w", s.dir, oldFormat, err)
	}
	s.stored = format
	s.opts.Logger.Info("upgraded the store", "dir", s.dir, "notifications", u.notifications, "devices", u.devices)
	return nil
}

type upgrade struct {
	*Store
	batch                  *pebble.Batch
	notifications, devices int
}

func (u *upgrade) run() error {
	err := u.scan([]byte{prefixContent}, func(rest, value []byte) (bool, error) {
		seq, err := seqAt(rest)
		if err == nil {
			err = u.notification(seq, value)
		}
		if err != nil {
			return false, fmt.Errorf("notification %d: %w", seq, err)
		}
		u.notifications++
		return true, u.flush(pebble.NoSync, 1<<20)
	})
	if err != nil {
		return err
	}
	err = u.scan([]byte{prefixDevice}, func(rest, value []byte) (bool, error) {
		var d delivery.Device
		if err := codec.DecodeDevice(&d, string(rest), value); err != nil {
			return false, fmt.Errorf("device %s: %w", rest, err)
		}
		u.devices++
		if err := u.batch.Set(keyDevice(d.ID), codec.AppendDevice(nil, &d), nil); err != nil {
			return false, err
		}
		for _, r := range d.Registrations {
			if err := u.batch.Set(keyHolder(r.Server, r.Token), []byte(d.ID), nil); err != nil {
				return false, err
			}
		}
		return true, u.flush(pebble.NoSync, 1<<20)
	})
	if err != nil {
		return err
	}
	for _, old := range []byte{prefixFinishV1, prefixTokenV1} {
		if err := u.batch.DeleteRange([]byte{old}, []byte{old + 1}, nil); err != nil {
			return err
		}
	}
	if err := u.batch.Set(keyFormat, binary.BigEndian.AppendUint64(nil, format), nil); err != nil {
		return err
	}
	if u.opts.Journal {
		return errors.Join(u.flush(pebble.NoSync, 0), u.flushAtOpen())
	}
	return u.flush(pebble.Sync, 0)
}

// flush writes the batch if it has more than size bytes.
func (u *upgrade) flush(o *pebble.WriteOptions, size int) (err error) {
	if u.batch.Len() <= size {
		return nil
	}
	if err := u.batch.Commit(o); err != nil {
		return err
	}
	err = u.batch.Close()
	u.batch = u.db.NewBatch()
	return errors.Join(err, u.broken())
}

// notification writes the final states of its deliveries.
func (u *upgrade) notification(seq delivery.Seq, value []byte) error {
	var n delivery.Notification
	if err := codec.DecodeNotification(&n, seq, value); err != nil {
		return err
	}
	var timeline []delivery.Event
	for _, device := range n.Devices {
		live, err := u.has(keyRecord(nil, delivery.Key{Seq: seq, Device: device}))
		if err != nil {
			return err
		}
		if live {
			continue
		}
		if timeline == nil {
			if timeline, err = u.Timeline(seq); err != nil {
				return err
			}
		}
		f := finalOf(timeline, device, n.Ack)
		f.Seq = seq
		key := keyFinal(nil, seq, device)
		at, err := u.get(append(appendSeq([]byte{prefixFinishV1}, seq), device...))
		switch {
		case err == nil && len(at) == 8:
			f.At = time.Unix(0, int64(binary.BigEndian.Uint64(at)^1<<63)).UTC()
		case errors.Is(err, pebble.ErrNotFound) && len(n.Devices) == 1: // the index of finished deliveries has it
			key = keyFinal(nil, seq, "")
		case err == nil:
			return fmt.Errorf("%w: time of a finish", codec.ErrDamaged)
		case !errors.Is(err, pebble.ErrNotFound):
			return err
		}
		if err := u.batch.Set(key, codec.AppendFinish(nil, &f), nil); err != nil {
			return err
		}
	}
	return nil
}

// finalOf reads the final state of a delivery out of a timeline of format 1.
func finalOf(timeline []delivery.Event, device string, ack delivery.AckKind) delivery.Finish {
	f := delivery.Finish{Key: delivery.Key{Device: device}}
	for _, e := range timeline {
		if e.Device != device {
			continue
		}
		f.Attempts = max(f.Attempts, e.Attempt)
		f.Pushed = f.Pushed || e.Kind == delivery.EventPushed
		if f.State.Final() {
			continue
		}
		switch e.Kind {
		case delivery.EventReceived:
			if ack != delivery.AckDisplayed {
				f.State = delivery.StateAcked
			}
		case delivery.EventDisplayed:
			f.State = delivery.StateAcked
		case delivery.EventExpired:
			f.State = delivery.StateExpired
		case delivery.EventSuperseded:
			f.State = delivery.StateSuperseded
		case delivery.EventCancelled:
			f.State = delivery.StateCancelled
		}
	}
	if !f.State.Final() { // its last event was lost with what was not synced
		f.State = delivery.StateCancelled
	}
	return f
}

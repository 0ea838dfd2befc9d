package journal

import (
	"encoding/binary"
	"fmt"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// The first byte of every change in a frame. They are stored: append, never reuse.
const (
	kindAccept byte = iota + 1
	kindAcceptData
	kindAssign
	kindUpdate
	kindEvent
	kindFinish
	kindPutDevice
	kindRemoveDevice
	kindPutDismissal
	kindRemoveDismissal
	kindErase
	kindStatePut
	kindStateRemove
	kindStateRemoveAll
	kindRaw // a batch of the engine, to the end of the frame
)

// Raw returns the payload of a batch as the engine writes it.
func (e *Encoder) Raw(repr []byte) []byte {
	e.buf = append(append(e.buf[:0], kindRaw), repr...)
	return e.buf
}

// DecodeRaw is the inverse of Encoder.Raw. ok: payload is of that kind.
func DecodeRaw(payload []byte) (repr []byte, ok bool) {
	if len(payload) == 0 || payload[0] != kindRaw {
		return nil, false
	}
	return payload[1:], true
}

// Encoder makes payloads.
type Encoder struct{ buf, value, scratch []byte }

// Batch returns the payload of b and of changes to the State. It is valid until the next call.
func (e *Encoder) Batch(b *delivery.Batch, changes []store.StateChange) []byte {
	e.buf = e.buf[:0]
	for i := range b.Accept {
		a := &b.Accept[i]
		e.value = codec.AppendNotification(e.value[:0], a.Notification)
		kind := kindAccept
		if a.Data != nil {
			kind = kindAcceptData
		}
		e.seq(kind, a.Notification.Seq)
		e.bytes(e.value)
		if a.Data != nil {
			e.bytes(a.Data)
		}
	}
	for _, k := range b.Assign {
		e.key(kindAssign, k)
	}
	for i := range b.Update {
		r := &b.Update[i]
		e.key(kindUpdate, delivery.Key{Seq: r.Seq, Device: r.Device})
		e.value = codec.AppendRecord(e.value[:0], r)
		e.bytes(e.value)
	}
	for i := range b.Events {
		e.seq(kindEvent, b.Events[i].Seq)
		e.value, e.scratch = codec.AppendEvent(e.value[:0], e.scratch, &b.Events[i])
		e.bytes(e.value)
	}
	for i := range b.Finish {
		e.key(kindFinish, b.Finish[i].Key)
		e.value = codec.AppendFinish(e.value[:0], &b.Finish[i])
		e.bytes(e.value)
	}
	for i := range b.PutDevices {
		e.buf = append(e.buf, kindPutDevice)
		e.text(b.PutDevices[i].ID)
		e.value = codec.AppendDevice(e.value[:0], &b.PutDevices[i])
		e.bytes(e.value)
		e.value = e.value[:0]
		for _, r := range b.PutDevices[i].Registrations { // a stored entry claims nothing
			claims := byte(0)
			if r.Claims {
				claims = 1
			}
			e.value = append(e.value, claims)
		}
		e.bytes(e.value)
	}
	for _, k := range b.RemoveDevices {
		e.buf = append(e.buf, kindRemoveDevice)
		e.text(k.ID)
		e.text(k.Account)
	}
	for i := range b.PutDismissals {
		d := &b.PutDismissals[i]
		e.key(kindPutDismissal, delivery.Key{Seq: d.Seq, Device: d.Device})
		e.value = codec.AppendDismissal(e.value[:0], d)
		e.bytes(e.value)
	}
	for _, k := range b.RemoveDismissals {
		e.key(kindRemoveDismissal, k)
	}
	for _, seq := range b.Erase {
		e.seq(kindErase, seq)
	}
	for i := range changes {
		c := &changes[i]
		switch {
		case c.Remove && c.Prefix:
			e.buf = append(e.buf, kindStateRemoveAll)
			e.text(c.Key)
		case c.Remove:
			e.buf = append(e.buf, kindStateRemove)
			e.text(c.Key)
		default:
			e.buf = append(e.buf, kindStatePut)
			e.text(c.Key)
			e.bytes(c.Value)
		}
	}
	return e.buf
}

func (e *Encoder) seq(kind byte, seq delivery.Seq) {
	e.buf = binary.AppendUvarint(append(e.buf, kind), uint64(seq))
}

func (e *Encoder) key(kind byte, k delivery.Key) {
	e.seq(kind, k.Seq)
	e.text(k.Device)
}

func (e *Encoder) text(s string) {
	e.buf = append(binary.AppendUvarint(e.buf, uint64(len(s))), s...)
}

func (e *Encoder) bytes(b []byte) {
	e.buf = append(binary.AppendUvarint(e.buf, uint64(len(b))), b...)
}

// Decode is the inverse of Encoder.Batch. It copies all of payload that it returns.
func Decode(payload []byte) (b *delivery.Batch, changes []store.StateChange, err error) {
	b = new(delivery.Batch)
	d := decoder{b: payload}
	for len(d.b) > 0 && d.err == nil {
		kind := d.b[0]
		d.b = d.b[1:]
		switch kind {
		case kindAccept, kindAcceptData:
			n := new(delivery.Notification)
			seq := d.seq()
			d.check(codec.DecodeNotification(n, seq, d.bytes()))
			a := delivery.Acceptance{Notification: n}
			if kind == kindAcceptData {
				a.Data = append([]byte{}, d.bytes()...)
			}
			b.Accept = append(b.Accept, a)
		case kindAssign:
			b.Assign = append(b.Assign, d.key())
		case kindUpdate:
			var r delivery.Record
			k := d.key()
			d.check(codec.DecodeRecord(&r, k, d.bytes()))
			b.Update = append(b.Update, r)
		case kindEvent:
			seq := d.seq()
			var err error
			b.Events, err = codec.DecodeEvents(b.Events, seq, d.bytes())
			d.check(err)
		case kindFinish:
			k := d.key()
			f, err := codec.DecodeFinish(k, d.bytes())
			d.check(err)
			b.Finish = append(b.Finish, f)
		case kindPutDevice:
			var dev delivery.Device
			id := string(d.bytes())
			d.check(codec.DecodeDevice(&dev, id, d.bytes()))
			for i, claims := range d.bytes() {
				if i < len(dev.Registrations) {
					dev.Registrations[i].Claims = claims != 0
				}
			}
			b.PutDevices = append(b.PutDevices, dev)
		case kindRemoveDevice:
			id := string(d.bytes())
			b.RemoveDevices = append(b.RemoveDevices, delivery.DeviceKey{ID: id, Account: string(d.bytes())})
		case kindPutDismissal:
			var dis delivery.Dismissal
			k := d.key()
			d.check(codec.DecodeDismissal(&dis, k, d.bytes()))
			b.PutDismissals = append(b.PutDismissals, dis)
		case kindRemoveDismissal:
			b.RemoveDismissals = append(b.RemoveDismissals, d.key())
		case kindErase:
			b.Erase = append(b.Erase, d.seq())
		case kindStatePut:
			key := string(d.bytes())
			changes = append(changes, store.StateChange{Key: key, Value: append([]byte{}, d.bytes()...)})
		case kindStateRemove, kindStateRemoveAll:
			changes = append(changes, store.StateChange{Key: string(d.bytes()), Remove: true, Prefix: kind == kindStateRemoveAll})
		default:
			d.check(fmt.Errorf("%w: change of kind %d", codec.ErrDamaged, kind))
		}
	}
	return b, changes, d.err
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) check(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.check(fmt.Errorf("%w: number in a frame", codec.ErrDamaged))
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) seq() delivery.Seq { return delivery.Seq(d.uint()) }

func (d *decoder) key() delivery.Key {
	seq := d.seq()
	return delivery.Key{Seq: seq, Device: string(d.bytes())}
}

func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.check(fmt.Errorf("%w: frame too short", codec.ErrDamaged))
		n = uint64(len(d.b))
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

package codec

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/heartline-mqtt/heartline/delivery"
)

const (
	dismissalOf protowire.Number = iota + 1
	dismissalID
	dismissalPushed
	dismissalAt
	dismissalCollapse
	dismissalBadge
)

// AppendDismissal appends a dismissal's value, without its Seq and Device, which are
// its key.
func AppendDismissal(b []byte, d *delivery.Dismissal) []byte {
	b = appendUint(b, dismissalOf, uint64(d.Of))
	b = appendString(b, dismissalID, d.ID)
	b = appendBool(b, dismissalPushed, d.Pushed)
	b = appendTime(b, dismissalAt, d.At)
	b = appendString(b, dismissalCollapse, d.CollapseKey)
	return appendBool(b, dismissalBadge, d.BadgeAuto)
}

// DecodeDismissal is the inverse of AppendDismissal.
func DecodeDismissal(d *delivery.Dismissal, key delivery.Key, b []byte) error {
	*d = delivery.Dismissal{Seq: key.Seq, Device: key.Device}
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch f.num {
		case dismissalOf:
			d.Of = delivery.Seq(f.v)
		case dismissalID:
			d.ID = string(f.s)
		case dismissalPushed:
			d.Pushed = f.v != 0
		case dismissalAt:
			d.At = unixTime(f.v)
		case dismissalCollapse:
			d.CollapseKey = string(f.s)
		case dismissalBadge:
			d.BadgeAuto = f.v != 0
		}
	}
	return nil
}

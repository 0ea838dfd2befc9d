package codec

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/heartline-mqtt/heartline/delivery"
)

const (
	deviceAccount protowire.Number = iota + 1
	deviceReportsApp
	deviceSeenAt
	devicePush // 4 to 9 are format 1's: one registration, for APNs
	deviceServer
	deviceToken
	deviceApp
	deviceEnvironment
	deviceRegisteredAt
	deviceRegistration
	deviceVia
	deviceAddress
	deviceUnreadNumber // never written
	deviceUnread
	deviceForeground
)

const (
	registrationServer protowire.Number = iota + 1
	registrationApp
	registrationEnvironment
	registrationKind // left out: delivery.KindAlert
	registrationToken
	registrationForm
	registrationP256dh
	registrationAuth
	registrationRegisteredAt
	registrationSuspended
	registrationEnded
	registrationNoKind // an empty kind, which no device should have
)

const (
	suspensionSince protowire.Number = iota + 1
	suspensionReason
	suspensionConfig
	suspensionNextProbe
)

const (
	endingAt protowire.Number = iota + 1
	endingReason
)

// AppendDevice appends a device's value, without its ID, which is its key.
func AppendDevice(b []byte, d *delivery.Device) []byte {
	b = appendString(b, deviceAccount, d.Account)
	b = appendBool(b, deviceReportsApp, d.ReportsApp)
	b = appendTime(b, deviceSeenAt, d.SeenAt)
	for i := range d.Registrations {
		b = appendMessage(b, deviceRegistration, appendRegistration(nil, &d.Registrations[i]))
	}
	b = appendString(b, deviceVia, d.Via)
	b = appendString(b, deviceAddress, d.Address)
	b = appendBool(b, deviceForeground, d.Foreground)
	return appendUnread(b, d.Unread)
}

// appendUnread appends 12 bytes for each: there may be a thousand, and most devices have
// none.
func appendUnread(b []byte, marks delivery.Unread) []byte {
	if len(marks) == 0 {
		return b
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, deviceUnread, protowire.BytesType), uint64(unreadSize*len(marks)))
	for _, m := range marks {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, uint64(m.Seq)), m.ID)
	}
	return b
}

const unreadSize = 12

func decodeUnread(b []byte) (marks delivery.Unread, err error) {
	if len(b)%unreadSize != 0 {
		return nil, errUnread
	}
	for ; len(b) > 0; b = b[unreadSize:] {
		marks = append(marks, delivery.UnreadMark{Seq: delivery.Seq(binary.BigEndian.Uint64(b)), ID: binary.BigEndian.Uint32(b[8:])})
	}
	return marks, nil
}

var errUnread = fmt.Errorf("%w: the list of unread notifications is cut off", ErrDamaged)

func appendRegistration(b []byte, r *delivery.Registration) []byte {
	b = appendString(b, registrationServer, r.Server)
	b = appendString(b, registrationApp, r.App)
	b = appendString(b, registrationEnvironment, r.Environment)
	if r.Kind != delivery.KindAlert {
		b = appendString(b, registrationKind, r.Kind)
		b = appendBool(b, registrationNoKind, r.Kind == "")
	}
	b = appendString(b, registrationToken, r.Token)
	b = appendString(b, registrationForm, r.Form)
	b = appendBytes(b, registrationP256dh, r.P256dh)
	b = appendBytes(b, registrationAuth, r.Auth)
	b = appendTime(b, registrationRegisteredAt, r.RegisteredAt)
	if x := r.Suspended; x != nil {
		s := appendTime(nil, suspensionSince, x.Since)
		s = appendString(s, suspensionReason, x.Reason)
		s = appendString(s, suspensionConfig, x.Config)
		b = appendMessage(b, registrationSuspended, appendTime(s, suspensionNextProbe, x.NextProbe))
	}
	if x := r.Ended; x != nil {
		b = appendMessage(b, registrationEnded, appendString(appendTime(nil, endingAt, x.At), endingReason, x.Reason))
	}
	return b
}

// DecodeDevice is the inverse of AppendDevice.
func DecodeDevice(d *delivery.Device, id string, b []byte) error {
	*d = delivery.Device{ID: id}
	old := delivery.Registration{Kind: delivery.KindAlert} // of format 1
	given := false
	err := eachField(b, func(f field) error {
		switch f.num {
		case deviceAccount:
			d.Account = string(f.s)
		case deviceReportsApp:
			d.ReportsApp = f.v != 0
		case deviceSeenAt:
			d.SeenAt = unixTime(f.v)
		case devicePush:
			given = true
		case deviceServer:
			old.Server = string(f.s)
		case deviceToken:
			old.Token = string(f.s)
		case deviceApp:
			old.App = string(f.s)
		case deviceEnvironment:
			old.Environment = string(f.s)
		case deviceRegisteredAt:
			old.RegisteredAt = unixTime(f.v)
		case deviceRegistration:
			r, err := decodeRegistration(f.s)
			if err != nil {
				return err
			}
			d.Registrations = append(d.Registrations, r)
		case deviceVia:
			d.Via = string(f.s)
		case deviceAddress:
			d.Address = string(f.s)
		case deviceForeground:
			d.Foreground = f.v != 0
		case deviceUnread:
			marks, err := decodeUnread(f.s)
			if err != nil {
				return err
			}
			d.Unread = marks
		}
		return nil
	})
	if given {
		d.Registrations = append(d.Registrations, old)
	}
	return err
}

func decodeRegistration(b []byte) (delivery.Registration, error) {
	r := delivery.Registration{Kind: delivery.KindAlert}
	err := eachField(b, func(f field) (err error) {
		switch f.num {
		case registrationServer:
			r.Server = string(f.s)
		case registrationApp:
			r.App = string(f.s)
		case registrationEnvironment:
			r.Environment = string(f.s)
		case registrationKind:
			r.Kind = string(f.s)
		case registrationToken:
			r.Token = string(f.s)
		case registrationForm:
			r.Form = string(f.s)
		case registrationP256dh:
			r.P256dh = cloneBytes(f.s)
		case registrationAuth:
			r.Auth = cloneBytes(f.s)
		case registrationRegisteredAt:
			r.RegisteredAt = unixTime(f.v)
		case registrationSuspended:
			r.Suspended, err = decodeSuspension(f.s)
		case registrationEnded:
			r.Ended, err = decodeEnding(f.s)
		case registrationNoKind:
			r.Kind = ""
		}
		return err
	})
	return r, err
}

func decodeSuspension(b []byte) (*delivery.Suspension, error) {
	x := new(delivery.Suspension)
	err := eachField(b, func(f field) error {
		switch f.num {
		case suspensionSince:
			x.Since = unixTime(f.v)
		case suspensionReason:
			x.Reason = string(f.s)
		case suspensionConfig:
			x.Config = string(f.s)
		case suspensionNextProbe:
			x.NextProbe = unixTime(f.v)
		}
		return nil
	})
	return x, err
}

func decodeEnding(b []byte) (*delivery.Ending, error) {
	x := new(delivery.Ending)
	err := eachField(b, func(f field) error {
		switch f.num {
		case endingAt:
			x.At = unixTime(f.v)
		case endingReason:
			x.Reason = string(f.s)
		}
		return nil
	})
	return x, err
}

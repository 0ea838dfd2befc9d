package codec

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Values are written in the protobuf wire format by hand: no reflection and no
// garbage on the path of every notification, fields that are zero cost nothing,
// and a later version can add fields that an earlier one skips. The numbers are
// stored: append, never renumber.

// ErrDamaged is wrapped by every decoding error.
var ErrDamaged = delivery.ErrDamaged

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, num, 1)
}

func appendString(b []byte, num protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// appendBytes writes bytes; none are left out.
func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return appendMessage(b, num, v)
}

// appendMessage writes a value of several fields, an empty one too.
func appendMessage(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// appendList writes every string of a list, empty ones too: its length counts.
func appendList(b []byte, num protowire.Number, list []string) []byte {
	for _, v := range list {
		b = protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
	}
	return b
}

// appendWindow writes nanoseconds; nil is left out, 0 is not.
func appendWindow(b []byte, num protowire.Number, v *time.Duration) []byte {
	if v == nil {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(max(*v, 0)))
}

// cloneBytes returns a copy; nil for no bytes.
func cloneBytes(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

// appendTime writes nanoseconds since 1970; the zero time is left out.
func appendTime(b []byte, num protowire.Number, v time.Time) []byte {
	if v.IsZero() {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, uint64(v.UnixNano()))
}

// unixTime is the inverse of Time.UnixNano, in UTC.
func unixTime(v uint64) time.Time { return time.Unix(0, int64(v)).UTC() }

// field is one decoded field: v of a number, s of a length-delimited one.
type field struct {
	num protowire.Number
	v   uint64
	s   []byte
}

func (f *field) int() int { return int(int64(min(f.v, math.MaxInt64))) }

func (f *field) window() *time.Duration {
	d := time.Duration(f.int())
	return &d
}

// eachField calls fn with every field of b.
func eachField(b []byte, fn func(field) error) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err == nil {
			err = fn(f)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// nextField takes the first field off b.
func nextField(b []byte) (f field, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return f, nil, fmt.Errorf("%w: %w", ErrDamaged, protowire.ParseError(n))
	}
	b = b[n:]
	f.num = num
	switch typ {
	case protowire.VarintType:
		f.v, n = protowire.ConsumeVarint(b)
	case protowire.Fixed64Type:
		f.v, n = protowire.ConsumeFixed64(b)
	case protowire.BytesType:
		f.s, n = protowire.ConsumeBytes(b)
	default:
		return f, nil, fmt.Errorf("%w: field %d has wire type %d", ErrDamaged, num, typ)
	}
	if n < 0 {
		return f, nil, fmt.Errorf("%w: field %d: %w", ErrDamaged, num, protowire.ParseError(n))
	}
	return f, b[n:], nil
}

package codec

import (
	"bytes"
	"fmt"
	"strings"
)

// A name in the middle of a key ends in 0x00 0x01, and a 0x00 of its own is
// followed by 0xff, so that keys sort as (name, rest) does and no name reaches
// into the next field, whatever its bytes.
const (
	nameEnd     = 0x01
	nameEscaped = 0xff
)

// AppendName appends a name that is followed by something else.
func AppendName(b []byte, name string) []byte {
	for {
		i := strings.IndexByte(name, 0)
		if i < 0 {
			break
		}
		b = append(append(b, name[:i]...), 0, nameEscaped)
		name = name[i+1:]
	}
	return append(append(b, name...), 0, nameEnd)
}

// CutName is the inverse of AppendName. name is a part of key, or a
// copy where a byte of it was escaped.
func CutName(key []byte) (name, rest []byte, err error) {
	i := bytes.IndexByte(key, 0)
	if i >= 0 && i+1 < len(key) && key[i+1] == nameEnd {
		return key[:i], key[i+2:], nil
	}
	var out []byte
	for {
		i = bytes.IndexByte(key, 0)
		if i < 0 || i+1 >= len(key) {
			return nil, nil, fmt.Errorf("%w: key without the end of a name", ErrDamaged)
		}
		out = append(out, key[:i]...)
		switch key[i+1] {
		case nameEnd:
			return out, key[i+2:], nil
		case nameEscaped:
			out = append(out, 0)
		default:
			return nil, nil, fmt.Errorf("%w: key with byte %#x after a zero", ErrDamaged, key[i+1])
		}
		key = key[i+2:]
	}
}

package pebblestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// The first byte of every key; the table is in doc.go. They are stored: append,
// never reuse.
const (
	prefixAccount   = 'a'
	prefixContent   = 'c'
	prefixData      = 'd'
	prefixEvents    = 'e'
	prefixFinish    = 'f'
	prefixID        = 'i'
	prefixMeta      = 'm'
	prefixToken     = 'p'
	prefixRecord    = 'r'
	prefixDevice    = 'v'
	prefixOfAccount = 'w'
	prefixFinished  = 'x'
)

// A name in the middle of a key ends in 0x00 0x01, and a 0x00 of its own is
// followed by 0xff, so that keys sort as (name, rest) does and no name reaches
// into the next field, whatever its bytes.
const (
	nameEnd     = 0x01
	nameEscaped = 0xff
)

func appendName(b []byte, name string) []byte {
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

// cutName is the inverse of appendName. escaped says that name is not a part of
// key but a copy.
func cutName(key []byte) (name, rest []byte, err error) {
	i := bytes.IndexByte(key, 0)
	if i >= 0 && i+1 < len(key) && key[i+1] == nameEnd {
		return key[:i], key[i+2:], nil
	}
	var out []byte
	for {
		i = bytes.IndexByte(key, 0)
		if i < 0 || i+1 >= len(key) {
			return nil, nil, fmt.Errorf("%w: key without the end of a name", errValue)
		}
		out = append(out, key[:i]...)
		switch key[i+1] {
		case nameEnd:
			return out, key[i+2:], nil
		case nameEscaped:
			out = append(out, 0)
		default:
			return nil, nil, fmt.Errorf("%w: key with byte %#x after a zero", errValue, key[i+1])
		}
		key = key[i+2:]
	}
}

func appendSeq(b []byte, seq delivery.Seq) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(seq))
}

func cutSeq(key []byte) (seq delivery.Seq, rest []byte, err error) {
	if len(key) < 8 {
		return 0, nil, fmt.Errorf("%w: key too short for a sequence number", errValue)
	}
	return delivery.Seq(binary.BigEndian.Uint64(key)), key[8:], nil
}

// sortableTime orders as the times do, before 1970 too.
func sortableTime(t time.Time) uint64 { return uint64(t.UnixNano()) ^ 1<<63 }

func keyContent(b []byte, seq delivery.Seq) []byte { return appendSeq(append(b, prefixContent), seq) }
func keyData(b []byte, seq delivery.Seq) []byte    { return appendSeq(append(b, prefixData), seq) }
func keyID(b []byte, id string) []byte             { return append(append(b, prefixID), id...) }
func keyDevice(id string) []byte                   { return append([]byte{prefixDevice}, id...) }

func keyAccount(b []byte, account string, seq delivery.Seq) []byte {
	return appendSeq(appendName(append(b, prefixAccount), account), seq)
}

func keyOfAccount(b []byte, account, device string) []byte {
	return append(appendName(append(b, prefixOfAccount), account), device...)
}

func keyEvents(b []byte, seq delivery.Seq, number uint64) []byte {
	return appendSeq(appendSeq(append(b, prefixEvents), seq), delivery.Seq(number))
}

func keyFinish(b []byte, seq delivery.Seq, device string) []byte {
	return append(appendSeq(append(b, prefixFinish), seq), device...)
}

func keyFinished(b []byte, at uint64, seq delivery.Seq, device string) []byte {
	b = binary.BigEndian.AppendUint64(append(b, prefixFinished), at)
	return append(appendSeq(b, seq), device...)
}

func keyRecord(b []byte, k delivery.Key) []byte {
	return appendSeq(appendName(append(b, prefixRecord), k.Device), k.Seq)
}

func keyToken(server, token string) []byte {
	return append(appendName([]byte{prefixToken}, server), token...)
}

// successor returns the first key that does not begin with prefix.
func successor(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

var (
	keyFormat   = []byte{prefixMeta, 'f'}
	keyCounters = []byte{prefixMeta, 'c'}
)

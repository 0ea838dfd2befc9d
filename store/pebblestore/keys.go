package pebblestore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// The first byte of every key; the table is in doc.go. They are stored: append,
// never reuse.
const (
	prefixAccount   = 'a'
	prefixContent   = 'c'
	prefixData      = 'd'
	prefixEvents    = 'e'
	prefixFinal     = 'g'
	prefixHolder    = 'h'
	prefixID        = 'i'
	prefixCommit    = 'l'
	prefixMeta      = 'm'
	prefixRecord    = 'r'
	prefixDevice    = 'v'
	prefixOfAccount = 'w'
	prefixFinished  = 'x'
	prefixDismissal = 'y'
)

// Format 1 had these. They are removed when a store is upgraded.
const (
	prefixFinishV1 = 'f'
	prefixTokenV1  = 'p'
)

func appendSeq(b []byte, seq delivery.Seq) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(seq))
}

// seqAt reads the number that key begins with.
func seqAt(key []byte) (seq delivery.Seq, err error) {
	if len(key) < 8 {
		return 0, fmt.Errorf("%w: key too short for a sequence number", codec.ErrDamaged)
	}
	return delivery.Seq(binary.BigEndian.Uint64(key)), nil
}

// sortableTime orders as the times do, before 1970 too.
func sortableTime(t time.Time) uint64 { return uint64(t.UnixNano()) ^ 1<<63 }

func keyContent(b []byte, seq delivery.Seq) []byte { return appendSeq(append(b, prefixContent), seq) }
func keyData(b []byte, seq delivery.Seq) []byte    { return appendSeq(append(b, prefixData), seq) }
func keyID(b []byte, id string) []byte             { return append(append(b, prefixID), id...) }
func keyDevice(id string) []byte                   { return append([]byte{prefixDevice}, id...) }

func keyAccount(b []byte, account string, seq delivery.Seq) []byte {
	return appendSeq(codec.AppendName(append(b, prefixAccount), account), seq)
}

func keyOfAccount(b []byte, account, device string) []byte {
	return append(codec.AppendName(append(b, prefixOfAccount), account), device...)
}

func keyEvents(b []byte, seq delivery.Seq, number uint64) []byte {
	return appendSeq(appendSeq(append(b, prefixEvents), seq), delivery.Seq(number))
}

// keyFinal is the key of a finished delivery; device is left out where it is its
// notification's only one.
func keyFinal(b []byte, seq delivery.Seq, device string) []byte {
	return append(appendSeq(append(b, prefixFinal), seq), device...)
}

func keyCommit(b []byte, commit uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, prefixCommit), commit)
}

func keyFinished(b []byte, at uint64, seq delivery.Seq, device string) []byte {
	b = binary.BigEndian.AppendUint64(append(b, prefixFinished), at)
	return append(appendSeq(b, seq), device...)
}

func keyRecord(b []byte, k delivery.Key) []byte {
	return appendSeq(codec.AppendName(append(b, prefixRecord), k.Device), k.Seq)
}

func keyDismissal(b []byte, k delivery.Key) []byte {
	return appendSeq(codec.AppendName(append(b, prefixDismissal), k.Device), k.Seq)
}

// keyHolder is the key of who holds a token. A token is a secret and can be long, and
// keys get into logs and into the lists of tables: it is hashed.
func keyHolder(server, token string) []byte {
	sum := sha256.Sum256(codec.AppendName(nil, server+"\x00"+token))
	return append([]byte{prefixHolder}, sum[:16]...)
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
	keyReserved = []byte{prefixMeta, 'r'}
	keyErased   = []byte{prefixMeta, 'e'}
	keyScrub    = []byte{prefixMeta, 's'}
)

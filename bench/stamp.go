package bench

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
)

// stamp is how a message says which one it is. It is text, because it travels in the
// body of a notification, which is JSON, and comes back in a larger one.
type stamp struct {
	run      uint32 // of messages that an earlier run has left behind
	lane     uint32 // whose it is: one sender that sends in order
	seq      uint64 // its number there, from 0
	intended int64  // when it was due, in ns since the run's start
}

const (
	stampMark = "~hlb1:" // of a ~, because no JSON escapes it and little text has it
	stampSize = len(stampMark) + 2*stampRaw
	stampRaw  = 4 + 4 + 8 + 8
)

func appendStamp(b []byte, s stamp) []byte {
	var raw [stampRaw]byte
	binary.BigEndian.PutUint32(raw[0:], s.run)
	binary.BigEndian.PutUint32(raw[4:], s.lane)
	binary.BigEndian.PutUint64(raw[8:], s.seq)
	binary.BigEndian.PutUint64(raw[16:], uint64(s.intended))
	return hex.AppendEncode(append(b, stampMark...), raw[:])
}

// findStamp looks for the stamp anywhere in a payload.
func findStamp(payload []byte) (stamp, bool) {
	i := bytes.Index(payload, []byte(stampMark))
	if i < 0 || len(payload)-i < stampSize {
		return stamp{}, false
	}
	var raw [stampRaw]byte
	if _, err := hex.Decode(raw[:], payload[i+len(stampMark):i+stampSize]); err != nil {
		return stamp{}, false
	}
	return stamp{
		run: binary.BigEndian.Uint32(raw[0:]), lane: binary.BigEndian.Uint32(raw[4:]),
		seq: binary.BigEndian.Uint64(raw[8:]), intended: int64(binary.BigEndian.Uint64(raw[16:])),
	}, true
}

package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// A frame on the stream is its length (4 bytes, of the part behind the checksum), a
// CRC-32C of all but itself (4 bytes), the frame's number in its direction of the Session
// (8 bytes; 0: it is not kept), its kind (1 byte) and its body. Numbers are big-endian.
const (
	lengthSize = 4
	sumSize    = 4
	headSize   = lengthSize + sumSize + 8 + 1
)

// maxFrame bounds a frame: a page of 1,000 notifications with long texts and timelines
// fits many times.
const maxFrame = 64 << 20

// frameStep is how many bytes of a frame have a deadline of their own. The deadline is not that of
// the whole frame, which may be long, nor of each byte: where a damaged length says that more follows
// than does, the signs of life that come meanwhile are too few.
const frameStep = 16 << 10

// kind says what a frame's body is.
type kind byte

// The kinds. The numbers are on the wire: append, never renumber.
const (
	kindConfirm kind = iota + 1 // not kept: how many frames have arrived; also a sign of life
	kindCall
	kindAnswer
	kindUp
	kindPublish
	kindReplaced
	kindServing
	kindClaimed
	kindHello // not kept: the first of a stream, and its answer
	kindFilters
	kindMessage
)

// errDamaged is wrapped by errors about a frame that cannot be read.
var errDamaged = errors.New("damaged frame")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newFrame returns a frame without its number.
func newFrame(k kind, body []byte) []byte {
	f := make([]byte, headSize, headSize+len(body))
	binary.BigEndian.PutUint32(f, uint32(headSize-lengthSize-sumSize+len(body)))
	f[headSize-1] = byte(k)
	return append(f, body...)
}

// seal gives a frame its number.
func seal(f []byte, number uint64) {
	binary.BigEndian.PutUint64(f[lengthSize+sumSize:], number)
	binary.BigEndian.PutUint32(f[lengthSize:], sum(f))
}

func sum(f []byte) uint32 {
	return crc32.Update(crc32.Checksum(f[:lengthSize], castagnoli), castagnoli, f[lengthSize+sumSize:])
}

// frame is one that has been read.
type frame struct {
	number uint64
	kind   kind
	body   []byte
}

// readFrame calls renew before it waits for bytes, once in a frameStep at most.
func readFrame(r *bufio.Reader, renew func()) (frame, error) {
	if r.Buffered() < lengthSize {
		renew()
	}
	head, err := r.Peek(lengthSize)
	if err != nil {
		return frame{}, err
	}
	n := int(binary.BigEndian.Uint32(head))
	if n < headSize-lengthSize-sumSize || n > maxFrame {
		return frame{}, fmt.Errorf("%w: length %d", errDamaged, n)
	}
	f := make([]byte, lengthSize+sumSize+n)
	for step := range slices.Chunk(f, frameStep) {
		if r.Buffered() < len(step) {
			renew()
		}
		if _, err := io.ReadFull(r, step); err != nil {
			return frame{}, err
		}
	}
	if got, want := sum(f), binary.BigEndian.Uint32(f[lengthSize:]); got != want {
		return frame{}, fmt.Errorf("%w: checksum %08x instead of %08x", errDamaged, got, want)
	}
	return frame{number: binary.BigEndian.Uint64(f[lengthSize+sumSize:]), kind: kind(f[headSize-1]), body: f[headSize:]}, nil
}

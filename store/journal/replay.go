package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Damage is the error of a journal that lacks frames.
type Damage struct{ Segment, What string }

// Missing is What of a segment that is not there.
const Missing = "missing"

func (d *Damage) Error() string { return fmt.Sprintf("journal segment %s is %s", d.Segment, d.What) }

// End is where a journal ends.
type End struct {
	Segment uint64 // the newest; 0: there is none
	Last    uint64 // the last frame, or the one that Replay began behind
}

// Replay calls fn with each frame behind `from`, in order. The newest segment ends at its first frame that is not
// whole: that was not synced. Everything else that is missing is a Damage.
func Replay(vf vfs.FS, dir string, from uint64, fn func(number uint64, payload []byte) error) (End, error) {
	end := End{Last: from}
	names, err := vf.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return end, nil
	}
	if err != nil {
		return end, fmt.Errorf("list the journal: %w", err)
	}
	var all []uint64
	for _, name := range names {
		if n, ok := NumberOf(vf.PathBase(name)); ok {
			all = append(all, n)
			end.Segment = max(end.Segment, n)
		}
	}
	slices.Sort(all)
	segments, err := begun(vf, dir, all, from)
	if err != nil {
		return end, err
	}
	for i, n := range segments {
		b, err := readFile(vf, vf.PathJoin(dir, Name(n)), math.MaxInt64)
		if err != nil {
			return end, fmt.Errorf("read journal segment %s: %w", Name(n), err)
		}
		first, ok := header(n, b)
		switch {
		case !ok:
			return end, &Damage{Name(n), "damaged at its beginning"}
		case first > end.Last+1 && slices.Contains(all, n-1):
			return end, &Damage{Name(n - 1), fmt.Sprintf("damaged: it ends with frame %d, and had %d", end.Last, first-1)}
		case first > end.Last+1:
			return end, &Damage{Name(n - 1), Missing}
		}
		if err := frames(n, b, first, i == len(segments)-1, &end, fn); err != nil {
			return end, err
		}
	}
	return end, nil
}

// begun returns the segments that have a header. It is synced before the first frame is written, so a
// segment without one is empty: a crash or a full disk came before its header. Several starts may leave
// several. If a frame behind `from` is in it, the header is damaged.
func begun(vf vfs.FS, dir string, segments []uint64, from uint64) (with []uint64, err error) {
	for _, n := range segments {
		name := vf.PathJoin(dir, Name(n))
		b, err := readFile(vf, name, segmentHeader)
		if err != nil {
			return nil, fmt.Errorf("read journal segment %s: %w", Name(n), err)
		}
		if _, ok := header(n, b); ok {
			with = append(with, n)
			continue
		}
		if b, err = readFile(vf, name, math.MaxInt64); err != nil {
			return nil, fmt.Errorf("read journal segment %s: %w", Name(n), err)
		}
		if holds(n, b, from, 0) {
			return nil, &Damage{Name(n), "damaged at its beginning"}
		}
	}
	return with, nil
}

func header(segment uint64, b []byte) (first uint64, ok bool) {
	if len(b) < segmentHeader || binary.LittleEndian.Uint32(b) != magic ||
		binary.LittleEndian.Uint32(b[4:]) != checksum(segment, b[8:segmentHeader]) {
		return 0, false
	}
	return binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[8:]) == segment
}

func frames(segment uint64, b []byte, next uint64, newest bool, end *End, fn func(uint64, []byte) error) error {
	at := segmentHeader
	for {
		number, payload, ok := frame(segment, b[at:])
		if !ok || number != next {
			if next > end.Last {
				break
			}
			// The tables have the missing frame. Go on at the first one that they do not have.
			next = end.Last + 1
			skip := find(segment, b[at:], func(number, _ uint64) bool { return number == next })
			if skip < 0 {
				break
			}
			at += skip
			continue
		}
		if number > end.Last {
			if err := fn(number, payload); err != nil {
				return fmt.Errorf("frame %d of journal segment %s: %w", number, Name(segment), err)
			}
			end.Last = number
		}
		next++
		at += frameHeader + len(payload)
	}
	if !newest {
		return nil // the next segment tells whether a frame is missing
	}
	// A later frame knows whether the missing one was on the disk.
	if holds(segment, b[min(at+1, len(b)):], next, next) {
		return &Damage{Name(segment), fmt.Sprintf("damaged at byte %d", at)}
	}
	return nil
}

// holds reports whether b has a whole frame, at any byte, whose number is above `above` and that knows
// frame `synced` to have been synced.
func holds(segment uint64, b []byte, above, synced uint64) bool {
	return find(segment, b, func(number, known uint64) bool {
		return number > above && number-above <= 1<<32 && known >= synced && known < number
	}) >= 0
}

// find returns at which byte of b the first whole frame begins whose numbers fit; -1: there is none.
func find(segment uint64, b []byte, fits func(number, known uint64) bool) int {
	for at := 0; at+frameHeader <= len(b); at++ {
		if !fits(binary.LittleEndian.Uint64(b[at+8:]), binary.LittleEndian.Uint64(b[at+16:])) {
			continue
		}
		if _, _, ok := frame(segment, b[at:]); ok {
			return at
		}
	}
	return -1
}

// frame reads the frame at the beginning of b.
func frame(segment uint64, b []byte) (number uint64, payload []byte, ok bool) {
	if len(b) < frameHeader {
		return 0, nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > uint64(len(b)-frameHeader) {
		return 0, nil, false
	}
	b = b[:frameHeader+int(n)]
	if binary.LittleEndian.Uint32(b[4:]) != checksum(segment, b[8:]) {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint64(b[8:]), b[frameHeader:], true
}

// readFile reads at most limit bytes.
func readFile(vf vfs.FS, name string, limit int64) ([]byte, error) {
	f, err := vf.Open(name, vfs.SequentialReadsOption)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b := make([]byte, min(info.Size(), limit))
	_, err = io.ReadFull(f, b)
	return b, errors.Join(err, f.Close())
}

package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A frame is its length, a checksum, its number, the number that was synced when it was
// written, and the payload. The checksum covers all behind it and the number of the
// segment, so that a frame of a recycled segment is none of the new one.
const (
	frameHeader   = 4 + 4 + 8 + 8
	segmentHeader = 4 + 4 + 8 + 8 // magic, checksum, segment number, number of the first frame
	magic         = 0x314a4c48    // HLJ1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(segment uint64, b []byte) uint32 {
	var seed [8]byte
	binary.LittleEndian.PutUint64(seed[:], segment)
	return crc32.Update(crc32.Checksum(seed[:], castagnoli), castagnoli, b)
}

// Name is the file name of a segment.
func Name(segment uint64) string { return fmt.Sprintf("j%012d.log", segment) }

func spareName(segment uint64) string { return fmt.Sprintf("spare-%012d.log", segment) }

// NumberOf is the inverse of Name.
func NumberOf(name string) (segment uint64, ok bool) { return numberOf(name, "j") }

func numberOf(name, prefix string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	digits, ok = strings.CutSuffix(digits, ".log")
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok && err == nil
}

// Options of a Log.
type Options struct {
	FS  vfs.FS
	Dir string
	// SegmentBytes is the size of a segment. A frame that is larger has one for itself.
	SegmentBytes int64
	// Spares is how many free segments are kept.
	Spares int
	// Begun is called when a segment was begun, before a frame is in it: the frames up to
	// last are synced, in the segments before it.
	Begun func(name string, last uint64) error
}

// Log is open for writing.
type Log struct {
	o      Options
	spares []uint64 // names of free segment files
	buf    []byte
	number uint64 // of the segment

	mu     sync.Mutex
	file   vfs.File // nil: Begin has not been called, or it failed
	room   int64    // left in it
	at     int64
	last   uint64 // the last frame written
	synced uint64 // frames up to here are on the disk
	sealed []sealed
	held   int64 // bytes of frames that are in segments

	syncMu sync.Mutex // held while the disk syncs; taken before mu
}

type sealed struct {
	segment, last uint64
	bytes         int64
}

// Begin starts a log behind the frame `last` in a new segment behind the segment `after`.
// No frame of the other segments in the directory is needed any more.
func Begin(o Options, after, last uint64) (*Log, error) {
	if err := o.FS.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the journal: %w", err)
	}
	if err := syncDir(o.FS, o.FS.PathDir(o.Dir)); err != nil {
		return nil, fmt.Errorf("make the journal: %w", err)
	}
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the journal: %w", err)
	}
	l := &Log{o: o, number: after, last: last, synced: last}
	var old []uint64
	for _, name := range names {
		if n, ok := NumberOf(o.FS.PathBase(name)); ok {
			old = append(old, n)
			l.number = max(l.number, n)
		}
		if n, ok := numberOf(o.FS.PathBase(name), "spare-"); ok {
			if err := o.FS.Remove(o.FS.PathJoin(o.Dir, spareName(n))); err != nil {
				return nil, fmt.Errorf("remove a free segment: %w", err)
			}
		}
	}
	if err := l.roll(0); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	slices.Sort(old)
	for _, n := range old {
		if err := l.release(n); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// errFailed is the error of a Log that could not begin a segment: it takes nothing any more.
var errFailed = errors.New("the journal has failed: a segment could not be begun")

// Append writes a frame behind the last.
func (l *Log) Append(number uint64, payload []byte) error {
	size := int64(frameHeader + len(payload))
	l.mu.Lock()
	room, synced, failed := l.room, l.synced, l.file == nil
	l.mu.Unlock()
	if failed {
		return errFailed
	}
	if size > room {
		if err := l.roll(size); err != nil {
			return err
		}
		synced = l.last
	}
	var header [frameHeader]byte
	l.buf = append(append(l.buf[:0], header[:]...), payload...)
	b := l.buf
	binary.LittleEndian.PutUint32(b, uint32(len(payload)))
	binary.LittleEndian.PutUint64(b[8:], number)
	binary.LittleEndian.PutUint64(b[16:], synced)
	binary.LittleEndian.PutUint32(b[4:], checksum(l.number, b[8:]))
	if cap(b) > 4<<20 {
		l.buf = nil
	}
	if _, err := l.file.WriteAt(b, l.at); err != nil {
		return fmt.Errorf("write to the journal: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.room, l.last, l.held = l.at+size, l.room-size, number, l.held+size
	return nil
}

// Sync has all frames on the disk that were appended before.
func (l *Log) Sync() error {
	l.mu.Lock()
	want := l.last
	l.mu.Unlock()
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	return l.sync(want)
}

// sync is called with syncMu held: callers that wait for it share one sync.
func (l *Log) sync(want uint64) error {
	l.mu.Lock()
	file, last, done := l.file, l.last, l.synced >= want
	l.mu.Unlock()
	if done {
		return nil
	}
	if file == nil {
		return errFailed
	}
	if err := file.SyncData(); err != nil {
		return fmt.Errorf("sync the journal: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = max(l.synced, last)
	return nil
}

// roll syncs the segment and begins another, with room for size bytes.
func (l *Log) roll(size int64) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	fs := l.o.FS
	if l.file != nil {
		if err := l.sync(l.last); err != nil {
			return err
		}
		if err := l.file.Close(); err != nil {
			return fmt.Errorf("close a segment of the journal: %w", err)
		}
		l.mu.Lock()
		l.sealed = append(l.sealed, sealed{segment: l.number, last: l.last, bytes: l.at})
		l.file = nil
		l.mu.Unlock()
	}
	segment := l.number + 1
	name := fs.PathJoin(l.o.Dir, Name(segment))
	file, err := l.create(name)
	if err != nil {
		return fmt.Errorf("begin a segment of the journal: %w", err)
	}
	// Its name is on the disk before its content is overwritten.
	if err := syncDir(fs, l.o.Dir); err != nil {
		return errors.Join(fmt.Errorf("sync the journal's directory: %w", err), file.Close())
	}
	h := make([]byte, segmentHeader)
	binary.LittleEndian.PutUint32(h, magic)
	binary.LittleEndian.PutUint64(h[8:], segment)
	binary.LittleEndian.PutUint64(h[16:], l.last+1)
	binary.LittleEndian.PutUint32(h[4:], checksum(segment, h[8:]))
	if _, err := file.WriteAt(h, 0); err != nil {
		return errors.Join(fmt.Errorf("begin a segment of the journal: %w", err), file.Close())
	}
	if err := file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("begin a segment of the journal: %w", err), file.Close())
	}
	l.mu.Lock()
	l.number, l.file, l.at = segment, file, segmentHeader
	l.room = max(l.o.SegmentBytes-segmentHeader, size)
	l.mu.Unlock()
	return l.o.Begun(Name(segment), l.last)
}

func (l *Log) create(name string) (vfs.File, error) {
	spare := l.takeSpare()
	if spare == 0 {
		return l.o.FS.Create(name, vfs.WriteCategoryUnspecified)
	}
	return l.o.FS.ReuseForWrite(l.o.FS.PathJoin(l.o.Dir, spareName(spare)), name, vfs.WriteCategoryUnspecified)
}

// takeSpare returns 0 if there is none.
func (l *Log) takeSpare() (spare uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spares) > 0 {
		spare, l.spares = l.spares[0], l.spares[1:]
	}
	return spare
}

func (l *Log) addSpare(segment uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spares = append(l.spares, segment)
}

func syncDir(fs vfs.FS, name string) error {
	d, err := fs.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Full reports whether a segment is full, with frames up to last in the full ones, and how many bytes
// of frames are in all segments.
func (l *Log) Full() (last uint64, ok bool, held int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.sealed); n > 0 {
		return l.sealed[n-1].last, true, l.held
	}
	return 0, false, l.held
}

// Free gives back the segments whose frames all have numbers up to last. After an error a further call
// tries again.
func (l *Log) Free(last uint64) error {
	for {
		l.mu.Lock()
		if len(l.sealed) == 0 || l.sealed[0].last > last {
			l.mu.Unlock()
			return nil
		}
		s := l.sealed[0]
		l.mu.Unlock()
		if err := l.release(s.segment); err != nil {
			return err
		}
		l.mu.Lock()
		l.sealed = l.sealed[1:]
		l.held -= s.bytes
		l.mu.Unlock()
	}
}

// release keeps a segment as a spare, or removes it.
func (l *Log) release(segment uint64) error {
	fs := l.o.FS
	name := fs.PathJoin(l.o.Dir, Name(segment))
	l.mu.Lock()
	keep := len(l.spares) < l.o.Spares
	l.mu.Unlock()
	if !keep {
		if err := fs.Remove(name); err != nil {
			return fmt.Errorf("remove a segment of the journal: %w", err)
		}
		return nil
	}
	if err := fs.Rename(name, fs.PathJoin(l.o.Dir, spareName(segment))); err != nil {
		return fmt.Errorf("free a segment of the journal: %w", err)
	}
	l.addSpare(segment)
	return nil
}

// Roll begins a new segment, so that all frames are in full ones.
func (l *Log) Roll() error { return l.roll(0) }

// DropSpares removes the free segments with the frames in them. After an error a further call tries again.
func (l *Log) DropSpares() error {
	for spare := l.takeSpare(); spare != 0; spare = l.takeSpare() {
		if err := l.o.FS.Remove(l.o.FS.PathJoin(l.o.Dir, spareName(spare))); err != nil {
			l.addSpare(spare)
			return fmt.Errorf("remove a free segment: %w", err)
		}
	}
	if err := syncDir(l.o.FS, l.o.Dir); err != nil {
		return fmt.Errorf("sync the journal's directory: %w", err)
	}
	return nil
}

// Close closes the file. It does not sync.
func (l *Log) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

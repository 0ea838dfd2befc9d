package pebblestore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/heartline-mqtt/heartline/store/journal"
)

// watermark is what must be in the store at least. Pebble does not notice that a
// log is missing, nor that the end of its MANIFEST is, nor a flipped bit near the
// end of its log: it takes them for a crash that came before. Everything since
// would be gone without a word.
type watermark struct {
	log      string // the newest log
	writes   uint64 // when it was begun, or the store closed: logs before it are synced
	manifest string // the newest MANIFEST
	size     int64  // of it then: it only grows
}

// noLog is the newest log of a store that has none: one with a journal that was not begun.
const noLog = "000000.log"

const watermarkLine = "%-24s %20d %-24s %20d" // then a checksum

// String is m as it is stored.
func (m watermark) String() string {
	line := fmt.Sprintf(watermarkLine, m.log, m.writes, m.manifest, m.size)
	return fmt.Sprintf("%s %08x\n", line, crc32.ChecksumIEEE([]byte(line)))
}

// writeWatermark overwrites the file in place: that needs no room on a full disk,
// and no more than one sector.
func (s *Store) writeWatermark() error {
	manifest, size, err := s.newestManifest(s.dbDir)
	if err != nil {
		err = fmt.Errorf("look at the MANIFEST: %w", err)
		s.markBroken(err)
		return err
	}
	mark := watermark{log: *s.newestLog.Load(), writes: s.writes.Load(), manifest: manifest, size: size}
	f, err := s.fence.OpenReadWrite(s.path(fileWatermark), vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.WriteAt([]byte(mark.String()), 0)
		err = errors.Join(err, f.SyncData(), f.Close())
	}
	if err != nil {
		err = fmt.Errorf("write %s: %w", fileWatermark, err)
		s.markBroken(err)
	}
	return err
}

func (s *Store) newestManifest(dir string) (name string, size int64, err error) {
	names, err := s.opts.FS.List(dir)
	if err != nil {
		return "", 0, err
	}
	for _, n := range names {
		// Their numbers have leading zeros, and more digits from the millionth on.
		if strings.HasPrefix(n, "MANIFEST-") && (len(n) > len(name) || len(n) == len(name) && n > name) {
			name = n
		}
	}
	info, err := s.opts.FS.Stat(s.opts.FS.PathJoin(dir, name))
	if err != nil {
		return "", 0, err
	}
	return name, info.Size(), nil
}

// readWatermark refuses a store whose newest log is missing, or the end of its
// MANIFEST.
func (s *Store) readWatermark() (m watermark, err error) {
	text, err := s.readFile(fileWatermark)
	if err != nil {
		return m, s.refuse(fmt.Sprintf("file %s cannot be read (%v)", fileWatermark, cause(err)), todoDamaged)
	}
	var sum uint32
	_, err = fmt.Sscanf(text, "%s %d %s %d %x", &m.log, &m.writes, &m.manifest, &m.size, &sum)
	number, logs := walNumber, dirDB
	if _, of := journal.NumberOf(m.log); of {
		number, logs = journal.NumberOf, dirJournal
	}
	want, ok := number(m.log)
	if err != nil || !ok || sum != crc32.ChecksumIEEE(fmt.Appendf(nil, watermarkLine, m.log, m.writes, m.manifest, m.size)) {
		return m, s.refuse(fmt.Sprintf("file %s is damaged", fileWatermark), todoDamaged)
	}
	// One that is not there has been replaced; Pebble knows whether it should be.
	if info, err := s.opts.FS.Stat(s.path(dirDB, m.manifest)); err == nil && info.Size() < m.size {
		return m, s.refuse(fmt.Sprintf("file %s is damaged (it has %d bytes, and had %d)", filepath.Join(dirDB, m.manifest), info.Size(), m.size), todoDamaged)
	}
	if s.opts.Journal && logs == dirDB { // its journal was not begun
		return m, nil
	}
	names, err := s.opts.FS.List(s.path(logs))
	if errors.Is(err, fs.ErrNotExist) && logs == dirJournal {
		return m, s.refuse(fmt.Sprintf("folder %s is missing", logs), todoDamaged)
	}
	if err != nil {
		return m, s.refuse(fmt.Sprintf("folder %s cannot be listed (%v)", logs, cause(err)), "check its permissions")
	}
	for _, n := range names {
		// A newer one is as good: the crash came before its name was written.
		if have, ok := number(filepath.Base(n)); ok && have >= want {
			return m, nil
		}
	}
	return m, s.refuse(fmt.Sprintf("file %s is missing", filepath.Join(logs, m.log)), todoDamaged)
}

func walNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, ".log")
	if !ok {
		return 0, false
	}
	digits, _, _ = strings.Cut(digits, "-") // 000012-001.log is a part of 12
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

package terminal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// SeenKind is what of a notification has been shown.
type SeenKind byte

const (
	SeenNotification SeenKind = 'n' // as a tip, as a notice, or by a push
	SeenMessage      SeenKind = 'm'
)

// DefaultSeen is how many entries a Seen keeps unless it is told otherwise. The
// server has at most delivery.max_outstanding_per_device (1,000) deliveries of a
// device unfinished, with two entries each: of older ones no copy can come.
const DefaultSeen = 4096

// Seen is a bounded set of the notifications shown; the oldest entries go first. Its
// methods are safe for concurrent use. An app that shows a notification on another
// path, a push above all, adds it here, and no tip follows.
type Seen struct {
	limit int

	mu    sync.Mutex
	set   map[string]bool
	order []string // oldest first
	file  *os.File // nil: in memory alone
	path  string
	lines int   // in the file
	size  int64 // of its whole lines
	torn  bool  // there may be more in it
}

// NewSeen returns an empty set in memory of at most limit entries; 0 is
// DefaultSeen.
func NewSeen(limit int) *Seen {
	if limit <= 0 {
		limit = DefaultSeen
	}
	return &Seen{limit: limit, set: map[string]bool{}}
}

// OpenSeen returns the set that is kept in a file, which is made if it is missing.
// One process at a time may have it open. Close it.
func OpenSeen(path string, limit int) (*Seen, error) {
	s := NewSeen(limit)
	s.path = path
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the list of shown notifications: %w", err)
	}
	if text, err = s.load(text); err != nil {
		return nil, err
	}
	if s.file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open the list of shown notifications: %w", err)
	}
	s.size = int64(len(text))
	if err = s.mend(); err != nil { // a line that a crash has cut off
		return nil, errors.Join(fmt.Errorf("open the list of shown notifications: %w", err), s.file.Close())
	}
	return s, nil
}

// load takes the file's whole lines, and returns them.
func (s *Seen) load(text []byte) ([]byte, error) {
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		s.lines++
		entry := lines.Text()
		kind, id, ok := strings.Cut(entry, " ")
		if !ok || id == "" || kind != string(SeenNotification) && kind != string(SeenMessage) {
			return nil, fmt.Errorf("%s: line %d is not one of ours; is it the right file? Remove it to begin with an empty one", s.path, s.lines)
		}
		s.put(entry)
	}
	return text, lines.Err()
}

// Has reports whether it has been shown.
func (s *Seen) Has(kind SeenKind, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set[entryOf(kind, id)]
}

// Add notes that it has been shown. An error is of the file: the set has it, and a
// later process may not.
func (s *Seen) Add(kind SeenKind, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := entryOf(kind, id)
	if s.set[entry] {
		return nil
	}
	if strings.ContainsAny(id, "\r\n") {
		return fmt.Errorf("record a shown notification: invalid ID %q", id)
	}
	s.put(entry)
	if s.path == "" {
		return nil
	}
	if s.file == nil {
		return fmt.Errorf("record a shown notification in %s: %w", s.path, os.ErrClosed)
	}
	if s.lines >= 2*s.limit {
		return s.rewrite()
	}
	if err := s.append(entry + "\n"); err != nil {
		return fmt.Errorf("record a shown notification: %w", err)
	}
	s.lines++
	return nil
}

// append writes a line. No sync: what a power loss takes away is shown once more, under the
// same ID. The part of a line that a full disk has taken must not stay: the next line would
// be glued to it.
func (s *Seen) append(line string) error {
	if s.torn {
		if err := s.mend(); err != nil {
			return err
		}
	}
	if _, err := s.file.WriteString(line); err != nil {
		s.torn = true
		return errors.Join(err, s.mend())
	}
	s.size += int64(len(line))
	return nil
}

// mend cuts the file behind its whole lines.
func (s *Seen) mend() error {
	err := s.file.Truncate(s.size)
	if err == nil {
		_, err = s.file.Seek(s.size, io.SeekStart)
	}
	s.torn = err != nil
	return err
}

// Close closes the file, if there is one. It is safe to call twice.
func (s *Seen) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

func entryOf(kind SeenKind, id string) string { return string(rune(kind)) + " " + id }

func (s *Seen) put(entry string) {
	if s.set[entry] {
		return
	}
	s.set[entry] = true
	s.order = append(s.order, entry)
	if len(s.order) > s.limit {
		delete(s.set, s.order[0])
		s.order[0] = ""
		s.order = s.order[1:]
	}
}

// rewrite puts a file with what still counts in the place of the one that has
// grown.
func (s *Seen) rewrite() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("rewrite the list of shown notifications: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".*")
	if err != nil {
		return err
	}
	w, size := bufio.NewWriter(f), int64(0)
	for _, entry := range s.order {
		n, _ := w.WriteString(entry + "\n") // Flush has the error
		size += int64(n)
	}
	if err = w.Flush(); err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	err = s.file.Close()
	s.file, s.lines, s.size, s.torn = f, len(s.order), size, false
	return err
}

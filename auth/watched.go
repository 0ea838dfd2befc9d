package auth

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how old what is known of a file may be.
const lookEvery = 2 * time.Second

// maxFile is how long a file of keys or users may be.
const maxFile = 64 << 20

// watched is what a file says, read again when the file has changed. It looks when
// it is asked, and has nothing running in between. A file that has become
// unreadable or broken changes nothing but the log: nobody is locked out, and
// nobody let in, by half a write.
type watched[T any] struct {
	key   string // of the configuration
	path  string
	parse func([]byte) (T, error)
	log   *slog.Logger

	current atomic.Pointer[T]
	looked  atomic.Int64 // Unix time in nanoseconds

	mu    sync.Mutex // held while looking; whoever finds it held goes on with current
	stamp stamp      // of the file that was read last, good or not
	gone  bool       // said so in the log
}

// stamp tells one state of a file from another. A file that is replaced by rename
// has another identity even with the time and size of the old one.
type stamp struct {
	modified time.Time
	size     int64
	info     fs.FileInfo
}

func (s stamp) same(o stamp) bool {
	return s.modified.Equal(o.modified) && s.size == o.size && os.SameFile(s.info, o.info)
}

func watch[T any](key, path string, log *slog.Logger, parse func([]byte) (T, error)) (*watched[T], error) {
	w := &watched[T]{key: key, path: path, parse: parse, log: log}
	v, at, err := w.read()
	if err != nil {
		return nil, err
	}
	w.stamp = at
	w.current.Store(&v)
	w.looked.Store(time.Now().UnixNano())
	return w, nil
}

// get returns what the file says.
func (w *watched[T]) get() *T {
	if now := time.Now().UnixNano(); now-w.looked.Load() >= int64(lookEvery) && w.mu.TryLock() {
		w.looked.Store(now)
		w.look()
		w.mu.Unlock()
	}
	return w.current.Load()
}

func (w *watched[T]) look() {
	info, err := os.Stat(w.path)
	if err != nil {
		if !w.gone {
			w.gone = true
			w.log.Error("file cannot be looked at, what was read before stays in force", "key", w.key, "path", w.path, "error", err)
		}
		return
	}
	w.gone = false
	if w.stamp.same(stampOf(info)) {
		return
	}
	v, at, err := w.read()
	if at.info == nil {
		at = stampOf(info) // it could not be opened: said once, not every few seconds
	}
	w.stamp = at
	if err != nil {
		w.log.Error("changed file is not taken, what was read before stays in force", "key", w.key, "error", err)
		return
	}
	w.current.Store(&v)
	w.log.Info("changed file taken", "key", w.key, "path", w.path)
}

func stampOf(info fs.FileInfo) stamp { return stamp{info.ModTime(), info.Size(), info} }

// read reads the file and says which state of it that was.
func (w *watched[T]) read() (v T, at stamp, err error) {
	f, err := os.Open(w.path)
	if err != nil {
		return v, at, fmt.Errorf("%s: %w", w.key, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return v, at, fmt.Errorf("%s: %w", w.key, err)
	}
	at = stampOf(info)
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return v, at, fmt.Errorf("%s: read %s: %w", w.key, w.path, err)
	}
	if len(content) > maxFile {
		return v, at, fmt.Errorf("%s: %s has more than %d bytes", w.key, w.path, maxFile)
	}
	if v, err = w.parse(content); err != nil {
		return v, at, fmt.Errorf("%s: %s: %w", w.key, w.path, err)
	}
	return v, at, nil
}

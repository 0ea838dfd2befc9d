package auth

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/heartline-mqtt/heartline/internal/filewatch"
)

// maxFile is how long a file of keys or users may be.
const maxFile = 64 << 20

// watcher reads the users and key files again when they change.
type watcher struct {
	*filewatch.Watcher
	log *slog.Logger
}

func newWatcher(log *slog.Logger) *watcher { return &watcher{filewatch.New(log), log} }

func (w *watcher) start() { w.Start() }

func (w *watcher) close() { w.Stop() }

// watched is the parsed content of a file. A file that becomes unreadable or broken
// changes nothing but the log: half a write locks nobody out and lets nobody in.
type watched[T any] struct {
	key   string // of the configuration
	path  string
	parse func([]byte) (T, error)
	log   *slog.Logger

	current atomic.Pointer[T]
	// onChange, if set, is called with the new content after a reload.
	onChange func(T)
}

// watch reads a file now, and again on every change once the watcher has started.
func watch[T any](w *watcher, key, path string, secret bool, parse func([]byte) (T, error)) (*watched[T], error) {
	f := &watched[T]{key: key, path: path, parse: parse, log: w.log}
	w.Add(key, f.reload, path)
	v, err := f.read()
	if err != nil {
		return nil, err
	}
	f.current.Store(&v)
	if secret {
		warnIfReadable(w.log, key, path)
	}
	return f, nil
}

func (w *watched[T]) get() *T { return w.current.Load() }

func (w *watched[T]) reload() error {
	v, err := w.read()
	if err != nil {
		return err
	}
	w.current.Store(&v)
	w.log.Info("file reloaded", "key", w.key, "path", w.path)
	if w.onChange != nil {
		w.onChange(v)
	}
	return nil
}

func (w *watched[T]) read() (v T, err error) {
	content, err := readFile(w.path)
	if err != nil {
		return v, fmt.Errorf("%s: %w", w.key, err)
	}
	if v, err = w.parse(content); err != nil {
		return v, fmt.Errorf("%s: %s: %w", w.key, w.path, err)
	}
	return v, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return content, nil
}

// Exposed returns an error if others than the owner of a secret file and its group
// can read it, or others than the owner can write it.
func Exposed(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if m := info.Mode().Perm(); m&0o027 != 0 {
		return fmt.Errorf("%s has mode %04o: other users of this machine can read or change it; chmod 600 it", path, m)
	}
	return nil
}

func warnIfReadable(log *slog.Logger, key, path string) {
	if err := Exposed(path); err != nil {
		log.Warn("secret file is open to others", "key", key, "error", err)
	}
}

// Package filewatch reloads files when they change.
//
// It polls instead of asking the system for notifications: a poll sees files that are
// replaced by rename, through a symbolic link (as Kubernetes mounts secrets) and on a
// network file system alike, and costs one stat a file and second.
package filewatch

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// Every is the time between two looks at a file; a quarter of it while one changes.
const Every = time.Second

// share is how many times longer than a failed reload the wait for the next one is: a
// large file with a mistake must not keep a processor busy.
const share = 10

// Watcher watches files. Make it with New. Stop returns when no reload by the Watcher
// runs any more; it is safe to call twice, at once, and on a Watcher that was never started.
type Watcher struct {
	every time.Duration
	log   *slog.Logger

	mu      sync.Mutex
	entries []*entry
	started bool
	stopped bool
	done    chan struct{}
	running sync.WaitGroup

	reloads sync.Mutex // one at a time
}

// patience is how many looks a file that changes all the time is waited for.
const patience = 10

type entry struct {
	key    string
	paths  []string
	reload func() error

	// reloads is held for these.
	at       []stamp       // of the content that was taken up
	seen     []stamp       // at the last look
	restless int           // looks in a row that have seen a change
	failed   error         // of the last reload
	wait     time.Duration // until the next attempt after a failure
}

// New returns a Watcher that looks every Every.
func New(log *slog.Logger) *Watcher { return NewEvery(Every, log) }

// NewEvery returns a Watcher with a period of its own, for tests.
func NewEvery(every time.Duration, log *slog.Logger) *Watcher {
	return &Watcher{every: every, log: log, done: make(chan struct{})}
}

// Add calls reload after each change of one of the files, disappearance and return
// included, as soon as two looks have found the files the same: half a list of users or of
// revoked certificates may have no mistake, and the other half would be shut out or let in.
// key names them in the log. While reload fails it is called again at every look: a change of
// the owner or of the mode, which can make a file readable, leaves no trace. Call Add before you
// read the content that is valid until then, or a change in between goes unseen. Only one reload
// of a Watcher runs at a time.
func (w *Watcher) Add(key string, reload func() error, paths ...string) {
	at := look(paths)
	e := &entry{key: key, paths: paths, reload: reload, at: at, seen: at}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries = append(w.entries, e)
}

// Start begins to watch. A second call does nothing.
func (w *Watcher) Start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started || w.stopped {
		return
	}
	w.started = true
	w.running.Go(w.run)
}

// Stop ends the Watcher.
func (w *Watcher) Stop() {
	w.mu.Lock()
	if !w.stopped {
		w.stopped = true
		close(w.done)
	}
	w.mu.Unlock()
	w.running.Wait()
}

func (w *Watcher) run() {
	t := time.NewTimer(w.every)
	defer t.Stop()
	for pause := w.every; ; t.Reset(pause) {
		select {
		case <-w.done:
			return
		case <-t.C:
		}
		if restless := w.check(pause); restless {
			pause = w.every / 4
		} else {
			pause = w.every
		}
	}
}

// Check looks at all files now.
func (w *Watcher) Check() { w.check(w.every) }

// check looks at all files, after a pause. It reports whether one of them has changed and is
// not taken up yet.
func (w *Watcher) check(pause time.Duration) (restless bool) {
	w.reloads.Lock()
	defer w.reloads.Unlock()
	for _, e := range w.all() {
		at := look(e.paths)
		e.wait -= pause
		if slices.EqualFunc(at, e.seen, stamp.same) {
			e.restless = 0
		} else if e.seen, e.restless = at, e.restless+1; e.restless < patience {
			restless = true
			continue
		}
		if changed := !slices.EqualFunc(at, e.at, stamp.same); changed || e.failed != nil && e.wait < w.every {
			e.at, e.restless = at, 0
			_ = w.reloadLocked(e) // it has logged it
		}
	}
	return restless
}

// Reload reloads all files now, whether they have changed or not, but for the keys that
// skip, unless it is nil, reports. It returns all errors, joined.
func (w *Watcher) Reload(skip func(key string) bool) error {
	w.reloads.Lock()
	defer w.reloads.Unlock()
	var errs []error
	for _, e := range w.all() {
		if skip == nil || !skip(e.key) {
			e.at = look(e.paths)
			errs = append(errs, w.reloadLocked(e))
		}
	}
	return errors.Join(errs...)
}

func (w *Watcher) all() []*entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.entries)
}

func (w *Watcher) reloadLocked(e *entry) error {
	began := time.Now()
	err := e.reload()
	if err != nil {
		e.wait = share * time.Since(began)
		if e.failed == nil || e.failed.Error() != err.Error() { // not the same line every second
			w.log.Error("reload failed, keeping the previous version", "key", e.key, "error", err)
		}
	}
	e.failed = err
	return err
}

// stamp tells two states of a file apart. A file that is replaced by rename has
// another identity even with the time and the size of the old one.
type stamp struct {
	modified time.Time
	size     int64
	info     fs.FileInfo // nil: not there
}

func (s stamp) same(o stamp) bool {
	if s.info == nil || o.info == nil {
		return s.info == nil && o.info == nil
	}
	return s.modified.Equal(o.modified) && s.size == o.size && os.SameFile(s.info, o.info)
}

func look(paths []string) []stamp {
	at := make([]stamp, len(paths))
	for i, path := range paths {
		if info, err := os.Stat(path); err == nil {
			at[i] = stamp{info.ModTime(), info.Size(), info}
		}
	}
	return at
}

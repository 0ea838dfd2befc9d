// Package filewatch calls functions when files change.
//
// It polls instead of asking the system for notifications: a poll sees files that are
// replaced by rename, through a symbolic link (as Kubernetes mounts secrets) and on a
// network file system alike, and costs one stat a file and second.
package filewatch

import (
	"io/fs"
	"os"
	"sync"
	"time"
)

// Every is the time between two looks at a file.
const Every = time.Second

// Watcher watches files. Make it with New. Stop returns when no function is running
// any more; it is safe to call twice, at once, and on a Watcher that was never started.
type Watcher struct {
	every time.Duration

	mu      sync.Mutex
	files   []*file
	started bool
	stopped bool
	done    chan struct{}
	running sync.WaitGroup
}

type file struct {
	path     string
	onChange func()
	at       stamp
}

// New returns a Watcher that looks every Every.
func New() *Watcher { return NewEvery(Every) }

// NewEvery returns a Watcher with a period of its own, for tests.
func NewEvery(every time.Duration) *Watcher {
	return &Watcher{every: every, done: make(chan struct{})}
}

// Add calls onChange after each change of the file at path, its disappearance and
// its return included. Call it before the content that was valid until now is read,
// or a change in between goes unseen. onChange runs on the Watcher's goroutine, one
// at a time.
func (w *Watcher) Add(path string, onChange func()) {
	f := &file{path: path, onChange: onChange, at: look(path)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files = append(w.files, f)
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
	t := time.NewTicker(w.every)
	defer t.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-t.C:
		}
		w.Check()
	}
}

// Check looks at all files now. Only one Check may run at a time.
func (w *Watcher) Check() {
	w.mu.Lock()
	files := append([]*file(nil), w.files...)
	w.mu.Unlock()
	for _, f := range files {
		if at := look(f.path); !at.same(f.at) {
			f.at = at
			f.onChange()
		}
	}
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

func look(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size(), info}
}

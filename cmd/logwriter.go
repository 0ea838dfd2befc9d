package cmd

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// logPatience is how long a record may take to be written before the log is taken for stuck.
	logPatience = time.Second
	// logWaiting bounds the records that wait for a reader, in bytes.
	logWaiting = 1 << 20
)

// logWriter keeps a reader of the log that takes nothing (a pipe to a process that hangs, a
// terminal after Ctrl-S) from stopping the server: each write to a full pipe blocks. As long as
// the reader takes the records, each is written when Write returns. Otherwise they wait in the
// memory, and those over logWaiting are dropped and counted.
type logWriter struct {
	to       io.Writer
	patience time.Duration
	handler  func(io.Writer) slog.Handler // of the records, for one of its own
	ended    chan struct{}

	mu      sync.Mutex
	queue   []logRecord
	waiting int // bytes of queue
	dropped int
	stuck   bool
	closed  bool
	wake    chan struct{} // holds one
}

type logRecord struct {
	text    []byte
	written chan struct{}
}

func newLogWriter(to io.Writer, patience time.Duration, handler func(io.Writer) slog.Handler) *logWriter {
	w := &logWriter{to: to, patience: patience, handler: handler, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
	go w.run() // until close
	return w
}

// Write implements io.Writer.
func (w *logWriter) Write(p []byte) (int, error) {
	r := logRecord{bytes.Clone(p), make(chan struct{})}
	w.mu.Lock()
	if w.closed || w.stuck && w.waiting+len(p) > logWaiting {
		w.dropped++
		w.mu.Unlock()
		return len(p), nil
	}
	w.queue = append(w.queue, r)
	w.waiting += len(p)
	stuck := w.stuck
	w.kickLocked()
	w.mu.Unlock()
	if stuck {
		return len(p), nil
	}
	late := time.NewTimer(w.patience)
	defer late.Stop()
	select {
	case <-r.written:
	case <-late.C:
		w.mu.Lock()
		w.stuck = len(w.queue) > 0
		w.mu.Unlock()
	}
	return len(p), nil
}

func (w *logWriter) kickLocked() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run writes the records one by one. There is no place to report an error.
func (w *logWriter) run() {
	defer close(w.ended)
	for range w.wake {
		for {
			r, ok, last := w.next()
			if last {
				return
			}
			if !ok {
				break
			}
			_, _ = w.to.Write(r.text)
			w.done(r)
		}
	}
}

// next returns the oldest record, which stays in the queue while it is written. last: there is
// none, and none will come.
func (w *logWriter) next() (r logRecord, ok, last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 && w.dropped > 0 {
		var text bytes.Buffer
		slog.New(w.handler(&text)).Warn("records of the log dropped: its reader took none", "records", w.dropped)
		w.queue, w.waiting, w.dropped = append(w.queue, logRecord{text.Bytes(), make(chan struct{})}), text.Len(), 0
	}
	if len(w.queue) == 0 {
		return r, false, w.closed
	}
	return w.queue[0], true, false
}

func (w *logWriter) done(r logRecord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue[0], w.queue = logRecord{}, w.queue[1:]
	w.waiting -= len(r.text)
	if len(w.queue) == 0 {
		w.queue, w.stuck = nil, false
	}
	close(r.written)
}

// close writes the queued records, unless the reader still takes nothing.
func (w *logWriter) close() {
	w.mu.Lock()
	w.closed = true
	w.kickLocked()
	w.mu.Unlock()
	late := time.NewTimer(w.patience)
	defer late.Stop()
	select {
	case <-w.ended:
	case <-late.C:
	}
}

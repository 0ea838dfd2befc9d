package receipts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Source is what a Tail reads from: a *delivery.Core.
type Source interface {
	EventsFrom(after delivery.Position, fn func(at delivery.Position, account string, e delivery.Event) bool) error
	ReadEvents(after delivery.Place, fn func(at delivery.Position, account string, e delivery.Event) bool) (delivery.Place, error)
	EventsEnd() (delivery.Place, error)
	Subscribe(buffer int) *delivery.Subscription
}

// Event is an event and its place in the store.
type Event struct {
	At delivery.Position
	delivery.AccountEvent
}

// tailPause is the time between two looks at the store's end while there are readers.
// An event shows itself to readers with its commit, which tells nobody; a look reads one
// value.
const tailPause = 20 * time.Millisecond

// tailBehind is how many commits a Tail may begin behind the end of the store.
const tailBehind = 64

// readerBuffer is how many events a Reader may be behind before it has lagged.
const readerBuffer = 4096

// Tail reads the new events of the store once for all readers. Its goroutine runs while
// there are readers, until Stop.
type Tail struct {
	source Source
	pause  time.Duration // tailPause, but in tests
	quit   chan struct{} // closed by Stop

	mu      sync.Mutex
	readers map[*Reader]struct{}
	at      delivery.Place // everything up to here was given to the readers
	running bool
	stopped bool
	task    sync.WaitGroup
}

// NewTail returns a Tail of source.
func NewTail(source Source) *Tail {
	return &Tail{source: source, pause: tailPause, quit: make(chan struct{})}
}

// Reader is one reader at the end of the store.
type Reader struct {
	// C carries the events. It is closed if the reader lags (Lagged), and when the Tail
	// ends: with its source, with Stop, or because the store cannot be read.
	C <-chan Event

	c      chan Event
	from   delivery.Place // it has had everything up to here
	lagged bool
}

// Lagged reports whether C was closed because the reader was too slow. Ask after C is
// closed.
func (r *Reader) Lagged() bool { return r.lagged }

// Attach adds a reader that has had everything up to from. It returns false if the Tail
// is further on in some partition: the reader has to read the store up to there first.
func (t *Tail) Attach(from delivery.Place) (*Reader, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return nil, false, errTailStopped
	}
	if !t.running {
		end, err := t.source.EventsEnd()
		if err != nil {
			return nil, false, err
		}
		var behind uint64
		for _, e := range end {
			behind += e.Commit - min(e.Commit, from.Of(e.Partition).Commit)
		}
		if behind > tailBehind {
			return nil, false, nil
		}
		t.at, t.running, t.readers = slices.Clone(from), true, map[*Reader]struct{}{}
		sub := t.source.Subscribe(readerBuffer)
		t.task.Go(func() { t.run(sub) })
	}
	if !from.Covers(t.at) {
		return nil, false, nil
	}
	c := make(chan Event, readerBuffer)
	r := &Reader{C: c, c: c, from: slices.Clone(from)}
	t.readers[r] = struct{}{}
	return r, true, nil
}

// Stop closes all readers and returns when the goroutine has ended. It is safe before the
// first reader, twice, and twice at once.
func (t *Tail) Stop() {
	t.mu.Lock()
	if !t.stopped {
		t.stopped = true
		close(t.quit)
	}
	t.mu.Unlock()
	t.task.Wait()
}

// Detach removes a reader.
func (t *Tail) Detach(r *Reader) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.readers, r)
}

// Readers returns how many readers are attached, and whether the Tail reads for them.
func (t *Tail) Readers() (n int, running bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.readers), t.running
}

// readTo returns the position up to which r has had everything, if it has taken every
// event out of C.
func (t *Tail) readTo(r *Reader) (at delivery.Place, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, attached := t.readers[r]
	return slices.Clone(t.at), attached && len(r.c) == 0 && t.at.Covers(r.from)
}

// run ends with the last reader, with the source, or when the store cannot be read. sub
// reports the end of the source.
func (t *Tail) run(sub *delivery.Subscription) {
	defer func() { sub.Close() }()
	tick := time.NewTicker(t.pause)
	defer tick.Stop()
	for {
		select {
		case _, open := <-sub.C:
			switch {
			case open:
			case sub.Lagged():
				sub = t.source.Subscribe(readerBuffer)
			default:
				t.end()
				return
			}
		case <-t.quit:
			t.end()
			return
		case <-tick.C:
			if !t.step() {
				return
			}
		}
	}
}

// end closes all readers: they come back, and resume.
func (t *Tail) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.readers {
		close(r.c)
	}
	t.readers, t.running = nil, false
}

func (t *Tail) step() bool {
	t.mu.Lock()
	from := slices.Clone(t.at) // it is also inside the last commit, where a reader came with such a place
	if len(t.readers) == 0 {
		t.running = false
		t.mu.Unlock()
		return false
	}
	t.mu.Unlock()
	next, err := t.source.ReadEvents(from, func(at delivery.Position, account string, e delivery.Event) bool {
		t.give(Event{at, delivery.AccountEvent{Account: account, Event: e}})
		return true
	})
	if err != nil {
		t.end()
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = next
	return true
}

func (t *Tail) give(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at.Advance(e.At)
	for r := range t.readers {
		if !r.from.Of(e.At.Partition).Less(e.At) {
			continue
		}
		select {
		case r.c <- e:
		default:
			r.lagged = true
			delete(t.readers, r)
			close(r.c)
		}
	}
}

// followStep bounds the events of one call of Follow's fn, and of one read of the
// store: a slow fn must not hold the store's snapshot.
const followStep = 256

// Pauses of Follow: after the store could not be read, and between two reports of the
// position while nothing happens.
const (
	followRetry = 100 * time.Millisecond
	followIdle  = time.Second
)

// Follow calls fn with all events behind from, in order, until ctx ends, fn returns an
// error, or Stop is called. All events up to at have been passed with the batch; it is
// empty if at moved without an event. fn may keep at, and must not change it. live is
// false while older events are read from the store. fn may take as long as it likes: the
// events wait in the store. A store that cannot be read, for whatever reason, is read
// again later.
func (t *Tail) Follow(ctx context.Context, from delivery.Place, fn func(batch []Event, at delivery.Place, live bool) error) error {
	var batch []Event
	for {
		reader, there, err := t.Attach(from)
		switch {
		case errors.Is(err, errTailStopped): // delivery.ErrStopped may be its source's, which comes back
			return err
		case there:
			from, err = t.live(ctx, reader, from, &batch, fn)
			t.Detach(reader)
			if err != nil {
				return err
			}
			if !reader.Lagged() { // the source has ended, or the store fails
				err = errPause
			}
		case err == nil:
			var next delivery.Place
			if next, err = t.readStep(from, &batch); err == nil {
				if err := fn(batch, next, false); err != nil {
					return err
				}
				from = next
			}
		}
		if err == nil {
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		if !sleep(ctx, followRetry) {
			return ctx.Err()
		}
	}
}

var (
	errPause       = errors.New("the tail has ended")
	errTailStopped = fmt.Errorf("the tail: %w", delivery.ErrStopped)
)

// live passes the events of a reader on until its C is closed.
func (t *Tail) live(ctx context.Context, r *Reader, from delivery.Place, batch *[]Event, fn func([]Event, delivery.Place, bool) error) (delivery.Place, error) {
	idle := time.NewTicker(followIdle)
	defer idle.Stop()
	if err := fn(nil, from, true); err != nil { // it is at the end
		return from, err
	}
	for {
		select {
		case e, open := <-r.C:
			if !open {
				return from, nil
			}
			b := (*batch)[:0]
			b = append(b, e)
			for more := true; more && len(b) < followStep; {
				select {
				case e, more = <-r.C:
					if more {
						b = append(b, e)
					}
				default:
					more = false
				}
			}
			*batch = b
			from = slices.Clone(from) // fn may have kept it
			for i := range b {
				from.Advance(b[i].At)
			}
			if err := fn(b, from, true); err != nil {
				return from, err
			}
		case <-idle.C:
			if at, ok := t.readTo(r); ok && !from.Covers(at) {
				from = at
				if err := fn(nil, from, true); err != nil {
					return from, err
				}
			}
		case <-ctx.Done():
			return from, ctx.Err()
		}
	}
}

// readStep reads the next events from the store.
func (t *Tail) readStep(from delivery.Place, batch *[]Event) (next delivery.Place, err error) {
	b := (*batch)[:0]
	next, err = t.source.ReadEvents(from, func(at delivery.Position, account string, e delivery.Event) bool {
		b = append(b, Event{at, delivery.AccountEvent{Account: account, Event: e}})
		return len(b) < followStep
	})
	*batch = b
	return next, err
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package api

import (
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// tailPause is the time between two looks at the store's end while streams are open.
// An event shows itself to readers with its commit, which tells nobody; a look reads one
// value.
const tailPause = 20 * time.Millisecond

// positioned is an event and its place in the store.
type positioned struct {
	at      delivery.Position
	account string
	event   delivery.Event
}

// tailBehind is how many commits a tail may begin behind the end of the store.
const tailBehind = 64

// tail reads the new events of the store once for all streams. Its goroutine runs while
// there are readers, until stop.
type tail struct {
	core Core
	quit chan struct{} // closed by stop

	mu      sync.Mutex
	readers map[*tailReader]struct{}
	at      delivery.Position // everything up to here was given to the readers
	running bool
	stopped bool
	task    sync.WaitGroup
}

// tailReader is one stream at the end of the store. c is closed where the reader lags
// (lagged), and when the tail ends.
type tailReader struct {
	c      chan positioned
	from   delivery.Position // it has had everything up to here
	lagged bool
}

// attach adds a reader that has had everything up to from. It returns false where the
// tail is further on: the reader has to read the store up to there first.
func (t *tail) attach(from delivery.Position) (*tailReader, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return nil, false, delivery.ErrStopped
	}
	if !t.running {
		end, err := t.core.EventsEnd()
		if err != nil {
			return nil, false, err
		}
		if end.Commit-from.Commit > tailBehind {
			return nil, false, nil
		}
		t.at, t.running, t.readers = from, true, map[*tailReader]struct{}{}
		sub := t.core.Subscribe(eventBuffer)
		t.task.Go(func() { t.run(sub) })
	}
	if from.Less(t.at) {
		return nil, false, nil
	}
	r := &tailReader{c: make(chan positioned, eventBuffer), from: from}
	t.readers[r] = struct{}{}
	return r, true, nil
}

// stop closes all readers and returns when the goroutine has ended. It is safe before the
// first reader, twice, and twice at once.
func (t *tail) stop() {
	t.mu.Lock()
	if !t.stopped {
		t.stopped = true
		close(t.quit)
	}
	t.mu.Unlock()
	t.task.Wait()
}

// detach takes a reader away.
func (t *tail) detach(r *tailReader) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.readers, r)
}

// run ends with the last reader, with the core, or when the store cannot be read. sub
// tells of the core's end.
func (t *tail) run(sub *delivery.Subscription) {
	defer func() { sub.Close() }()
	tick := time.NewTicker(tailPause)
	defer tick.Stop()
	for {
		select {
		case _, open := <-sub.C:
			switch {
			case open:
			case sub.Lagged():
				sub = t.core.Subscribe(eventBuffer)
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
func (t *tail) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.readers {
		close(r.c)
	}
	t.readers, t.running = nil, false
}

func (t *tail) step() bool {
	t.mu.Lock()
	from := t.at
	if len(t.readers) == 0 {
		t.running = false
		t.mu.Unlock()
		return false
	}
	t.mu.Unlock()
	end, err := t.core.EventsEnd()
	if err == nil && from.Less(end) { // a reader may have come with a position inside the last commit
		err = t.core.EventsFrom(from, func(at delivery.Position, account string, e delivery.Event) bool {
			t.give(positioned{at, account, e})
			return true
		})
	}
	if err != nil {
		t.end()
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at.Less(end) { // the rest of the last commit is read, or holds no event
		t.at = end
	}
	return true
}

func (t *tail) give(p positioned) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = p.at
	for r := range t.readers {
		if !r.from.Less(p.at) {
			continue
		}
		select {
		case r.c <- p:
		default:
			r.lagged = true
			delete(t.readers, r)
			close(r.c)
		}
	}
}

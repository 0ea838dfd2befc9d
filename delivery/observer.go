package delivery

import "sync"

// Observers tells everyone who wants to know of every transition. Several Cores may
// share one (Options.Observers). The zero value is ready to use.
type Observers struct {
	mu   sync.RWMutex
	all  []Observer
	subs map[*Subscription]struct{}
	done bool
}

// Subscription is a live view of the timeline of everything.
type Subscription struct {
	// C carries the events as they happen. It is closed at the end: by Close, by
	// the core's stop, or because the reader was too slow (Lagged).
	C      <-chan AccountEvent
	c      chan AccountEvent
	lagged bool
	o      *Observers
}

// AccountEvent is an Event and the account of its notification.
type AccountEvent struct {
	Account string
	Event
}

// Observe adds an Observer; call it before Start.
func (c *Core) Observe(o Observer) { c.observers.Observe(o) }

// Subscribe opens a live view that holds up to buffer events for a slow reader.
func (c *Core) Subscribe(buffer int) *Subscription { return c.observers.Subscribe(buffer) }

// Observe adds an Observer; call it before any Core starts.
func (o *Observers) Observe(x Observer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, x)
}

// Subscribe opens a live view that holds up to buffer events for a slow reader.
func (o *Observers) Subscribe(buffer int) *Subscription {
	s := &Subscription{c: make(chan AccountEvent, buffer), o: o}
	s.C = s.c
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done {
		close(s.c)
		return s
	}
	if o.subs == nil {
		o.subs = map[*Subscription]struct{}{}
	}
	o.subs[s] = struct{}{}
	return s
}

// Close ends all live views. A Core closes only Observers of its own, when it stops.
func (o *Observers) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done = true
	for s := range o.subs {
		s.end()
	}
}

// Close ends the view. It is safe to call twice.
func (s *Subscription) Close() {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	s.end()
}

// Lagged reports whether the view ended because its reader was too slow. It is
// meant to be asked after C is closed.
func (s *Subscription) Lagged() bool {
	s.o.mu.RLock()
	defer s.o.mu.RUnlock()
	return s.lagged
}

func (s *Subscription) end() {
	if _, open := s.o.subs[s]; open {
		delete(s.o.subs, s)
		close(s.c)
	}
}

func (o *Observers) observe(account string, e Event) {
	o.mu.RLock()
	for _, x := range o.all {
		x.Observe(account, e)
	}
	var slow []*Subscription
	for s := range o.subs {
		select {
		case s.c <- AccountEvent{account, e}:
		default:
			slow = append(slow, s)
		}
	}
	o.mu.RUnlock()
	if slow == nil {
		return
	}
	// A reader that lags must not hold the core up, nor silently miss a line.
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range slow {
		s.lagged = true
		s.end()
	}
}

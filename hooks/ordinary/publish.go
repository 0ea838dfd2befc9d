package ordinary

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// delivery is the memory of one Publish, used again.
type delivery struct {
	lists   []*subscribers
	targets []target
	merge   map[*Session]int
}

var deliveries = sync.Pool{New: func() any { return &delivery{merge: map[*Session]int{}} }}

// turnOf is how many receivers a message goes to before other goroutines have a turn.
// Without it a message to thousands keeps the core until the runtime takes it away,
// after 10 ms.
const turnOf = 64

// Publish delivers a message, and retains it where it says so. It returns the receivers
// that the caller is to Wait for, nil for none. The error is a *LimitError; nothing has
// happened then.
func (h *Hub) Publish(m *Message) (over []*Session, err error) {
	l := h.topicLock(m.TopicName)
	l.Lock()
	defer l.Unlock()
	if err := h.admit(m); err != nil {
		return nil, err
	}
	return h.publish(m), nil
}

// publish is Publish for a message that is admitted. The topic's lock is held.
func (h *Hub) publish(m *Message) (over []*Session) {
	d := deliveries.Get().(*delivery)
	defer d.recycle()
	h.collect(d, m)
	var old former
	if m.Retain {
		if h.replaying.Load() > 0 && d.awaits(m.TopicName) {
			old.read(h, m.TopicName) // before it is replaced
		}
		latest, changed := h.retained.set(m, h.sharedNow())
		old.known = old.known || latest // a replay that has begun since has m to come
		if changed && !ofServer(m.TopicName) {
			h.opts.Journal.Retained(m.Account, m.TopicName)
		}
	}
	h.forward(m)
	for i := range d.targets {
		if i%turnOf == turnOf-1 {
			runtime.Gosched()
		}
		t := &d.targets[i]
		if !h.mayRead(t.session, m.TopicName) {
			continue
		}
		if h.give(t, m, &old) == pressed {
			over = append(over, t.session)
		}
	}
	return over
}

// give offers a message to its receiver. If that is a member of a group and does not take
// it, another one gets it, which t is then.
func (h *Hub) give(t *target, m *Message, old *former) outcome {
	got := h.offer(t, m, old)
	if got < unfit {
		return got
	}
	qos, g, deals := min(m.QoS, t.qos), t.group, t.deals
	var full *Session // the first that had no room
	if got == refused {
		full = t.session
	}
	for n := g.size(); got >= unfit && n > 0; n-- {
		next, ok := g.pickAgain(m, func(s *Session) bool { return h.mayRead(s, m.TopicName) })
		if !ok {
			break
		}
		*t = gather(nil, nil, m, next)[0]
		t.group, t.deals = g, deals
		if got = h.offer(t, m, old); got == refused && full == nil {
			full = t.session
		}
	}
	if got >= unfit && full != nil {
		full.drop(qos)
	}
	return got
}

func (h *Hub) offer(t *target, m *Message, old *former) outcome {
	got := t.session.offer(t, m, *old)
	if got == unknown { // not while the session is locked: others need it
		old.read(h, m.TopicName)
		got = t.session.offer(t, m, *old)
	}
	return got
}

// admit reports why a message that is to be retained may not be. The topic's lock is held.
func (h *Hub) admit(m *Message) error {
	if !m.Retain || m.relayed {
		return nil
	}
	if m.Account != "" && len(m.Payload) > 0 && !h.retained.has(m.TopicName) && h.opts.Journal.Behind(m.Account) {
		h.counters.overRetained.Add(1)
		return errBehind
	}
	err := h.retained.admit(m, h.bounds.Load().Limits.RetainedBytes, h.opts.Room)
	if err != nil {
		h.counters.overRetained.Add(1)
	}
	return err
}

// former is the retained message that a live one follows.
type former struct {
	known bool
	msg   *Message // nil: there is none
}

// read reads it once. The topic's lock is held.
func (f *former) read(h *Hub, topicName string) {
	if !f.known {
		f.known, f.msg = true, h.read(topicName)
	}
}

// awaits reports whether a replay of one of the receivers is still to come to a topic.
func (d *delivery) awaits(topicName string) bool {
	return slices.ContainsFunc(d.targets, func(t target) bool {
		s := t.session
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.awaitsLocked(topicName)
	})
}

// read returns the retained message of a topic, nil for none. It may wait for the disk.
// The topic's lock is held, and no session's.
func (h *Hub) read(topicName string) *Message {
	m, err := h.retained.get(topicName, h.opts.Now().Unix())
	if err != nil {
		h.opts.Logger.Error("retained message not read", "topic", topicName, "error", err)
	}
	return m
}

func (h *Hub) collect(d *delivery, m *Message) {
	d.lists = h.index.match(d.lists, m.TopicName)
	allowed := func(s *Session) bool { return h.mayRead(s, m.TopicName) }
	for _, l := range d.lists {
		merge := d.merge
		if len(d.lists) == 1 {
			merge = nil // no session twice, but for its groups
		}
		d.targets = l.collect(d.targets, m, merge, allowed)
	}
}

func (d *delivery) recycle() {
	clear(d.lists)
	clear(d.targets)
	clear(d.merge)
	d.lists, d.targets = d.lists[:0], d.targets[:0]
	deliveries.Put(d)
}

// Wait holds a publisher up while receivers of its message are over their budget, for
// as long as it takes them to catch up, and a quarter of a second at most. A receiver
// that does not catch up is not waited for again for some seconds.
func (h *Hub) Wait(ctx context.Context, pressed []*Session) {
	t := time.NewTimer(patience)
	defer t.Stop()
	h.counters.waited.Add(1)
	for i, s := range pressed {
		for moved := s.pressure(); moved != nil; moved = s.pressure() {
			select {
			case <-moved:
			case <-ctx.Done():
				return
			case <-t.C:
				for _, s := range pressed[i:] {
					s.distrustFor(distrustAfter)
				}
				return
			}
		}
	}
}

// replayOne queues the retained message of one topic for a replay.
func (h *Hub) replayOne(s *Session, link Link, r *replay, key string) {
	topicName := nameOf(key)
	l := h.topicLock(topicName)
	l.Lock()
	defer l.Unlock()
	var m *Message
	if h.mayRead(s, topicName) {
		m = h.read(topicName)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != link || len(s.replays) == 0 || s.replays[0] != r {
		return
	}
	if r.pass(key, topicName) && m != nil {
		s.retainedLocked(r, m)
	}
}

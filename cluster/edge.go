package cluster

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
)

// edge is a device's channel that is up at this node, at whichever owner. When the
// partition gets another owner it is announced there.
type edge struct {
	r    *Router
	part uint16

	turn chan struct{} // of capacity 1: one owner is told at a time
	high atomic.Uint64 // Seq of the latest notification published on the channel

	mu   sync.Mutex
	info delivery.OnlineInfo // as it is now: subscriptions and app state, too
	at   owner               // that knows of it
	up   delivery.Up         // nil: none does
	gone bool
	// moving: its client has been asked to connect to another node.
	moving bool
}

// link is the channel as one owner has it.
type link struct {
	delivery.Channel
	e      *edge
	before uint64 // Seq of the latest notification that an owner before published
}

// Publish implements delivery.Channel. The record that a notification was published can be
// lost with its owner: the successor calls its copy the first, on the same connection.
func (l *link) Publish(p delivery.Publication) error {
	if !p.Message && !p.Dismissal {
		seq := uint64(p.Seq)
		p.Redelivery = p.Redelivery || seq <= l.before
		for {
			high := l.e.high.Load()
			if high >= seq || l.e.high.CompareAndSwap(high, seq) {
				break
			}
		}
	}
	return l.Channel.Publish(p)
}

// Replaced implements delivery.Replaceable.
func (l *link) Replaced() {
	if r, ok := l.Channel.(delivery.Replaceable); ok {
		r.Replaced()
	}
}

// Online is Core.Online.
func (r *Router) Online(info delivery.OnlineInfo) (delivery.Up, error) {
	if info.Connected.IsZero() {
		info.Connected = time.Now()
	}
	e := &edge{r: r, part: r.part(info.Account), turn: make(chan struct{}, 1), info: info}
	s := &r.table.slots[e.part]
	s.mu.Lock()
	if s.edges == nil {
		s.edges = map[*edge]struct{}{}
	}
	s.edges[e] = struct{}{} // from now on it is announced to every new owner
	s.mu.Unlock()
	// The device is known when Online returns, unless nobody serves it for long.
	if err := r.table.do(r.table.ctx, e.part, nil, e.announce); passing(err) {
		if o, _ := s.get(); o != nil {
			r.start(func() { r.takeUp(e, o) })
		} // else: the next owner takes it up
	} else if err != nil {
		e.Offline("not taken up")
		return nil, err
	}
	return e, nil
}

// passing reports whether an owner that did not take a channel up, or its successor, may
// do so a little later.
func passing(err error) bool { return moved(err) || errors.Is(err, delivery.ErrUnavailable) }

// takeUpPause is the time between two attempts to bring a channel up at an owner.
const takeUpPause = time.Second

// takeUp brings a channel up at an owner, for as long as that is the owner.
func (r *Router) takeUp(e *edge, o owner) {
	s := &r.table.slots[e.part]
	for {
		err := e.announce(o)
		switch {
		case err == nil || errors.Is(err, delivery.ErrChannelClosed):
			return
		case !passing(err):
			r.seldom.Warn(r.opts.Log, "device not taken up by the new owner of its account, it gets no notifications on this connection", "device", e.info.Device, "account", e.info.Account, "error", err)
			return
		}
		now, changed := s.get()
		if now != o { // the successor is told by whoever has made it the owner
			return
		}
		pause := time.NewTimer(takeUpPause)
		select {
		case <-changed:
		case <-pause.C:
		case <-r.table.ctx.Done():
		}
		pause.Stop()
		if now, _ = s.get(); now != o || r.table.ctx.Err() != nil {
			return
		}
	}
}

// announce brings the channel up at an owner, unless that knows of it already.
func (e *edge) announce(o owner) error {
	select { // no mutex: the owner's answer may take long, and Close must not wait for it
	case e.turn <- struct{}{}:
	case <-e.r.table.ctx.Done():
		return delivery.ErrStopped
	}
	defer func() { <-e.turn }()
	e.mu.Lock()
	if e.gone || e.at == o && e.up != nil {
		e.mu.Unlock()
		return nil
	}
	info := e.info
	e.mu.Unlock()
	info.Channel = &link{info.Channel, e, e.high.Load()}
	up, err := o.Online(info)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		up.Offline("disconnected")
		return nil
	}
	if former, ok := e.up.(*relay.Up); ok {
		former.Forsake()
	}
	e.at, e.up = o, up
	if now := e.info; now.Messages != info.Messages || now.Dismissals != info.Dismissals {
		up.SetSubscribed(now.Messages, now.Dismissals)
	}
	if e.info.App != info.App {
		return up.SetApp(e.info.App)
	}
	return nil
}

// announce tells a new owner of a partition of the channels that are up here.
func (r *Router) announce(part uint16, o owner) {
	s := &r.table.slots[part]
	s.mu.Lock()
	var edges []*edge
	for e := range s.edges {
		edges = append(edges, e)
	}
	s.mu.Unlock()
	if len(edges) == 0 {
		return
	}
	r.start(func() {
		for _, e := range edges {
			r.takeUp(e, o)
		}
	})
}

// Heartbeat implements delivery.Up.
func (e *edge) Heartbeat() {
	if up := e.now(); up != nil {
		up.Heartbeat()
	}
}

func (e *edge) now() delivery.Up {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.up
}

// SetSubscribed implements delivery.Up.
func (e *edge) SetSubscribed(messages, dismissals bool) {
	e.mu.Lock()
	e.info.Messages, e.info.Dismissals = messages, dismissals
	up := e.up
	e.mu.Unlock()
	if up != nil {
		up.SetSubscribed(messages, dismissals)
	}
}

// SetApp implements delivery.Up.
func (e *edge) SetApp(state delivery.AppState) error {
	up := e.now()
	if up != nil {
		if err := up.SetApp(state); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.info.App = state
	return nil
}

// Offline implements delivery.Up.
func (e *edge) Offline(why string) {
	s := &e.r.table.slots[e.part]
	s.mu.Lock()
	delete(s.edges, e)
	s.mu.Unlock()
	e.mu.Lock()
	e.gone = true
	up := e.up
	e.mu.Unlock()
	if up != nil {
		up.Offline(why)
	}
}

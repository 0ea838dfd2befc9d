package faults

import (
	"fmt"
	"net/http"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// Evidence is the three ledgers and what is known of the run.
type Evidence struct {
	Acceptances []Acceptance
	Connections []*Connection
	Pushes      []apnssim.Received
	Kills       int               // how often the program was killed
	Devices     map[string]string // a device's push token → the device
	Window      int               // max_inflight_per_device; 0: not looked at
	// Unfinished: deliveries may be left over, as long as the store lists them.
	Unfinished bool
}

// Result is a line of the table.
type Result struct {
	Accepted, Acked, Expired int
	Unfinished               int // accepted, listed, not final

	Unaccounted int // accepted, and not in the store, or in a state that is not true
	Duplicates  int // within one connection
	Disorder    int // first copies on a connection out of the order of acceptance
	Pushes      int // accepted pushes above one for a delivery
	Other       int // broken rules that have no column: flow control, packet identifiers

	Problems []string // the first of them, in words
}

// Bad is how much is wrong.
func (r *Result) Bad() int { return r.Unaccounted + r.Duplicates + r.Disorder + r.Pushes + r.Other }

// Add adds the counts of another run.
func (r *Result) Add(o Result) {
	r.Accepted += o.Accepted
	r.Acked += o.Acked
	r.Expired += o.Expired
	r.Unfinished += o.Unfinished
	r.Unaccounted += o.Unaccounted
	r.Duplicates += o.Duplicates
	r.Disorder += o.Disorder
	r.Pushes += o.Pushes
	r.Other += o.Other
	r.Problems = append(r.Problems, o.Problems...)
}

const problemsKept = 25

func (r *Result) problem(column *int, format string, args ...any) {
	*column++
	if len(r.Problems) < problemsKept {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Store is what the checker reads of the program's store.
type Store interface {
	List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) error
	Timeline(seq delivery.Seq) ([]delivery.Event, error)
	Unfinished(fn func(*delivery.Record) bool) error
	Totals() (delivery.Totals, error)
}

// one is a notification on its way to one device, by the backend's ID.
type one struct{ id, device string }

// had is what a device's ledger says of one.
type had struct {
	copies int
	acked  bool
}

// Check compares the ledgers with a store that nobody writes to any more.
func Check(store Store, e Evidence) (Result, error) {
	var r Result
	received := map[one]*had{}
	for _, c := range e.Connections {
		for _, x := range c.Copies() {
			k := one{x.ID, c.Device}
			h := received[k]
			if h == nil {
				h = &had{}
				received[k] = h
			}
			h.copies++
			h.acked = h.acked || x.Acked
		}
	}

	unfinished := map[delivery.Key]delivery.State{}
	if err := store.Unfinished(func(rec *delivery.Record) bool {
		unfinished[delivery.Key{Seq: rec.Seq, Device: rec.Device}] = rec.State
		return true
	}); err != nil {
		return r, fmt.Errorf("list what is unfinished: %w", err)
	}

	accepted := make(map[string]bool, len(e.Acceptances)) // true: found in the store
	for _, a := range e.Acceptances {
		accepted[a.ID] = false
	}
	r.Accepted = len(accepted)

	order := map[string]delivery.Seq{}
	pushed := map[one]int{} // timeline's word
	finished := 0
	var failed error
	err := store.List("", 0, func(n *delivery.Notification) bool {
		if other, twice := order[n.ID]; twice {
			r.problem(&r.Unaccounted, "%s is in the store twice, as %d and %d", n.ID, other, n.Seq)
		}
		order[n.ID] = n.Seq
		timeline, err := store.Timeline(n.Seq)
		if err != nil {
			failed = fmt.Errorf("read the timeline of %s: %w", n.ID, err)
			return false
		}
		worst := delivery.StateCancelled
		for _, device := range n.Devices {
			state := r.delivery(e, n, device, timeline, unfinished, received[one{n.ID, device}])
			worst = min(worst, state)
			for _, ev := range timeline {
				if ev.Device == device && ev.Kind == delivery.EventPushed {
					pushed[one{n.ID, device}]++
				}
			}
			if _, open := unfinished[delivery.Key{Seq: n.Seq, Device: device}]; !open {
				finished++
			}
		}
		if _, ours := accepted[n.ID]; ours {
			accepted[n.ID] = true
			switch {
			case worst == delivery.StateAcked:
				r.Acked++
			case worst == delivery.StateExpired:
				r.Expired++
			case !worst.Final():
				r.Unfinished++
			}
		}
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return r, fmt.Errorf("read the store: %w", err)
	}
	for id, found := range accepted {
		if !found {
			r.problem(&r.Unaccounted, "%s was accepted and is not in the store", id)
		}
	}
	totals, err := store.Totals()
	if err != nil {
		return r, fmt.Errorf("read the store's own count: %w", err)
	}
	if totals.Accepted != totals.Finished+uint64(len(unfinished)) || totals.Finished != uint64(finished) {
		r.problem(&r.Unaccounted, "the store counts %d deliveries accepted and %d finished; it holds %d finished and lists %d unfinished",
			totals.Accepted, totals.Finished, finished, len(unfinished))
	}

	r.backends(e, order)
	for _, c := range e.Connections {
		r.connection(c, order)
	}
	r.pushes(e, pushed)
	return r, nil
}

// delivery checks one delivery and returns its state.
func (r *Result) delivery(e Evidence, n *delivery.Notification, device string, timeline []delivery.Event, unfinished map[delivery.Key]delivery.State, h *had) delivery.State {
	var own []delivery.Event
	published := 0
	for _, ev := range timeline {
		if ev.Device != device {
			continue
		}
		own = append(own, ev)
		if ev.Kind == delivery.EventPublished || ev.Kind == delivery.EventRedelivered {
			published++
		}
	}
	state := delivery.StateAfter(own, n.Ack)
	record, open := unfinished[delivery.Key{Seq: n.Seq, Device: device}]
	switch {
	case !state.Final() && !open:
		r.problem(&r.Unaccounted, "%s to %s is %s and not listed as unfinished", n.ID, device, state)
	case state.Final() && open && (record != state || !n.HasMessage):
		r.problem(&r.Unaccounted, "%s to %s is %s, and listed as unfinished in state %s", n.ID, device, state, record)
	case !state.Final() && !e.Unfinished:
		r.problem(&r.Unaccounted, "%s to %s has been left in state %s", n.ID, device, state)
	case state == delivery.StateAcked && (h == nil || !h.acked):
		r.problem(&r.Unaccounted, "%s to %s says acked, and the device has not acknowledged it", n.ID, device)
	}
	// A kill can take the last events with it, and with them the trace of a copy on
	// the connection of then: at most one a kill.
	if h != nil && h.copies > published+e.Kills {
		r.problem(&r.Duplicates, "device %s got %d copies of %s, which was published %d times", device, h.copies, n.ID, published)
	}
	return state
}

// backends: what one link was answered for is in the store in that order.
func (r *Result) backends(e Evidence, order map[string]delivery.Seq) {
	type last struct {
		place int
		seq   delivery.Seq
		id    string
	}
	links := map[[2]string]last{}
	for _, a := range e.Acceptances {
		seq, ok := order[a.ID]
		if !ok || a.Again {
			continue
		}
		k := [2]string{a.Link, a.Account}
		if l, ok := links[k]; ok && l.place < a.Place && l.seq > seq {
			r.problem(&r.Disorder, "%s was sent before %s on %s, and accepted after it", l.id, a.ID, a.Link)
		}
		links[k] = last{a.Place, seq, a.ID}
	}
}

// connection checks what a device got on one connection.
func (r *Result) connection(c *Connection, order map[string]delivery.Seq) {
	seen := map[string]bool{}
	var highest delivery.Seq
	var before string
	for _, x := range c.Copies() {
		seq, stored := order[x.ID]
		if !stored {
			r.problem(&r.Unaccounted, "device %s got %s, which is not in the store", c.Device, x.ID)
		}
		if seen[x.ID] {
			if !x.Redelivery {
				r.problem(&r.Duplicates, "device %s got %s again on connection %d, not as a redelivery", c.Device, x.ID, c.Number)
			}
			continue
		}
		seen[x.ID] = true
		if seq < highest {
			r.problem(&r.Disorder, "device %s got %s after %s on connection %d", c.Device, x.ID, before, c.Number)
		} else {
			highest, before = seq, x.ID
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.twice {
		r.problem(&r.Other, "device %s got %s under a packet identifier that was in use", c.Device, id)
	}
	for _, what := range c.unasked {
		r.problem(&r.Other, "device %s: %s", c.Device, what)
	}
	if c.ReceiveMaximum > 0 && c.most > c.ReceiveMaximum {
		r.problem(&r.Other, "device %s had %d packets to acknowledge, its Receive Maximum is %d", c.Device, c.most, c.ReceiveMaximum)
	}
}

// pushes counts what Apple has taken for one delivery. A crash between its answer
// and the record asks again under the same apns-id: that is the same push
// (contract §7.2).
func (r *Result) pushes(e Evidence, timeline map[one]int) {
	taken := map[one]map[string]bool{}
	for _, p := range e.Pushes {
		if p.Status != http.StatusOK && p.Action != apnssim.ActionDrop {
			continue
		}
		k := one{p.CollapseID, e.Devices[p.Token]}
		if taken[k] == nil {
			taken[k] = map[string]bool{}
		}
		if len(taken[k]) > 0 && !taken[k][p.APNsID] {
			r.problem(&r.Pushes, "%s was pushed to %s under another apns-id", p.CollapseID, k.device)
		}
		taken[k][p.APNsID] = true
	}
	for k, n := range timeline {
		if n > 1 {
			r.problem(&r.Pushes, "the timeline of %s to %s has %d accepted pushes", k.id, k.device, n)
		}
		if taken[k] == nil {
			r.problem(&r.Unaccounted, "the timeline of %s says pushed to %s, and Apple's server has not taken it", k.id, k.device)
		}
	}
}

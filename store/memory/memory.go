// Package memory is the engine of the outbox that keeps everything in memory and
// nothing beyond it: for tests and demos. It behaves as a durable engine does up
// to Close, after which all is gone.
//
// One mutex guards the maps; there are no goroutines. It imports delivery and
// outbox and nothing else of ours.
package memory

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// Engine is an store.Engine in memory. See store.Engine for its methods.
type Engine struct {
	mu            sync.RWMutex
	notifications map[delivery.Seq]*entry
	order         []delivery.Seq            // all of them, ascending
	accounts      map[string][]delivery.Seq // likewise, per account
	ids           map[string]delivery.Seq
	records       map[delivery.Key]delivery.Record
	devices       map[string]delivery.Device
	dismissals    map[delivery.Key]delivery.Dismissal
	tokens        map[token]string
	totals        delivery.Totals
	last          uint64
	commits       []commit // by number
	numbered      uint64   // commits so far
	abandoned     bool
}

// commit is the events of one Apply, by Number.
type commit struct {
	number uint64
	at     time.Time // of the newest
	events []delivery.Event
}

type entry struct {
	content  *delivery.Notification
	data     json.RawMessage
	events   []delivery.Event // by Number
	finished time.Time        // the latest of its deliveries
	finishes map[string]delivery.Finish
}

type token struct{ server, token string }

var _ store.Engine = (*Engine)(nil)

// New makes an empty engine.
func New() *Engine {
	return &Engine{
		notifications: map[delivery.Seq]*entry{},
		accounts:      map[string][]delivery.Seq{},
		ids:           map[string]delivery.Seq{},
		records:       map[delivery.Key]delivery.Record{},
		devices:       map[string]delivery.Device{},
		dismissals:    map[delivery.Key]delivery.Dismissal{},
		tokens:        map[token]string{},
	}
}

// Open suits store.Options.Open. It opens an empty store each time.
func Open(bool) (store.Engine, error) { return New(), nil }

// Apply implements store.Engine.
func (e *Engine) Apply(b *delivery.Batch) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.abandoned {
		return fmt.Errorf("memory engine abandoned: %w", store.ErrBroken)
	}
	var c commit
	for i := range b.Accept {
		if n := b.Accept[i].Notification; e.accept(&b.Accept[i]) {
			c.add(delivery.Event{Seq: n.Seq, Number: uint64(n.Seq), Time: n.AcceptedAt, Kind: delivery.EventAccepted})
		}
	}
	for _, k := range b.Assign {
		e.assign(k)
	}
	for _, r := range b.Update {
		k := delivery.Key{Seq: r.Seq, Device: r.Device}
		if _, live := e.records[k]; live {
			e.records[k] = r
		}
	}
	for _, ev := range b.Events {
		if e.event(ev) {
			c.add(ev)
		}
	}
	for _, f := range b.Finish {
		if _, live := e.records[f.Key]; !live {
			continue
		}
		delete(e.records, f.Key)
		e.totals.Finished++
		n := e.notifications[f.Seq]
		if n.finishes == nil {
			n.finishes = map[string]delivery.Finish{}
		}
		n.finishes[f.Device] = f
		if n.finished.IsZero() || f.At.After(n.finished) {
			n.finished = f.At
		}
	}
	for _, d := range b.PutDevices {
		e.putDevice(d)
	}
	for _, k := range b.RemoveDevices {
		if e.devices[k.ID].Account == k.Account {
			e.unlink(k.ID)
			delete(e.devices, k.ID)
		}
	}
	for _, d := range b.PutDismissals {
		e.dismissals[delivery.Key{Seq: d.Seq, Device: d.Device}] = d
		e.last = max(e.last, uint64(d.Seq))
	}
	for _, k := range b.RemoveDismissals {
		delete(e.dismissals, k)
	}
	for _, seq := range b.Erase {
		e.erase(seq)
	}
	e.numbered++
	if c.number = e.numbered; len(c.events) > 0 {
		slices.SortFunc(c.events, func(a, b delivery.Event) int { return cmp.Compare(a.Number, b.Number) })
		e.commits = append(e.commits, c)
	}
	return nil
}

func (c *commit) add(e delivery.Event) {
	c.events = append(c.events, e)
	if e.Time.After(c.at) {
		c.at = e.Time
	}
}

func (e *Engine) assign(k delivery.Key) {
	held := delivery.Key{Seq: k.Seq}
	r, live := e.records[held]
	n := e.notifications[k.Seq]
	if !live || n == nil {
		return
	}
	delete(e.records, held)
	r.Device = k.Device
	e.records[k] = r
	n.content = clone(n.content)
	n.content.Devices[slices.Index(n.content.Devices, "")] = k.Device
}

func (e *Engine) erase(seq delivery.Seq) {
	n := e.notifications[seq]
	if n == nil {
		return
	}
	for _, device := range n.content.Devices {
		k := delivery.Key{Seq: seq, Device: device}
		if _, live := e.records[k]; live {
			delete(e.records, k)
			e.totals.Finished++
		}
	}
	e.remove(n.content)
}

// remove takes a notification out of the indexes.
func (e *Engine) remove(c *delivery.Notification) {
	delete(e.notifications, c.Seq)
	e.order = remove(e.order, c.Seq)
	if e.accounts[c.Account] = remove(e.accounts[c.Account], c.Seq); len(e.accounts[c.Account]) == 0 {
		delete(e.accounts, c.Account)
	}
	if e.ids[c.ID] == c.Seq {
		delete(e.ids, c.ID)
	}
}

func insert(seqs []delivery.Seq, s delivery.Seq) []delivery.Seq {
	i, there := slices.BinarySearch(seqs, s) // nearly always at the end
	if there {
		return seqs
	}
	return slices.Insert(seqs, i, s)
}

func remove(seqs []delivery.Seq, s delivery.Seq) []delivery.Seq {
	i, there := slices.BinarySearch(seqs, s)
	if !there {
		return seqs
	}
	return slices.Delete(seqs, i, i+1)
}

// accept reports whether it is new.
func (e *Engine) accept(a *delivery.Acceptance) bool {
	n := clone(a.Notification)
	if _, there := e.notifications[n.Seq]; there {
		return false
	}
	e.last = max(e.last, uint64(n.Seq))
	en := &entry{content: n, data: slices.Clone(a.Data)}
	e.notifications[n.Seq] = en
	e.order = insert(e.order, n.Seq)
	e.accounts[n.Account] = insert(e.accounts[n.Account], n.Seq)
	e.ids[n.ID] = n.Seq
	if len(n.Devices) == 0 {
		en.finished = n.AcceptedAt
	}
	for _, device := range n.Devices {
		k := delivery.Key{Seq: n.Seq, Device: device}
		if _, twice := e.records[k]; twice {
			continue
		}
		e.records[k] = delivery.NewRecord(n, device)
		e.totals.Accepted++
	}
	return true
}

// event reports whether it is new.
func (e *Engine) event(ev delivery.Event) bool {
	e.last = max(e.last, ev.Number)
	n := e.notifications[ev.Seq]
	if n == nil {
		return false
	}
	i, there := slices.BinarySearchFunc(n.events, ev.Number, func(x delivery.Event, number uint64) int {
		return cmp.Compare(x.Number, number)
	})
	if !there {
		n.events = slices.Insert(n.events, i, ev)
	}
	return !there
}

func (e *Engine) putDevice(d delivery.Device) {
	if stored, there := e.devices[d.ID]; there {
		e.unlink(d.ID)
		d = d.Written(&stored)
	} else {
		d = d.Written(nil)
	}
	for _, r := range d.Registrations {
		if r.Token == "" {
			continue
		}
		t := token{r.Server, r.Token}
		if holder, held := e.tokens[t]; held {
			other := e.devices[holder].Clone()
			other.RemoveRegistrations(func(x *delivery.Registration) bool { return x.Server == r.Server && x.Token == r.Token })
			e.devices[holder] = other
		}
		e.tokens[t] = d.ID
	}
	e.devices[d.ID] = d
}

// unlink frees the tokens that a device holds.
func (e *Engine) unlink(id string) {
	for _, r := range e.devices[id].Registrations {
		if t := (token{r.Server, r.Token}); e.tokens[t] == id {
			delete(e.tokens, t)
		}
	}
}

// Prune implements store.Engine.
func (e *Engine) Prune(finishedBefore time.Time, limit int) (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.abandoned {
		return 0, fmt.Errorf("memory engine abandoned: %w", store.ErrBroken)
	}
	old := slices.IndexFunc(e.commits, func(c commit) bool { return !c.at.Before(finishedBefore) })
	if old < 0 {
		old = len(e.commits)
	}
	e.commits = slices.Delete(e.commits, 0, old)
	for _, seq := range slices.Clone(e.order) {
		if n == limit {
			break
		}
		en := e.notifications[seq]
		if !e.over(en) || !en.finished.Before(finishedBefore) {
			continue
		}
		e.remove(en.content)
		n++
	}
	return n, nil
}

func (e *Engine) over(en *entry) bool {
	return !slices.ContainsFunc(en.content.Devices, func(device string) bool {
		_, live := e.records[delivery.Key{Seq: en.content.Seq, Device: device}]
		return live
	})
}

// Abandon implements store.Engine.
func (e *Engine) Abandon() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.abandoned = true
}

// Close implements store.Engine.
func (e *Engine) Close() error { return nil }

func missing(what string, name any) error {
	return fmt.Errorf("%s %v: %w", what, name, delivery.ErrNotFound)
}

func clone(n *delivery.Notification) *delivery.Notification {
	c := *n
	c.Devices = slices.Clone(n.Devices)
	if n.Badge != nil {
		badge := *n.Badge
		c.Badge = &badge
	}
	return &c
}

// Notification implements delivery.Reader.
func (e *Engine) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if en := e.notifications[seq]; en != nil {
		return clone(en.content), nil
	}
	return nil, missing("notification", seq)
}

// Data implements delivery.Reader.
func (e *Engine) Data(seq delivery.Seq) (json.RawMessage, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if en := e.notifications[seq]; en != nil && en.data != nil {
		return slices.Clone(en.data), nil
	}
	return nil, missing("data of notification", seq)
}

// Lookup implements delivery.Reader.
func (e *Engine) Lookup(id string) (delivery.Seq, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if seq, there := e.ids[id]; there {
		return seq, nil
	}
	return 0, missing("notification", id)
}

// Timeline implements delivery.Reader.
func (e *Engine) Timeline(seq delivery.Seq) ([]delivery.Event, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if en := e.notifications[seq]; en != nil {
		return slices.Clone(en.events), nil
	}
	return nil, missing("notification", seq)
}

// Deliveries implements delivery.Reader.
func (e *Engine) Deliveries(seq delivery.Seq) ([]delivery.DeliveryState, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	en := e.notifications[seq]
	if en == nil {
		return nil, missing("notification", seq)
	}
	out := make([]delivery.DeliveryState, 0, len(en.content.Devices))
	for _, device := range en.content.Devices {
		d := delivery.DeliveryState{Device: device}
		if r, live := e.records[delivery.Key{Seq: seq, Device: device}]; live {
			d.State, d.Attempts, d.Pushed = r.State, r.Attempts, r.PushAccepted
		} else {
			f := en.finishes[device]
			d.State, d.Attempts, d.Pushed = f.State, f.Attempts, f.Pushed
		}
		out = append(out, d)
	}
	return out, nil
}

// EventsFrom implements delivery.Reader.
func (e *Engine) EventsFrom(after delivery.Position, fn func(delivery.Position, string, delivery.Event) bool) error {
	type found struct {
		at      delivery.Position
		account string
		event   delivery.Event
	}
	var all []found
	e.mu.RLock()
	if after.Partition != 0 || after.Commit > e.numbered {
		e.mu.RUnlock()
		return missing("position", after)
	}
	first, _ := slices.BinarySearchFunc(e.commits, after.Commit, func(c commit, n uint64) int { return cmp.Compare(c.number, n) })
	for _, c := range e.commits[first:] {
		for _, ev := range c.events {
			at := delivery.Position{Commit: c.number, Number: ev.Number}
			if n := e.notifications[ev.Seq]; n != nil && after.Less(at) {
				all = append(all, found{at, n.content.Account, ev})
			}
		}
	}
	e.mu.RUnlock() // fn may call back
	for _, f := range all {
		if !fn(f.at, f.account, f.event) {
			break
		}
	}
	return nil
}

// EventsEnd implements delivery.Reader.
func (e *Engine) EventsEnd() (delivery.Place, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return delivery.Place{{Commit: e.numbered, Number: math.MaxUint64}}, nil
}

// EventsSince implements delivery.Reader.
func (e *Engine) EventsSince(t time.Time) (delivery.Place, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	at, err := store.SeekCommit(e.numbered, t, func(from uint64) (uint64, time.Time, bool, error) {
		i, _ := slices.BinarySearchFunc(e.commits, from, func(c commit, n uint64) int { return cmp.Compare(c.number, n) })
		if i == len(e.commits) {
			return 0, time.Time{}, false, nil
		}
		return e.commits[i].number, e.commits[i].at, true, nil
	})
	return delivery.Place{at}, err
}

// List implements delivery.Reader.
func (e *Engine) List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) error {
	e.mu.RLock()
	seqs := e.order
	if account != "" {
		seqs = e.accounts[account]
	}
	if before != 0 {
		i, _ := slices.BinarySearch(seqs, before)
		seqs = seqs[:i]
	}
	list := make([]*delivery.Notification, len(seqs))
	for i, s := range seqs {
		list[len(seqs)-1-i] = e.notifications[s].content
	}
	e.mu.RUnlock() // fn may call back
	for _, n := range list {
		if !fn(clone(n)) {
			break
		}
	}
	return nil
}

// Device implements delivery.Reader.
func (e *Engine) Device(id string) (*delivery.Device, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if d, there := e.devices[id]; there {
		d = d.Clone()
		return &d, nil
	}
	return nil, missing("device", id)
}

// sorted returns the registry entries that match, by ID.
func (e *Engine) sorted(match func(*delivery.Device) bool) []delivery.Device {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var out []delivery.Device
	for d := range maps.Values(e.devices) {
		if match(&d) {
			out = append(out, d.Clone())
		}
	}
	slices.SortFunc(out, func(a, b delivery.Device) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// AccountDevices implements delivery.Reader.
func (e *Engine) AccountDevices(account string) ([]delivery.Device, error) {
	return e.sorted(func(d *delivery.Device) bool { return d.Account == account }), nil
}

// Devices implements delivery.Reader.
func (e *Engine) Devices(after string, fn func(*delivery.Device) bool) error {
	for _, d := range e.sorted(func(d *delivery.Device) bool { return d.ID > after }) {
		if !fn(&d) {
			break
		}
	}
	return nil
}

// TokenOwner implements delivery.Reader.
func (e *Engine) TokenOwner(server, tok string) (string, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if id, there := e.tokens[token{server, tok}]; there {
		return id, nil
	}
	return "", missing("holder of a push token of", server)
}

// Unfinished implements delivery.Reader.
func (e *Engine) Unfinished(of delivery.Shard, fn func(*delivery.Record) bool) error {
	e.mu.RLock()
	all := slices.Collect(maps.Values(e.records))
	e.mu.RUnlock()
	slices.SortFunc(all, func(a, b delivery.Record) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Seq, b.Seq))
	})
	for i := range all {
		if of.Holds(uint64(all[i].Seq)) && !fn(&all[i]) {
			break
		}
	}
	return nil
}

// Dismissals implements delivery.Reader.
func (e *Engine) Dismissals(of delivery.Shard, fn func(*delivery.Dismissal) bool) error {
	e.mu.RLock()
	all := slices.Collect(maps.Values(e.dismissals))
	e.mu.RUnlock()
	slices.SortFunc(all, func(a, b delivery.Dismissal) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Seq, b.Seq))
	})
	for i := range all {
		if of.Holds(uint64(all[i].Seq)) && !fn(&all[i]) {
			break
		}
	}
	return nil
}

// LastSeq implements delivery.Reader: the last of the store is above that of every
// shard.
func (e *Engine) LastSeq(delivery.Shard) (uint64, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.last, nil
}

// Totals implements delivery.Reader.
func (e *Engine) Totals() (delivery.Totals, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.totals, nil
}

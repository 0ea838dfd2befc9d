package storetest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// model is what an engine does, told in the simplest way: lists that are searched
// from end to end.
type model struct {
	notes   []*note // by Seq
	live    map[delivery.Key]delivery.Record
	ids     map[string]delivery.Seq // the latest to come with the ID
	devices map[string]delivery.Device
	totals  delivery.Totals
	last    uint64
	streams []stream // of events: one of each engine that writes

	freshIDs bool // no two notifications have one
}

// stream is the commits of one engine.
type stream struct {
	commits [][]delivery.Event // each by Number
	old     int                // so many of them may be forgotten
}

type note struct {
	delivery.Acceptance
	events   []delivery.Event
	finals   map[string]delivery.Finish
	finished time.Time
}

// newModel is empty, and written by so many engines.
func newModel(engines int) *model {
	return &model{
		live: map[delivery.Key]delivery.Record{}, ids: map[string]delivery.Seq{}, devices: map[string]delivery.Device{},
		streams: make([]stream, engines),
	}
}

// clone returns a copy that shares nothing that apply, remove or forget changes.
func (m *model) clone() *model {
	c := *m
	c.notes = make([]*note, len(m.notes))
	for i, n := range m.notes {
		k, content := *n, *n.Notification
		content.Devices = slices.Clone(content.Devices)
		k.Notification, k.events, k.finals = &content, slices.Clone(n.events), maps.Clone(n.finals)
		c.notes[i] = &k
	}
	c.live, c.ids, c.devices, c.streams = maps.Clone(m.live), maps.Clone(m.ids), maps.Clone(m.devices), slices.Clone(m.streams)
	for i := range c.streams {
		c.streams[i].commits = slices.Clone(c.streams[i].commits)
	}
	return &c
}

func (m *model) note(seq delivery.Seq) *note {
	for _, n := range m.notes {
		if n.Notification.Seq == seq {
			return n
		}
	}
	return nil
}

// apply has an engine apply a batch.
func (m *model) apply(engine int, b *delivery.Batch) {
	var commit []delivery.Event
	for _, a := range b.Accept {
		n := a.Notification
		if m.note(n.Seq) != nil {
			continue
		}
		m.last = max(m.last, uint64(n.Seq))
		m.ids[n.ID] = n.Seq
		c := *n // Assign changes it
		c.Devices = slices.Clone(n.Devices)
		a.Notification = &c
		commit = append(commit, acceptedEvent(n))
		m.notes = append(m.notes, &note{Acceptance: a, finished: n.AcceptedAt, finals: map[string]delivery.Finish{}})
		slices.SortFunc(m.notes, func(a, b *note) int { return cmp.Compare(a.Notification.Seq, b.Notification.Seq) })
		for _, d := range n.Devices {
			m.live[delivery.Key{Seq: n.Seq, Device: d}] = pending(n, d)
			m.totals.Accepted++
		}
	}
	for _, k := range b.Assign {
		held := delivery.Key{Seq: k.Seq}
		if r, live := m.live[held]; live {
			r.Device = k.Device
			m.live[k] = r
			delete(m.live, held)
			n := m.note(k.Seq).Notification
			n.Devices[slices.Index(n.Devices, "")] = k.Device
		}
	}
	for _, r := range b.Update {
		if k := (delivery.Key{Seq: r.Seq, Device: r.Device}); m.isLive(k) {
			m.live[k] = r
		}
	}
	for _, e := range b.Events {
		m.last = max(m.last, e.Number)
		if n := m.note(e.Seq); n != nil && !slices.Contains(n.events, e) {
			n.events = append(n.events, e)
			commit = append(commit, e)
			slices.SortFunc(n.events, func(a, b delivery.Event) int { return cmp.Compare(a.Number, b.Number) })
		}
	}
	for _, f := range b.Finish {
		if m.isLive(f.Key) {
			delete(m.live, f.Key)
			m.totals.Finished++
			n := m.note(f.Seq)
			n.finals[f.Device] = f
			if n.finished.Equal(n.Notification.AcceptedAt) || f.At.After(n.finished) {
				n.finished = f.At
			}
		}
	}
	for _, d := range b.PutDevices {
		stored, there := m.devices[d.ID]
		if there && stored.Account != d.Account {
			continue
		}
		if len(d.Registrations) > 0 {
			if token := d.Registrations[0].Token; d.Registrations[0].Claims || len(stored.Registrations) > 0 && stored.Registrations[0].Token == token {
				d.Registrations = push(token)
			} else {
				d.Registrations = nil
			}
		}
		for id, other := range m.devices {
			if len(d.Registrations) > 0 && len(other.Registrations) > 0 && other.Registrations[0].Token == d.Registrations[0].Token {
				other.Registrations = nil
				m.devices[id] = other
			}
		}
		m.devices[d.ID] = d
	}
	for _, k := range b.RemoveDevices {
		if m.devices[k.ID].Account == k.Account {
			delete(m.devices, k.ID)
		}
	}
	for _, seq := range b.Erase {
		maps.DeleteFunc(m.live, func(k delivery.Key, _ delivery.Record) bool {
			if k.Seq == seq {
				m.totals.Finished++
			}
			return k.Seq == seq
		})
		m.remove(seq)
	}
	slices.SortFunc(commit, func(a, b delivery.Event) int { return cmp.Compare(a.Number, b.Number) })
	of := &m.streams[engine]
	of.commits = append(of.commits, commit)
}

// taken returns the IDs of a batch that belong to other notifications, sorted.
func (m *model) taken(b *delivery.Batch) (ids []string) {
	of := maps.Clone(m.ids)
	for _, a := range b.Accept {
		n := a.Notification
		if seq, there := of[n.ID]; there && seq != n.Seq {
			ids = append(ids, n.ID)
		} else if !there {
			of[n.ID] = n.Seq
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// remove takes a notification out.
func (m *model) remove(seq delivery.Seq) {
	maps.DeleteFunc(m.ids, func(_ string, s delivery.Seq) bool { return s == seq })
	m.notes = slices.DeleteFunc(m.notes, func(x *note) bool { return x.Notification.Seq == seq })
}

// forget notes that the oldest commits may be forgotten, as long as all their events
// are from before.
func (m *model) forget(before time.Time) {
	for i := range m.streams {
		s := &m.streams[i]
		for s.old < len(s.commits) && !slices.ContainsFunc(s.commits[s.old], func(e delivery.Event) bool { return !e.Time.Before(before) }) {
			s.old++
		}
	}
}

// checkEvents compares what EventsFrom shows of an engine's events with the model: all, but
// for the oldest commits, of which any number that may be forgotten can be gone.
func (m *model) checkEvents(t tb, engine int, got []positioned) {
	t.Helper()
	s := &m.streams[engine]
	var shown []string
	for _, p := range got {
		shown = append(shown, p.Account+" "+show(p.Event))
	}
	var closest []string
	for gone := range s.old + 1 {
		var want []string
		for _, c := range s.commits[gone:] {
			for _, e := range c {
				if n := m.note(e.Seq); n != nil {
					want = append(want, n.Notification.Account+" "+show(e))
				}
			}
		}
		if slices.Equal(shown, want) {
			return
		}
		if gone == 0 {
			closest = want
		}
	}
	t.Fatalf("events are\n%s\nand in the model, where %d commits may be forgotten,\n%s", indent(shown), s.old, indent(closest))
}

func (m *model) deliveries(n *note) string {
	out := []delivery.DeliveryState{}
	for _, device := range n.Notification.Devices {
		f := n.finals[device]
		d := delivery.DeliveryState{Device: device, State: f.State, Attempts: f.Attempts, Pushed: f.Pushed}
		if r, live := m.live[delivery.Key{Seq: n.Notification.Seq, Device: device}]; live {
			d.State, d.Attempts, d.Pushed = r.State, r.Attempts, r.PushAccepted
		}
		out = append(out, d)
	}
	return show(out)
}

func (m *model) isLive(k delivery.Key) bool { _, ok := m.live[k]; return ok }

// prunable returns the notifications that Prune may remove.
func (m *model) prunable(before time.Time) (seqs []delivery.Seq) {
	for _, n := range m.notes {
		over := !slices.ContainsFunc(n.Notification.Devices, func(d string) bool {
			return m.isLive(delivery.Key{Seq: n.Notification.Seq, Device: d})
		})
		if over && n.finished.Before(before) {
			seqs = append(seqs, n.Notification.Seq)
		}
	}
	return seqs
}

// picture is all that can be read from a store.
type picture struct {
	Notes    []string // newest first, with data and timeline
	Lists    map[string][]delivery.Seq
	IDs      map[string]delivery.Seq
	Records  []delivery.Record
	Registry []delivery.Device
	Accounts map[string][]string
	Owners   map[string]string
	Totals   delivery.Totals
	Last     uint64
}

var (
	modelAccounts = []string{"a", "ab", "b"}
	modelDevices  = []string{"d", "d1", "d10", "e"}
	modelTokens   = []string{"00", "01"}
	modelIDs      = []string{"i0", "i1", "i2", "i3", "i4", "i5", "i6"}
)

func (m *model) picture() picture {
	p := picture{
		Notes: []string{}, Lists: map[string][]delivery.Seq{}, IDs: map[string]delivery.Seq{}, Records: []delivery.Record{},
		Registry: []delivery.Device{}, Accounts: map[string][]string{}, Owners: map[string]string{}, Totals: m.totals, Last: m.last,
	}
	for _, id := range modelIDs {
		if seq, there := m.ids[id]; there {
			p.IDs[id] = seq
		}
	}
	for _, n := range slices.Backward(m.notes) {
		c := n.Notification
		p.Notes = append(p.Notes, show(c)+string(n.Data)+fmt.Sprint(n.events)+m.deliveries(n))
		p.Lists[c.Account] = append(p.Lists[c.Account], c.Seq)
	}
	p.Records = slices.AppendSeq(p.Records, maps.Values(m.live))
	slices.SortFunc(p.Records, func(a, b delivery.Record) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Seq, b.Seq))
	})
	for _, id := range slices.Sorted(maps.Keys(m.devices)) {
		d := m.devices[id]
		p.Registry = append(p.Registry, d)
		p.Accounts[d.Account] = append(p.Accounts[d.Account], id)
		if len(d.Registrations) > 0 {
			p.Owners[d.Registrations[0].Token] = id
		}
	}
	return p
}

// look reads everything from an engine, each thing by each way that leads to it.
func look(t rapid.TB, e delivery.Reader) picture {
	p := picture{
		Notes: []string{}, Lists: map[string][]delivery.Seq{}, IDs: map[string]delivery.Seq{}, Records: []delivery.Record{},
		Registry: []delivery.Device{}, Accounts: map[string][]string{}, Owners: map[string]string{},
	}
	ok := func(err error) {
		if err != nil {
			t.Fatalf("read: %v", err)
		}
	}
	found := func(err error) bool {
		if errors.Is(err, delivery.ErrNotFound) {
			return false
		}
		ok(err)
		return true
	}
	ok(e.List("", 0, func(n *delivery.Notification) bool {
		same, err := e.Notification(n.Seq)
		ok(err)
		if show(same) != show(n) {
			t.Fatalf("listed %s, read %s", show(n), show(same))
		}
		data, err := e.Data(n.Seq)
		if found(err) != n.HasMessage {
			t.Fatalf("notification %d: has a message: %v, and its data: %v", n.Seq, n.HasMessage, err)
		}
		events, err := e.Timeline(n.Seq)
		ok(err)
		deliveries, err := e.Deliveries(n.Seq)
		ok(err)
		p.Notes = append(p.Notes, show(n)+string(data)+fmt.Sprint(events)+show(deliveries))
		return true
	}))
	for _, a := range modelAccounts {
		ok(e.List(a, 0, func(n *delivery.Notification) bool { p.Lists[a] = append(p.Lists[a], n.Seq); return true }))
		devices, err := e.AccountDevices(a)
		ok(err)
		for _, d := range devices {
			p.Accounts[a] = append(p.Accounts[a], d.ID)
		}
	}
	for _, id := range modelIDs {
		if seq, err := e.Lookup(id); found(err) {
			p.IDs[id] = seq
		}
	}
	for _, tok := range modelTokens {
		if id, err := e.TokenOwner(delivery.ServerAPNs, tok); found(err) {
			p.Owners[tok] = id
		}
	}
	ok(e.Devices("", func(d *delivery.Device) bool {
		same, err := e.Device(d.ID)
		ok(err)
		if show(same) != show(d) {
			t.Fatalf("listed device %s, read %s", show(d), show(same))
		}
		p.Registry = append(p.Registry, *d)
		return true
	}))
	ok(e.Unfinished(delivery.Shard{}, func(r *delivery.Record) bool { p.Records = append(p.Records, *r); return true }))
	var err error
	p.Totals, err = e.Totals()
	ok(err)
	p.Last, err = e.LastSeq(delivery.Shard{})
	ok(err)
	return p
}

// writer is what the batches of one engine are about.
type writer struct {
	next     func() uint64           // a Seq or Number that is above all before
	owns     func(delivery.Seq) bool // which notifications; nil: all
	accounts []string
	ids      []string // that notifications are given
	devices  []string // that are registered
	tokens   []string
}

// onlyWriter is that of an engine with a store of its own.
func onlyWriter() *writer {
	last := uint64(10)
	return &writer{
		next: func() uint64 { last++; return last }, accounts: modelAccounts,
		ids: modelIDs, devices: modelDevices, tokens: modelTokens,
	}
}

// drawBatch makes a batch of changes to the writer's entries of the model and a few others.
func drawBatch(t *rapid.T, m *model, w *writer) *delivery.Batch {
	b := &delivery.Batch{Sync: rapid.Bool().Draw(t, "sync")}
	some := func(what string) int { return rapid.SampledFrom([]int{0, 0, 1, 1, 2, 3}).Draw(t, what) }
	when := func() time.Time { return at(time.Duration(rapid.IntRange(1, 9).Draw(t, "time"))) }
	device := func() string { return rapid.SampledFrom(modelDevices).Draw(t, "device") }
	known := func() string { return rapid.SampledFrom(w.devices).Draw(t, "known device") }
	seqs := []delivery.Seq{1 << 40} // one that is never accepted
	for _, n := range m.notes {
		if w.owns == nil || w.owns(n.Notification.Seq) {
			seqs = append(seqs, n.Notification.Seq)
		}
	}
	seq := func() delivery.Seq { return rapid.SampledFrom(seqs).Draw(t, "seq") }
	for range some("accepts") {
		if s := seq(); m.note(s) != nil && rapid.IntRange(0, 3).Draw(t, "again") == 0 {
			b.Accept = append(b.Accept, m.note(s).Acceptance)
			continue
		}
		next := w.next()
		id := rapid.SampledFrom(w.ids).Draw(t, "id")
		if m.freshIDs && (m.ids[id] != 0 || slices.ContainsFunc(b.Accept, func(a delivery.Acceptance) bool { return a.Notification.ID == id })) {
			id = fmt.Sprintf("u%d", next)
		}
		n := notification(delivery.Seq(next), id, rapid.SampledFrom(w.accounts).Draw(t, "account"))
		n.Devices = rapid.SliceOfNDistinct(rapid.SampledFrom(modelDevices), 0, 3, rapid.ID).Draw(t, "devices")
		n.AcceptedAt = at(0)
		switch {
		case len(n.Devices) == 0 && rapid.Bool().Draw(t, "held"):
			n.Devices = []string{""}
		case len(n.Devices) == 0:
			n.Devices = nil
		}
		a := acceptance(n)
		if n.HasMessage = rapid.Bool().Draw(t, "message"); n.HasMessage {
			a.Data = json.RawMessage(fmt.Sprintf(`{"of":%d}`, n.Seq))
		}
		b.Accept = append(b.Accept, a)
		seqs = append(seqs, n.Seq)
	}
	for range some("assigns") / 2 {
		b.Assign = append(b.Assign, delivery.Key{Seq: seq(), Device: device()})
	}
	for range some("updates") {
		b.Update = append(b.Update, delivery.Record{
			Seq: seq(), Device: device(), State: delivery.State(rapid.IntRange(1, 5).Draw(t, "state")),
			Attempts: rapid.IntRange(0, 300).Draw(t, "attempts"), Deadline: when(),
		})
	}
	for range some("events") {
		b.Events = append(b.Events, delivery.Event{Seq: seq(), Number: w.next(), Time: when(), Kind: delivery.EventPublished, Device: device()})
	}
	for range some("finishes") {
		b.Finish = append(b.Finish, delivery.Finish{
			Key: delivery.Key{Seq: seq(), Device: device()}, At: when(),
			State: delivery.StateAcked, Attempts: rapid.IntRange(0, 2).Draw(t, "attempts"), Pushed: rapid.Bool().Draw(t, "pushed"),
		})
	}
	for range some("devices") {
		d := delivery.Device{ID: known(), Account: rapid.SampledFrom(w.accounts).Draw(t, "account"), SeenAt: when()}
		if rapid.Bool().Draw(t, "pushes") {
			d.Registrations = push(rapid.SampledFrom(w.tokens).Draw(t, "token"))
			d.Registrations[0].Claims = rapid.Bool().Draw(t, "claims")
		}
		b.PutDevices = append(b.PutDevices, d)
	}
	for range some("removals") / 2 {
		k := delivery.DeviceKey{ID: known(), Account: rapid.SampledFrom(w.accounts).Draw(t, "account")}
		if !slices.ContainsFunc(b.PutDevices, func(d delivery.Device) bool { return d.ID == k.ID }) {
			b.RemoveDevices = append(b.RemoveDevices, k)
		}
	}
	for range some("erasures") / 3 {
		if s := seq(); !slices.ContainsFunc(b.Accept, func(a delivery.Acceptance) bool { return a.Notification.Seq == s }) {
			b.Erase = append(b.Erase, s)
		}
	}
	return b
}

// runModel applies random batches to an engine and to the model, and looks at both
// now and then. reopen closes the engine and opens its store again; nil: it cannot.
func runModel(t *testing.T, open func(t *testing.T) store.Engine, reopen func(store.Engine) store.Engine, traits []Trait) {
	rapid.Check(t, func(rt *rapid.T) {
		e := open(t)
		defer func() {
			if err := e.Close(); err != nil {
				rt.Errorf("close: %v", err)
			}
		}()
		m, w := newModel(1), onlyWriter()
		defer func() { checkSame(rt, e, m) }()
		rt.Repeat(map[string]func(*rapid.T){
			"look": func(rt *rapid.T) { checkSame(rt, e, m) },
			"apply": func(rt *rapid.T) {
				applyBatch(rt, e, m, 0, drawBatch(rt, m, w), slices.Contains(traits, UniqueIDs))
			},
			"prune": func(rt *rapid.T) { pruneSome(rt, e, m) },
			"reopen": func(rt *rapid.T) {
				if reopen == nil {
					rt.Skip("not durable")
				}
				if rapid.IntRange(0, 9).Draw(rt, "now") == 0 { // it takes the most time by far
					e = reopen(e)
				}
			},
		})
	})
}

// checkSame compares all that an engine reads with the model.
func checkSame(rt *rapid.T, e store.Engine, m *model) {
	got, want := look(rt, e), m.picture()
	if g, w := show(got), show(want); g != w {
		rt.Fatalf("the store has\n%s\nand the model\n%s", indent(got), indent(want))
	}
	for i := range m.streams {
		m.checkEvents(rt, i, eventsFrom(rt, e, delivery.Position{Partition: uint32(i)}))
	}
}

// applyBatch has an engine and the model apply a batch, or the rest of it without the
// IDs that are taken, once or twice.
func applyBatch(rt *rapid.T, e store.Engine, m *model, engine int, b *delivery.Batch, uniqueIDs bool) {
	if ids := m.taken(b); uniqueIDs && len(ids) > 0 {
		var taken *store.Taken
		if err := e.Apply(b); !errors.As(err, &taken) || !slices.Equal(taken.IDs, ids) {
			rt.Fatalf("apply: got error %v, want that %q are taken", err, ids)
		}
		checkSame(rt, e, m)
		b.Accept = slices.DeleteFunc(b.Accept, func(a delivery.Acceptance) bool { return slices.Contains(ids, a.Notification.ID) })
	}
	m.apply(engine, b)
	for range rapid.IntRange(1, 2).Draw(rt, "times") {
		if err := e.Apply(b); err != nil {
			rt.Fatalf("apply: %v", err)
		}
	}
}

// pruneSome has an engine prune, and the model what the engine has chosen.
func pruneSome(rt *rapid.T, e store.Engine, m *model) {
	before := at(time.Duration(rapid.IntRange(0, 10).Draw(rt, "before")))
	limit := rapid.SampledFrom([]int{1, 3, 1000}).Draw(rt, "limit")
	may := m.prunable(before)
	n, err := e.Prune(before, limit)
	if err != nil || n != min(limit, len(may)) {
		rt.Fatalf("pruned %d of %d, at most %d (error %v)", n, len(may), limit, err)
	}
	m.forget(before)
	for _, seq := range may {
		if _, err := e.Notification(seq); errors.Is(err, delivery.ErrNotFound) {
			m.remove(seq)
			n--
		}
	}
	if n != 0 {
		rt.Fatalf("%d more are gone, or fewer, than it said", n)
	}
}

func indent(v any) string {
	var b bytes.Buffer
	_ = json.Indent(&b, []byte(show(v)), "", " ")
	return b.String()
}

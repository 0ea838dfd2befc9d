package pgstore

import (
	"cmp"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// plan is a batch as its statements want it: in columns, and every key once, because a
// set statement that names a row twice takes any one of the two, or fails.
type plan struct {
	sync     bool
	accepted int
	finished int    // of what the batch itself accepts
	highest  uint64 // number

	ids    columns[struct{}] // of accepted notifications that do not tell their Seq
	notes  noteColumns
	out    keyColumns
	finals finalColumns

	assign  []delivery.Key
	updates keyColumns
	events  eventColumns
	finish  finalColumns

	putDevices    []delivery.Device
	removeDevices []delivery.DeviceKey

	dismiss   keyColumns
	undismiss keyColumns

	erase []delivery.Seq

	refs []codec.Ref
	at   time.Time // of the newest event
}

type columns[T any] struct {
	name [][]byte
	seq  []int64
}

type noteColumns struct {
	seq                    []int64
	account, content, data [][]byte
}

type keyColumns struct {
	part   []int16
	device [][]byte
	seq    []int64
	value  [][]byte
}

func (c *keyColumns) add(k delivery.Key, value []byte) {
	c.part = append(c.part, part(uint64(k.Seq)))
	c.device = append(c.device, []byte(k.Device))
	c.seq = append(c.seq, int64(k.Seq))
	c.value = append(c.value, value)
}

type finalColumns struct {
	keyColumns
	at []int64
}

func (c *finalColumns) addFinish(f *delivery.Finish) {
	c.add(f.Key, codec.AppendFinish(nil, f))
	c.at = append(c.at, f.At.UnixNano())
}

type eventColumns struct {
	seq, number []int64
	lines       [][]byte
}

func part(number uint64) int16 { return int16(number % parts) }

// tellsSeq reports whether the ID of n leads to it without an entry in the index.
func tellsSeq(n *delivery.Notification) bool {
	seq, ok := delivery.SeqOf(n.ID)
	return ok && seq == n.Seq
}

// newPlan lays out b. known are the notifications of b.Accept, and the events, that the
// store has.
func newPlan(b *delivery.Batch, knownNotes map[delivery.Seq]bool, knownEvents map[eventKey]bool) *plan {
	p := &plan{sync: b.Sync, assign: b.Assign, putDevices: b.PutDevices, removeDevices: b.RemoveDevices, erase: b.Erase}
	finishing := make(map[delivery.Key]bool, len(b.Finish))
	for i := range b.Finish {
		finishing[b.Finish[i].Key] = true
	}
	live := p.accept(b, knownNotes)
	var updates map[delivery.Key]int
	for i := range b.Update {
		r := &b.Update[i]
		k := delivery.Key{Seq: r.Seq, Device: r.Device}
		value := codec.AppendRecord(nil, r)
		if at, ours := live[k]; ours {
			p.out.value[at] = value
			continue
		}
		if finishing[k] { // nobody will read it
			continue
		}
		if at, twice := updates[k]; twice {
			p.updates.value[at] = value
			continue
		}
		if updates == nil {
			updates = map[delivery.Key]int{}
		}
		updates[k] = len(p.updates.seq)
		p.updates.add(k, value)
	}
	p.addEvents(b.Events, knownEvents)
	ended := map[int]bool{}
	for i := range b.Finish {
		f := &b.Finish[i]
		if !finishing[f.Key] { // a delivery has one end
			continue
		}
		finishing[f.Key] = false
		if at, ours := live[f.Key]; ours {
			ended[at] = true
			p.finished++
			p.finals.addFinish(f)
			continue
		}
		p.finish.addFinish(f)
	}
	p.out.drop(ended)
	p.dismissals(b)
	slices.SortFunc(p.refs, func(x, y codec.Ref) int {
		return cmp.Or(cmp.Compare(x.Seq, y.Seq), cmp.Compare(x.Number, y.Number))
	})
	return p
}

// accept returns where in p.out the Records of the accepted deliveries are.
func (p *plan) accept(b *delivery.Batch, known map[delivery.Seq]bool) (live map[delivery.Key]int) {
	accept := b.Accept
	live = make(map[delivery.Key]int, len(accept))
	seen := make(map[delivery.Seq]bool, len(accept))
	for i := range accept {
		n := assigned(accept[i].Notification, b.Assign)
		p.highest = max(p.highest, uint64(n.Seq))
		if known[n.Seq] || seen[n.Seq] {
			continue
		}
		seen[n.Seq] = true
		p.notes.seq = append(p.notes.seq, int64(n.Seq))
		p.notes.account = append(p.notes.account, []byte(n.Account))
		p.notes.content = append(p.notes.content, codec.AppendNotification(nil, n))
		p.notes.data = append(p.notes.data, accept[i].Data)
		if !tellsSeq(n) {
			p.ids.name = append(p.ids.name, []byte(n.ID))
			p.ids.seq = append(p.ids.seq, int64(n.Seq))
		}
		p.stores(codec.Ref{Seq: n.Seq}, n.AcceptedAt)
		if len(n.Devices) == 0 { // finished from the start, or it would never be pruned
			p.finals.add(delivery.Key{Seq: n.Seq}, []byte{})
			p.finals.at = append(p.finals.at, n.AcceptedAt.UnixNano())
		}
		for _, device := range n.Devices {
			k := delivery.Key{Seq: n.Seq, Device: device}
			if _, twice := live[k]; twice {
				continue
			}
			r := delivery.NewRecord(n, device)
			live[k] = len(p.out.seq)
			p.out.add(k, codec.AppendRecord(nil, &r))
			p.accepted++
		}
	}
	return live
}

// assigned returns n as the batch that accepts it leaves it: with the device that it
// assigns.
func assigned(n *delivery.Notification, assign []delivery.Key) *delivery.Notification {
	for _, k := range assign {
		if at := slices.Index(n.Devices, ""); k.Seq == n.Seq && at >= 0 {
			c := *n
			c.Devices = slices.Clone(n.Devices)
			c.Devices[at] = k.Device
			return &c
		}
	}
	return n
}

// stores notes where events of the batch are, and their time.
func (p *plan) stores(r codec.Ref, at time.Time) {
	p.refs = append(p.refs, r)
	if at.After(p.at) {
		p.at = at
	}
}

// drop removes rows.
func (c *keyColumns) drop(at map[int]bool) {
	if len(at) == 0 {
		return
	}
	var kept keyColumns
	for i := range c.seq {
		if !at[i] {
			kept.part, kept.device = append(kept.part, c.part[i]), append(kept.device, c.device[i])
			kept.seq, kept.value = append(kept.seq, c.seq[i]), append(kept.value, c.value[i])
		}
	}
	*c = kept
}

type eventKey struct {
	seq    delivery.Seq
	number uint64
}

// addEvents makes one row of all events of a notification.
func (p *plan) addEvents(events []delivery.Event, known map[eventKey]bool) {
	order := make([]*delivery.Event, 0, len(events))
	for i := range events {
		p.highest = max(p.highest, events[i].Number)
		if !known[eventKey{events[i].Seq, events[i].Number}] {
			order = append(order, &events[i])
		}
	}
	slices.SortFunc(order, func(x, y *delivery.Event) int {
		return cmp.Or(cmp.Compare(x.Seq, y.Seq), cmp.Compare(x.Number, y.Number))
	})
	order = slices.CompactFunc(order, func(x, y *delivery.Event) bool { return x.Seq == y.Seq && x.Number == y.Number })
	var scratch []byte
	for len(order) > 0 {
		var lines []byte
		var latest time.Time
		n := 0
		for ; n < len(order) && order[n].Seq == order[0].Seq; n++ {
			lines, scratch = codec.AppendEvent(lines, scratch, order[n])
			if order[n].Time.After(latest) {
				latest = order[n].Time
			}
		}
		p.events.seq = append(p.events.seq, int64(order[0].Seq))
		p.events.number = append(p.events.number, int64(order[0].Number))
		p.events.lines = append(p.events.lines, lines)
		p.stores(codec.Ref{Seq: order[0].Seq, Number: order[0].Number}, latest)
		order = order[n:]
	}
}

func (p *plan) dismissals(b *delivery.Batch) {
	var at map[delivery.Key]int
	for i := range b.PutDismissals {
		d := &b.PutDismissals[i]
		k := delivery.Key{Seq: d.Seq, Device: d.Device}
		p.highest = max(p.highest, uint64(d.Seq))
		value := codec.AppendDismissal(nil, d)
		if i, twice := at[k]; twice {
			p.dismiss.value[i] = value
			continue
		}
		if at == nil {
			at = map[delivery.Key]int{}
		}
		at[k] = len(p.dismiss.seq)
		p.dismiss.add(k, value)
	}
	for _, k := range b.RemoveDismissals {
		p.undismiss.add(k, nil)
	}
}

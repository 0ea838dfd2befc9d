package pgstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// tries is how often a write is begun again that lost against one of another node.
const tries = 5

// Apply implements store.Engine. Most batches are one round trip: all statements behind
// one another and one Sync, which makes them one transaction. A batch that changes what
// it has to read first, such as the registry, is a transaction of two.
func (e *Engine) Apply(b *delivery.Batch) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.broken(); err != nil {
		return err
	}
	if err := e.awake(); err != nil {
		return e.fail(err)
	}
	for try := 1; ; try++ {
		err := e.apply(b)
		if err == nil && e.local.Load() { // the next session waits for the standby
			err = errLocal
		}
		if err == nil {
			e.used = now()
			return nil
		}
		switch c := code(err); {
		case (c == codeDeadlock || c == codeSerialization || errors.Is(err, errVanished)) && try < tries: // nothing has taken effect
			continue
		case c == codeUnique && try < tries && len(b.Accept) > 0:
			taken, err := e.taken(b)
			if err != nil {
				return e.fail(err)
			}
			if len(taken) > 0 {
				return &store.Taken{IDs: taken}
			}
			continue // the ID has become free: its notification is gone
		}
		if taken, ok := errors.AsType[*store.Taken](err); ok {
			return taken
		}
		return e.fail(err)
	}
}

// restingAfter is how long the lane may be unused before it is looked at.
const restingAfter = time.Second

// awake asks a lane that has rested for an answer, before anything is sent whose outcome
// would be unknown: the database may have died meanwhile.
func (e *Engine) awake() error {
	if now().Sub(e.used) < restingAfter {
		return nil
	}
	if err := e.conn.Ping(context.Background()); err != nil { // Abandon ends it
		return fmt.Errorf("%w: %w", store.ErrUnsent, err)
	}
	return nil
}

// apply tries once.
func (e *Engine) apply(b *delivery.Batch) error {
	ctx := context.Background() // Abandon ends it, by the connection
	knownNotes, knownEvents, err := e.known(ctx, b)
	if err != nil {
		return err
	}
	p := newPlan(b, knownNotes, knownEvents)
	if err := e.db.haveDays(ctx, e.conn, p.notes.seq); err != nil {
		return err
	}
	number := e.number
	if len(p.refs) > 0 {
		number++
	}
	if len(p.putDevices) > 0 || len(p.removeDevices) > 0 || len(p.assign) > 0 || len(p.erase) > 0 {
		err = e.inTwo(ctx, p, number)
	} else {
		q := e.begun(p)
		e.changes(q, p)
		e.ending(q, p, number)
		err = e.conn.SendBatch(ctx, q).Close()
	}
	if err != nil {
		return err
	}
	e.number = number
	e.unsynced = e.unsynced && !p.sync || !p.sync
	for i := range b.Accept {
		saw(&e.lastSeq, uint64(b.Accept[i].Notification.Seq))
	}
	for i := range b.Events {
		saw(&e.lastEvent, b.Events[i].Number)
	}
	return nil
}

func saw(last *[parts]uint64, number uint64) {
	l := &last[part(number)]
	*l = max(*l, number)
}

// known finds what the store may have of a batch. It reads only where a number is not
// above all of its kind and partition: where an outbox applies again what an engine before this
// one may have taken, or where two numbers came in the other order.
func (e *Engine) known(ctx context.Context, b *delivery.Batch) (notes map[delivery.Seq]bool, events map[eventKey]bool, err error) {
	var suspects, timelines []int64
	given := map[delivery.Seq]string{} // IDs that look like ours, by the Seq they tell
	for i := range b.Accept {
		n := b.Accept[i].Notification
		if uint64(n.Seq) <= e.lastSeq[part(uint64(n.Seq))] {
			suspects = append(suspects, int64(n.Seq))
		}
		if seq, ok := delivery.SeqOf(n.ID); ok && seq != n.Seq {
			given[seq] = n.ID
		}
	}
	for i := range b.Events {
		if n := b.Events[i].Number; n <= e.lastEvent[part(n)] {
			timelines = append(timelines, int64(b.Events[i].Seq))
		}
	}
	if len(suspects) > 0 {
		rows, _ := e.conn.Query(ctx, e.db.sql.known, suspects)
		seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return nil, nil, err
		}
		notes = map[delivery.Seq]bool{}
		for _, s := range seqs {
			notes[delivery.Seq(s)] = true
		}
	}
	if len(timelines) > 0 {
		events = map[eventKey]bool{}
		rows, err := e.conn.Query(ctx, e.db.sql.knownEvents, timelines)
		if err != nil {
			return nil, nil, err
		}
		var seq int64
		var lines []byte
		var stored []delivery.Event
		if _, err = pgx.ForEachRow(rows, []any{&seq, &lines}, func() (err error) {
			stored, err = codec.DecodeEvents(stored[:0], delivery.Seq(seq), lines)
			for i := range stored {
				events[eventKey{delivery.Seq(seq), stored[i].Number}] = true
			}
			return err
		}); err != nil {
			return nil, nil, err
		}
	}
	if len(given) > 0 {
		if err := e.refuseOurs(ctx, given, notes, b); err != nil {
			return nil, nil, err
		}
	}
	return notes, events, nil
}

// refuseOurs refuses IDs of backends that are those of other notifications, made here.
func (e *Engine) refuseOurs(ctx context.Context, given map[delivery.Seq]string, known map[delivery.Seq]bool, b *delivery.Batch) error {
	seqs := make([]int64, 0, len(given))
	for seq := range given {
		seqs = append(seqs, int64(seq))
	}
	contents, err := e.contents(ctx, e.conn, seqs)
	if err != nil {
		return err
	}
	var taken []string
	for i := range b.Accept {
		n := b.Accept[i].Notification
		seq, ok := delivery.SeqOf(n.ID)
		if other := contents[seq]; ok && seq != n.Seq && !known[n.Seq] && other != nil && other.ID == n.ID {
			taken = append(taken, n.ID)
		}
	}
	if len(taken) > 0 {
		return &store.Taken{IDs: taken}
	}
	return nil
}

func (e *Engine) contents(ctx context.Context, q querier, seqs []int64) (map[delivery.Seq]*delivery.Notification, error) {
	rows, err := q.Query(ctx, e.db.sql.contents, seqs)
	if err != nil {
		return nil, err
	}
	return collectContents(rows)
}

func collectContents(rows pgx.Rows) (map[delivery.Seq]*delivery.Notification, error) {
	out := map[delivery.Seq]*delivery.Notification{}
	var seq int64
	var content []byte
	_, err := pgx.ForEachRow(rows, []any{&seq, &content}, func() error {
		n := new(delivery.Notification)
		if err := codec.DecodeNotification(n, delivery.Seq(seq), content); err != nil {
			return fmt.Errorf("notification %d: %w", seq, err)
		}
		out[n.Seq] = n
		return nil
	})
	return out, err
}

// taken finds which IDs of a batch belong to other notifications. It removes those that
// belong to none any more from the index.
func (e *Engine) taken(b *delivery.Batch) (taken []string, err error) {
	ctx := context.Background()
	of := map[string]delivery.Seq{}
	var ids, stale [][]byte
	var staleSeqs []int64
	for i := range b.Accept {
		n := b.Accept[i].Notification
		if was, twice := of[n.ID]; twice && was != n.Seq {
			taken = append(taken, n.ID)
		}
		of[n.ID] = n.Seq
		ids = append(ids, []byte(n.ID))
	}
	rows, err := e.conn.Query(ctx, e.db.sql.takenIDs, ids)
	if err != nil {
		return nil, err
	}
	var id []byte
	var seq int64
	var there bool
	if _, err = pgx.ForEachRow(rows, []any{&id, &seq, &there}, func() error {
		switch {
		case !there:
			stale, staleSeqs = append(stale, slices.Clone(id)), append(staleSeqs, seq)
		case delivery.Seq(seq) != of[string(id)]:
			taken = append(taken, string(id))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if len(stale) > 0 {
		_, err = e.conn.Exec(ctx, e.db.sql.eraseIDs, stale, staleSeqs)
	}
	slices.Sort(taken)
	return slices.Compact(taken), err
}

// begun begins the statements of a write.
func (e *Engine) begun(p *plan) *pgx.Batch {
	q := &pgx.Batch{}
	q.Queue(e.db.sql.own, e.node.member.ID, lane, e.session[lane])
	if !p.sync {
		q.Queue(e.db.sql.noSync)
	}
	return q
}

// changes queues what needs no look at the store.
func (e *Engine) changes(q *pgx.Batch, p *plan) {
	s := &e.db.sql
	if len(p.ids.seq) > 0 {
		q.Queue(s.insertIDs, p.ids.name, p.ids.seq)
	}
	if len(p.notes.seq) > 0 {
		q.Queue(s.insertNotes, p.notes.seq, p.notes.account, p.notes.content, p.notes.data)
	}
	if len(p.out.seq) > 0 {
		q.Queue(s.insertOut, p.out.part, p.out.device, p.out.seq, p.out.value)
	}
	if len(p.updates.seq) > 0 {
		q.Queue(s.updateOut, p.updates.part, p.updates.device, p.updates.seq, p.updates.value)
	}
	if len(p.events.seq) > 0 {
		q.Queue(s.insertEvents, p.events.seq, p.events.number, p.events.lines)
	}
	if len(p.finals.seq) > 0 {
		q.Queue(s.insertFinals, p.finals.seq, p.finals.device, p.finals.at, p.finals.value)
	}
	fence := []any{e.node.member.ID, lane, e.session[lane], p.accepted, p.finished, int64(p.highest)}
	if f := &p.finish; len(f.seq) > 0 {
		q.Queue(s.finish, append(fence, f.part, f.device, f.seq, f.at, f.value)...)
	} else {
		q.Queue(s.count, fence...)
	}
	if len(p.dismiss.seq) > 0 {
		q.Queue(s.putDismissals, p.dismiss.part, p.dismiss.device, p.dismiss.seq, p.dismiss.value)
	}
	if len(p.undismiss.seq) > 0 {
		q.Queue(s.removeDismissals, p.undismiss.part, p.undismiss.device, p.undismiss.seq)
	}
}

// ending queues the last statement: readers find the events once it is there.
func (e *Engine) ending(q *pgx.Batch, p *plan, number int64) {
	if len(p.refs) > 0 {
		refs, _ := codec.AppendCommit(nil, nil, p.at, p.refs)
		q.Queue(e.db.sql.journal, e.node.member.Stream, number, p.at.UnixNano(), refs)
	}
}

// inTwo writes a batch that has to read rows before it changes them, under the fence.
func (e *Engine) inTwo(ctx context.Context, p *plan, number int64) (err error) {
	defer func() {
		if err != nil && e.conn.PgConn().TxStatus() != 'I' && !e.conn.IsClosed() {
			if _, rollback := e.conn.Exec(ctx, "ROLLBACK"); rollback != nil {
				err = errors.Join(rollback, err)
			}
		}
	}()
	q := &pgx.Batch{}
	q.Queue("BEGIN")
	q.QueuedQueries = append(q.QueuedQueries, e.begun(p).QueuedQueries...)
	r := e.lookFirst(q, p)
	if err := e.conn.SendBatch(ctx, q).Close(); err != nil {
		return err
	}
	q = &pgx.Batch{}
	if err := e.assigns(q, p, r); err != nil {
		return err
	}
	e.changes(q, p)
	if err := e.registry(q, p, r); err != nil {
		return err
	}
	e.erases(q, p, r)
	if days := p.erasedDays(); len(days) > 0 {
		q.Queue(e.db.sql.noteErased, days)
	}
	e.ending(q, p, number)
	q.Queue("COMMIT")
	return e.conn.SendBatch(ctx, q).Close()
}

// found is what the store has of what a batch changes.
type found struct {
	contents map[delivery.Seq]*delivery.Notification
	held     map[delivery.Seq]bool // have a Record without a device
	devices  map[string]*delivery.Device
}

// lookFirst queues the reads, and returns where their results will be.
func (e *Engine) lookFirst(q *pgx.Batch, p *plan) *found {
	r := &found{held: map[delivery.Seq]bool{}, devices: map[string]*delivery.Device{}}
	if len(p.putDevices) > 0 || len(p.removeDevices) > 0 {
		e.lookAtRegistry(q, p, r)
	}
	var seqs []int64
	for _, k := range p.assign {
		seqs = append(seqs, int64(k.Seq))
	}
	for _, s := range p.erase {
		seqs = append(seqs, int64(s))
	}
	if len(seqs) > 0 {
		q.Queue(e.db.sql.contents, seqs).Query(func(rows pgx.Rows) (err error) {
			r.contents, err = collectContents(rows)
			return err
		})
	}
	if len(p.assign) > 0 {
		var ps []int16
		var ss []int64
		for _, k := range p.assign {
			ps, ss = append(ps, part(uint64(k.Seq))), append(ss, int64(k.Seq))
		}
		q.Queue(e.db.sql.held, ps, ss).Query(func(rows pgx.Rows) error {
			seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			for _, s := range seqs {
				r.held[delivery.Seq(s)] = true
			}
			return err
		})
	}
	return r
}

// assigns queues the changes of p.assign.
func (e *Engine) assigns(q *pgx.Batch, p *plan, r *found) error {
	var ps []int16
	var ss []int64
	var devices, contents [][]byte
	for _, k := range p.assign {
		n := r.contents[k.Seq]
		if n == nil || !r.held[k.Seq] {
			continue
		}
		at := slices.Index(n.Devices, "")
		if at < 0 {
			return fmt.Errorf("assign notification %d: it has a held delivery that its content does not name", k.Seq)
		}
		n.Devices[at] = k.Device
		delete(r.held, k.Seq)
		ps, ss = append(ps, part(uint64(k.Seq))), append(ss, int64(k.Seq))
		devices, contents = append(devices, []byte(k.Device)), append(contents, codec.AppendNotification(nil, n))
	}
	if len(ss) > 0 {
		q.Queue(e.db.sql.assignNote, ss, contents)
		q.Queue(e.db.sql.assignOut, ps, ss, devices)
	}
	return nil
}

// erases queues the changes of p.erase.
func (e *Engine) erases(q *pgx.Batch, p *plan, r *found) {
	var seqs, idSeqs []int64
	var ids [][]byte
	var out keyColumns
	for _, seq := range p.erase {
		n := r.contents[seq]
		if n == nil {
			continue
		}
		delete(r.contents, seq) // named twice
		seqs = append(seqs, int64(seq))
		if !tellsSeq(n) {
			ids, idSeqs = append(ids, []byte(n.ID)), append(idSeqs, int64(seq))
		}
		for _, device := range n.Devices {
			out.add(delivery.Key{Seq: seq, Device: device}, nil)
		}
	}
	if len(seqs) == 0 {
		return
	}
	s := &e.db.sql
	if len(out.seq) > 0 {
		q.Queue(s.eraseOut, e.node.member.ID, lane, e.session[lane], out.part, out.device, out.seq)
	}
	q.Queue(s.eraseEvents, seqs)
	q.Queue(s.eraseFinals, seqs)
	q.Queue(s.eraseNotes, seqs)
	if len(ids) > 0 {
		q.Queue(s.eraseIDs, ids, idSeqs)
	}
}

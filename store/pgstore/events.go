package pgstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// commitsPage is how many commits are read at a time.
const commitsPage = 128

// EventsFrom implements delivery.Reader. The Partition of a Position is a stream: the
// order of one writer at a time, which a node takes over from one that has ended.
func (e *Engine) EventsFrom(after delivery.Position, fn func(delivery.Position, string, delivery.Event) bool) error {
	end, err := e.eventsEnd(after.Partition)
	if err != nil {
		return err
	}
	if after.Commit > end {
		return fmt.Errorf("position %d of stream %d, with the store at %d: %w", after.Commit, after.Partition, end, delivery.ErrNotFound)
	}
	for from := after.Commit; ; {
		commits, err := e.commits(after.Partition, from)
		if err != nil {
			return unavailable("read events", err)
		}
		for _, c := range commits {
			for _, ev := range c.events {
				at := delivery.Position{Partition: after.Partition, Commit: c.number, Number: ev.event.Number}
				if after.Less(at) && !fn(at, ev.account, ev.event) {
					return nil
				}
			}
		}
		if len(commits) < commitsPage {
			return nil
		}
		from = commits[len(commits)-1].number + 1
	}
}

// EventsEnd implements delivery.Reader. It is one statement, and so one snapshot: what a
// commit was made after is not behind it.
func (e *Engine) EventsEnd() (end delivery.Place, err error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	var stream int32
	var number int64
	err = each(ctx, e, e.db.sql.eventsEnds, nil, []any{&stream, &number}, func() error {
		end = append(end, delivery.Position{Partition: uint32(stream), Commit: uint64(number), Number: math.MaxUint64})
		return nil
	})
	return end, unavailable("read where the events end", err)
}

// EventsSince implements delivery.Reader.
func (e *Engine) EventsSince(t time.Time) (delivery.Place, error) {
	place, err := e.EventsEnd()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	for i, end := range place {
		at, err := store.SeekCommit(end.Commit, t, func(from uint64) (uint64, time.Time, bool, error) {
			var number, newest int64
			err := e.db.pool.QueryRow(ctx, e.db.sql.commitTime, int64(end.Partition), int64(from)).Scan(&number, &newest)
			if errors.Is(err, pgx.ErrNoRows) {
				return 0, time.Time{}, false, nil
			}
			return uint64(number), time.Unix(0, newest), true, err
		})
		if err != nil {
			return nil, unavailable("find the events since a time", err)
		}
		place[i].Commit = at.Commit
	}
	return place, nil
}

func (e *Engine) eventsEnd(stream uint32) (uint64, error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	var end int64
	err := e.db.pool.QueryRow(ctx, e.db.sql.eventsEnd, int64(stream)).Scan(&end)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, missing("stream of events", stream)
	}
	return uint64(end), unavailable("read where the events end", err)
}

type commit struct {
	number uint64
	refs   []codec.Ref
	events []accountEvent // by Number
}

type accountEvent struct {
	account string
	event   delivery.Event
}

// commits reads some commits with their events. Those of notifications that are gone
// are left out.
func (e *Engine) commits(stream uint32, from uint64) ([]commit, error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	var out []commit
	var number int64
	var value []byte
	wanted := map[int64]bool{}
	var seqs, eventSeqs, eventNumbers []int64
	err := each(ctx, e, e.db.sql.commits, []any{int64(stream), int64(from), commitsPage}, []any{&number, &value}, func() error {
		_, refs, err := codec.DecodeCommit(nil, value)
		for _, r := range refs {
			if seq := int64(r.Seq); !wanted[seq] {
				wanted[seq] = true
				seqs = append(seqs, seq)
			}
			if r.Number != 0 {
				eventSeqs, eventNumbers = append(eventSeqs, int64(r.Seq)), append(eventNumbers, int64(r.Number))
			}
		}
		out = append(out, commit{number: uint64(number), refs: refs})
		return err
	})
	if err != nil || len(out) == 0 {
		return nil, err
	}
	contents := map[delivery.Seq]*delivery.Notification{}
	var seq int64
	err = each(ctx, e, e.db.sql.contents, []any{seqs}, []any{&seq, &value}, func() error {
		n := new(delivery.Notification)
		contents[delivery.Seq(seq)] = n
		return codec.DecodeNotification(n, delivery.Seq(seq), value)
	})
	if err != nil {
		return nil, err
	}
	lines := map[eventKey][]delivery.Event{}
	if len(eventSeqs) > 0 {
		err = each(ctx, e, e.db.sql.events, []any{eventSeqs, eventNumbers}, []any{&seq, &value}, func() error {
			events, err := codec.DecodeEvents(nil, delivery.Seq(seq), value)
			if len(events) > 0 {
				lines[eventKey{delivery.Seq(seq), events[0].Number}] = events
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for i := range out {
		c := &out[i]
		for _, r := range c.refs {
			n := contents[r.Seq]
			if n == nil {
				continue
			}
			if r.Number == 0 {
				c.events = append(c.events, accountEvent{n.Account, delivery.Event{
					Seq: r.Seq, Number: uint64(r.Seq), Time: n.AcceptedAt, Kind: delivery.EventAccepted,
				}})
				continue
			}
			for _, ev := range lines[eventKey{r.Seq, r.Number}] {
				c.events = append(c.events, accountEvent{n.Account, ev})
			}
		}
		slices.SortFunc(c.events, func(x, y accountEvent) int { return cmp.Compare(x.event.Number, y.event.Number) })
	}
	return out, nil
}

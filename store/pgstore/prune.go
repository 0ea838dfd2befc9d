package pgstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/delivery"
)

// lookEvery is how often Prune looks at whether a day is over. That reads the index of
// all unfinished deliveries.
const lookEvery = time.Hour

// pruneTimeout bounds one step of pruning. The next round goes on.
const pruneTimeout = time.Minute

// Prune implements store.Engine. A day that is over as a whole is removed at once, by
// dropping its tables, which needs no vacuum; see Options.Slack. It also makes the
// tables of the days ahead.
func (e *Engine) Prune(finishedBefore time.Time, limit int) (n int, err error) {
	if err := e.broken(); err != nil {
		return 0, err
	}
	if err := e.node.Trusted(); err != nil {
		return 0, fmt.Errorf("prune: %w", err)
	}
	d := e.db
	d.pruneMu.Lock()
	defer d.pruneMu.Unlock()
	ctx, cancel := context.WithTimeout(d.ctx, pruneTimeout)
	defer cancel()
	if !finishedBefore.Equal(d.round) { // else it goes on in the middle of a round
		if err := d.trimJournals(ctx, finishedBefore); err != nil {
			return 0, unavailable("forget old commits", err)
		}
		if err := d.makeDays(ctx, time.Now()); err != nil {
			return 0, err
		}
		if err := d.dropDetached(ctx); err != nil {
			return 0, unavailable("drop the tables of days that are over", err)
		}
	}
	n, err = d.pruneDays(ctx, finishedBefore, limit)
	if d.round = (time.Time{}); err == nil && n >= limit {
		d.round = finishedBefore
	}
	return n, unavailable("prune", err)
}

// trimJournals removes the oldest commits, as long as all their events are from before.
func (d *DB) trimJournals(ctx context.Context, before time.Time) error {
	rows, _ := d.pool.Query(ctx, d.sql.streams)
	streams, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return err
	}
	for _, stream := range streams {
		var to int64
		if err := d.pool.QueryRow(ctx, d.sql.trimTo, stream, int64(0), before.UnixNano()).Scan(&to); err != nil {
			return err
		}
		if to == 0 {
			continue
		}
		b := &pgx.Batch{}
		b.Queue(d.sql.trimmed, stream, to)
		b.Queue(d.sql.trim, stream, to)
		if err := d.pool.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
	}
	return nil
}

// pruneDays prunes the days that have ended before a time.
func (d *DB) pruneDays(ctx context.Context, before time.Time, limit int) (n int, err error) {
	days, partial, err := d.attached(ctx)
	if err != nil {
		return 0, err
	}
	var ended []int64
	for day := range days {
		if d.byRow(day, before) || d.due(day, before) {
			ended = append(ended, day)
		}
	}
	for day := range partial {
		if overBefore(day, before) {
			ended = append(ended, day)
		}
	}
	if len(ended) == 0 {
		return 0, nil
	}
	slices.Sort(ended)
	var live map[int64]bool
	for _, day := range ended {
		if n >= limit {
			break
		}
		over := partial[day]
		if !over && d.due(day, before) {
			if live == nil {
				if live, err = d.liveDays(ctx); err != nil {
					return n, err
				}
			}
			d.looked[day] = time.Now()
			busy := live[day]
			if !busy {
				if err := d.pool.QueryRow(ctx, d.sql.dayBusy, day*dayWidth, (day+1)*dayWidth, before.UnixNano()).Scan(&busy); err != nil {
					return n, err
				}
			}
			over = !busy
		}
		var pruned int
		switch {
		case over:
			pruned, err = d.dropDay(ctx, day)
		case d.byRow(day, before):
			pruned, err = d.pruneRows(ctx, day, before, limit-n)
		}
		n += pruned
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

const dayWidth = day

// overBefore reports whether a day ends before a time.
func overBefore(day int64, t time.Time) bool { return (day+1)*dayWidth <= t.UnixNano() }

// due reports whether a day may be over as a whole, and was not looked at lately.
func (d *DB) due(day int64, before time.Time) bool {
	return d.opts.Slack >= 0 && overBefore(day, before) && time.Since(d.looked[day]) >= lookEvery
}

// byRow reports whether finished notifications of a day are removed one by one: the
// unfinished ones have held it up for long enough, or it is one of the future, where a step of
// the clock has put later notifications.
func (d *DB) byRow(day int64, before time.Time) bool {
	if d.opts.Slack < 0 {
		return day*dayWidth < before.UnixNano()
	}
	late := overBefore(day, before.Add(-d.opts.Slack)) || day > dayOf(time.Now().UnixNano())
	return late && time.Since(d.swept[day].ended) >= lookEvery
}

// sweep is how far a day has been pruned row by row.
type sweep struct {
	next  int64 // Seq
	ended time.Time
}

// liveDays returns the days of unfinished deliveries.
func (d *DB) liveDays(ctx context.Context) (map[int64]bool, error) {
	rows, _ := d.pool.Query(ctx, d.sql.daysLive, dayWidth)
	days, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	live := map[int64]bool{}
	for _, n := range days {
		live[n] = true
	}
	return live, err
}

const (
	// rowsAtOnce is how many notifications of a day are looked at in one statement, at most.
	rowsAtOnce = 1000
	// rowsFor bounds a pass over a day that has more unfinished notifications than finished
	// ones. The next round goes on.
	rowsFor = 5 * time.Second
)

// pruneRows removes up to limit notifications of a day that are over. It passes over a day from its
// begin to its end once in lookEvery, in several calls.
func (d *DB) pruneRows(ctx context.Context, day int64, before time.Time, limit int) (n int, err error) {
	at, began := max(day*dayWidth, d.swept[day].next), time.Now()
	for look := 4 * limit; n < limit; look = min(4*look, rowsAtOnce) {
		pruned, next, err := d.pruneFrom(ctx, at, (day+1)*dayWidth, before, limit-n, look)
		switch {
		case code(err) == codeSerialization: // somebody has changed one of them
			return n, nil
		case err != nil:
			return n, err
		case next == 0:
			d.swept[day] = sweep{ended: time.Now()}
			return n, nil
		}
		n, at = n+pruned, next
		if d.opts.Slack < 0 {
			continue // all that are over, in each call
		}
		if d.swept[day] = (sweep{next: at}); time.Since(began) >= d.rowsFor {
			break
		}
	}
	return n, nil
}

// pruneFrom looks at the next notifications, removes up to limit of those that are over, and returns
// the Seq to go on at; 0: there are no more.
func (d *DB) pruneFrom(ctx context.Context, from, to int64, before time.Time, limit, look int) (n int, next int64, err error) {
	err = pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, d.sql.prunable, from, to, before.UnixNano(), look)
		contents, err := collectContents(rows)
		if err != nil || len(contents) == 0 {
			return err
		}
		var keys keyColumns
		for seq, c := range contents {
			for _, device := range c.Devices {
				keys.add(delivery.Key{Seq: seq, Device: device}, nil)
			}
		}
		rows, _ = tx.Query(ctx, d.sql.stillOut, keys.part, keys.device, keys.seq)
		unfinished, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		live := map[int64]bool{}
		for _, seq := range unfinished {
			live[seq] = true
		}
		var seqs, idSeqs []int64
		var ids [][]byte
		for _, seq := range slices.Sorted(maps.Keys(contents)) {
			if len(seqs) == limit {
				break
			}
			next = int64(seq) + 1
			if live[int64(seq)] {
				continue
			}
			seqs = append(seqs, int64(seq))
			if c := contents[seq]; !tellsSeq(c) {
				ids, idSeqs = append(ids, []byte(c.ID)), append(idSeqs, int64(seq))
			}
		}
		if n = len(seqs); n == 0 {
			return nil
		}
		b := &pgx.Batch{}
		b.Queue(d.sql.eraseNotes, seqs)
		b.Queue(d.sql.eraseEvents, seqs)
		b.Queue(d.sql.eraseFinals, seqs)
		if len(ids) > 0 {
			b.Queue(d.sql.eraseIDs, ids, idSeqs)
		}
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return 0, 0, err
	}
	return n, next, nil
}

// idsStep is the part of a day whose IDs are removed in one statement. All those of a day may
// take longer than a round has.
const idsStep = int64(5 * time.Minute)

// dropDay removes a day, and returns how many notifications it had. It holds up nobody:
// its tables are detached while others are in use. One that ends in the middle is taken
// up by the next round, as long as one table is still attached: the last is detached
// after all else.
func (d *DB) dropDay(ctx context.Context, day int64) (n int, err error) {
	from, to := day*dayWidth, (day+1)*dayWidth
	if err := d.pool.QueryRow(ctx, d.sql.dayCount, from, to).Scan(&n); err != nil {
		return 0, err
	}
	d.daysMu.Lock()
	delete(d.days, day)
	d.daysMu.Unlock()
	for i, t := range dayTables {
		if i == len(dayTables)-1 {
			for at := from; at < to; at += idsStep {
				if _, err := d.pool.Exec(ctx, d.sql.dayIDs, at, at+idsStep); err != nil {
					return n, err
				}
			}
		}
		if err := d.detach(ctx, partition{name: t + "_" + dayName(day), of: t, day: day}); err != nil {
			if i == 0 {
				n = 0
			}
			return n, err
		}
	}
	delete(d.looked, day)
	delete(d.swept, day)
	d.log.Info("history of a day has been removed", "day", dayName(day), "notifications", n)
	return n, d.dropDetached(ctx)
}

// detach takes the table of a day out of its parent.
func (d *DB) detach(ctx context.Context, p partition) error {
	how := "CONCURRENTLY"
	if p.pending {
		how = "FINALIZE"
	}
	// Not a prepared statement: it may not be in a transaction, nor in a pipeline.
	_, err := d.pool.Exec(ctx, fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s %s", d.table(p.of), d.table(p.name), how), pgx.QueryExecModeSimpleProtocol)
	if code(err) == codeNoTable || code(err) == codeDuplicateObject { // another node was faster
		return nil
	}
	return err
}

// dropDetached drops the tables of days that have been detached.
func (d *DB) dropDetached(ctx context.Context) error {
	all, err := d.partitions(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range all {
		if p.pending {
			if err := d.detach(ctx, p); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if p.attached && !p.pending {
			continue
		}
		// One that makeDay is about to attach is locked by the same lock.
		errs = append(errs, pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
			if err := d.lockDays(ctx, tx); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+d.table(p.name))
			return err
		}))
	}
	return errors.Join(errs...)
}

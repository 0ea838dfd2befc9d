package pgstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// day is the width of a partition of the tables that grow with time. A Seq is near the
// time of its acceptance in nanoseconds.
const day = int64(24 * time.Hour)

// daysAhead is how many days have their tables beforehand.
const daysAhead = 3

// dayTables are partitioned by day, in the order in which a day's are removed: without
// its content, nothing else of a notification is found.
var dayTables = []string{"notification", "event", "final"}

func dayOf(seq int64) int64 { return seq / day }

func dayName(n int64) string { return time.Unix(0, n*day).UTC().Format("20060102") }

func (d *DB) table(name string) string { return pgx.Identifier{d.opts.Schema, name}.Sanitize() }

type beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// haveDays makes the tables of the days of some Seqs, where they are not there: they
// always are, unless the clock has been far off.
func (d *DB) haveDays(ctx context.Context, conn beginner, seqs []int64) error {
	var absent []int64
	d.daysMu.Lock()
	for _, s := range seqs {
		if n := dayOf(s); !d.days[n] {
			absent = append(absent, n)
		}
	}
	d.daysMu.Unlock()
	for len(absent) > 0 {
		n := absent[0]
		if err := d.makeDay(ctx, conn, n); err != nil {
			return err
		}
		rest := absent[:0]
		for _, x := range absent {
			if x != n {
				rest = append(rest, x)
			}
		}
		absent = rest
	}
	return nil
}

// makeDays makes the tables of today and the days ahead, and learns which others are
// there.
func (d *DB) makeDays(ctx context.Context, today time.Time) error {
	days, _, err := d.attached(ctx)
	if err != nil {
		return err
	}
	d.daysMu.Lock()
	d.days = days
	d.daysMu.Unlock()
	for i := range int64(daysAhead + 1) {
		if n := dayOf(today.UnixNano()) + i; !days[n] {
			if err := d.makeDay(ctx, d.pool, n); err != nil {
				return d.explain(err)
			}
		}
	}
	return nil
}

// attached returns the days that have all their tables, and those that have only some: their
// removal was begun, and did not end.
func (d *DB) attached(ctx context.Context) (days, partial map[int64]bool, err error) {
	count := map[int64]int{}
	all, err := d.partitions(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		if p.attached && !p.pending {
			count[p.day]++
		}
	}
	days, partial = map[int64]bool{}, map[int64]bool{}
	for n, tables := range count {
		if tables == len(dayTables) {
			days[n] = true
		} else {
			partial[n] = true
		}
	}
	return days, partial, nil
}

// partition is the table of a day.
type partition struct {
	name     string
	of       string
	day      int64
	attached bool
	pending  bool // its detaching was begun, and not ended
}

func (d *DB) partitions(ctx context.Context) ([]partition, error) {
	rows, err := d.pool.Query(ctx, `
		SELECT c.relname::text, i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
		WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname ~ '^(notification|event|final)_[0-9]{8}$' ORDER BY c.relname`, d.opts.Schema)
	if err != nil {
		return nil, unavailable("list the tables of days", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p partition, err error) {
		if err := row.Scan(&p.name, &p.attached, &p.pending); err != nil {
			return p, err
		}
		var date string
		p.of, date, _ = strings.Cut(p.name, "_")
		at, err := time.Parse("20060102", date)
		p.day = dayOf(at.UnixNano())
		return p, err
	})
	return all, unavailable("list the tables of days", err)
}

// makeDay makes the tables of a day. They are attached, not made in their place: that
// holds up nobody who uses the others.
func (d *DB) makeDay(ctx context.Context, conn beginner, n int64) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := d.lockDays(ctx, tx); err != nil {
			return err
		}
		for _, t := range dayTables {
			name := t + "_" + dayName(n)
			var there bool
			if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_inherits i ON i.inhrelid = c.oid WHERE n.nspname = $1 AND c.relname = $2)`, d.opts.Schema, name).Scan(&there); err != nil {
				return err
			}
			if there {
				continue
			}
			if _, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE %[1]s (LIKE %[2]s INCLUDING ALL); ALTER TABLE %[2]s ATTACH PARTITION %[1]s FOR VALUES FROM (%[3]d) TO (%[4]d)`, d.table(name), d.table(t), n*day, (n+1)*day), pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make the tables of %s: %w", dayName(n), err)
	}
	d.daysMu.Lock()
	d.days[n] = true
	d.daysMu.Unlock()
	return nil
}

// lockDays keeps two nodes from changing the tables of days at once, until tx ends.
func (d *DB) lockDays(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('heartline days ' || $1, 0))`, d.opts.Schema)
	return err
}

func (d *DB) hasDay(n int64) bool {
	d.daysMu.Lock()
	defer d.daysMu.Unlock()
	return d.days[n]
}

// DaysAhead returns for how many days from now on the tables are there.
func (d *DB) DaysAhead(now time.Time) (n int) {
	for d.hasDay(dayOf(now.UnixNano()) + int64(n)) {
		n++
	}
	return n
}

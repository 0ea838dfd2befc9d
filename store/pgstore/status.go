package pgstore

import (
	"context"
	"fmt"
	"time"
)

// Status is what `heartline store status` shows.
type Status struct {
	Server      string // version
	Format      int    // 0: there are no tables
	Timeline    string
	Sync        string // synchronous_commit, as the role has it
	Replication Replication
	Fsync       bool
	Members     []Member
	DaysAhead   int
	Days        int
	Accepted    uint64 // deliveries, over the life of the store
	Finished    uint64
	Outstanding uint64
}

// Unaccounted is the number of deliveries that were lost: any value but 0 is a fault.
func (s *Status) Unaccounted() int64 { return int64(s.Accepted - s.Finished - s.Outstanding) }

// Status looks at the database, and changes nothing.
func (d *DB) Status(ctx context.Context) (s Status, err error) {
	var fsync string
	if err := d.pool.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('synchronous_commit'), current_setting('fsync')`).Scan(&s.Server, &s.Sync, &fsync); err != nil {
		return s, d.explain(err)
	}
	s.Fsync = fsync == "on"
	if s.Replication, err = d.Replication(ctx); err != nil {
		return s, err
	}
	if err := d.pool.QueryRow(ctx, timelineNow).Scan(&s.Timeline); err != nil {
		return s, d.explain(err)
	}
	if s.Format, err = d.Format(ctx); err != nil || s.Format == 0 {
		return s, err
	}
	if err := checkFormat(d.opts.Schema, s.Format); err != nil {
		return s, err
	}
	if s.Members, err = d.Members(ctx); err != nil {
		return s, err
	}
	days, _, err := d.attached(ctx)
	if err != nil {
		return s, err
	}
	s.Days = len(days)
	for n := dayOf(time.Now().UnixNano()); days[n]; n++ {
		s.DaysAhead++
	}
	// One statement, and so one snapshot: the three belong together.
	err = d.pool.QueryRow(ctx, fmt.Sprintf("SELECT t.*, (SELECT count(*) FROM %s) FROM (%s) t", d.table("outstanding"), d.sql.totals)).Scan(&s.Accepted, &s.Finished, &s.Outstanding)
	return s, unavailable("read the totals", err)
}

package pgstore

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/heartline-mqtt/heartline/store"
)

var _ store.Scrubber = (*Engine)(nil)

// erasedDevices stands for the tables of devices, in place of a day.
const erasedDevices = -1

// erasedDays are the days whose tables lose rows that must leave the disk.
func (p *plan) erasedDays() (days []int64) {
	for _, s := range p.erase {
		days = append(days, dayOf(int64(s)))
	}
	if len(p.removeDevices) > 0 {
		days = append(days, erasedDevices)
	}
	slices.Sort(days)
	return slices.Compact(days)
}

// scrubFor is how long after an erasure the tables are vacuumed again and again. VACUUM leaves what
// somebody's transaction can still read, such as that of a backup, and tells nobody. By then 24 h are
// nearly over.
const scrubFor = 22 * time.Hour

// Scrub implements store.Scrubber: it vacuums the tables that have lost rows by any node, so that
// PostgreSQL gives their room to others. It reports true once it does so for the last time. It does not
// reach the write-ahead log, backups, and room that is not used again yet.
func (e *Engine) Scrub(ctx context.Context, before time.Time) (bool, error) {
	d := e.db
	var now time.Time
	var days []int64
	if err := d.pool.QueryRow(ctx, d.sql.erasedBefore, before).Scan(&now, &days); err != nil {
		return false, unavailable("look for what was erased", err)
	}
	if len(days) == 0 {
		return false, nil
	}
	var tables []string
	for _, n := range days {
		if n == erasedDevices {
			tables = append(tables, "device", "token")
			continue
		}
		for _, t := range dayTables {
			tables = append(tables, t+"_"+dayName(n))
		}
	}
	if days[len(days)-1] != erasedDevices {
		tables = append(tables, "given_id", "outstanding")
	}
	for _, t := range tables {
		if _, err := d.pool.Exec(ctx, "VACUUM "+d.table(t), pgx.QueryExecModeSimpleProtocol); err != nil && code(err) != codeNoTable {
			return false, unavailable("vacuum what was erased", err)
		}
	}
	over := false
	b := &pgx.Batch{}
	b.Queue(d.sql.scrubbed, days, now.Add(-scrubFor)).Exec(func(ct pgconn.CommandTag) error {
		over = ct.RowsAffected() > 0
		return nil
	})
	b.Queue(d.sql.scrubAgain, days)
	err := d.pool.SendBatch(ctx, b).Close()
	return over, unavailable("note what was vacuumed", err)
}

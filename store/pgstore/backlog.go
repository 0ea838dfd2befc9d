package pgstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// Backlog is what the Cores of some partitions take up when they start. It is read in a few
// statements for all of them: deliveries of one partition are scattered over the table, so
// that reading them by themselves touches a page for each.
type Backlog struct {
	last       uint64
	records    map[int16]*backlogRows
	dismissals map[int16]*backlogRows
	accounts   map[int16]map[string][]delivery.Device
}

var _ delivery.Backlog = (*Backlog)(nil)

// backlogRows are the rows of a partition, encoded.
type backlogRows struct {
	rows    []backlogRow
	values  []byte
	devices map[string]string // each name once
}

type backlogRow struct {
	device   string
	seq      delivery.Seq
	from, to int // in values
}

func (r *backlogRows) add(device []byte, seq int64, value []byte) {
	name, there := r.devices[string(device)]
	if !there {
		name = string(device)
		r.devices[name] = name
	}
	from := len(r.values)
	r.values = append(r.values, value...)
	r.rows = append(r.rows, backlogRow{name, delivery.Seq(seq), from, len(r.values)})
}

// each calls fn with the rows by device and Seq.
func (r *backlogRows) each(fn func(k delivery.Key, value []byte) error) error {
	if r == nil {
		return nil
	}
	slices.SortFunc(r.rows, func(a, b backlogRow) int {
		if a.device != b.device {
			return strings.Compare(a.device, b.device)
		}
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	for _, row := range r.rows {
		if err := fn(delivery.Key{Seq: row.seq, Device: row.device}, r.values[row.from:row.to]); err != nil {
			return err
		}
	}
	return nil
}

// namesAtOnce is how many devices are looked up in one statement.
const namesAtOnce = 10000

// Backlog reads the backlog of some partitions. It has no time limit: one that takes long would be begun
// again from the start, for ever. DB.Interrupt ends it.
func (e *Engine) Backlog(parts []uint16) (delivery.Backlog, error) {
	b := &Backlog{records: map[int16]*backlogRows{}, dismissals: map[int16]*backlogRows{}, accounts: map[int16]map[string][]delivery.Device{}}
	wanted := make([]int16, len(parts))
	for i, p := range parts {
		wanted[i] = int16(p)
	}
	if err := e.readBacklog(e.db.ctx, b, wanted); code(err) == codeCanceled { // by a timeout: fewer partitions take less
		return nil, fmt.Errorf("read unfinished deliveries: %w", err)
	} else if err != nil {
		return nil, unavailable("read unfinished deliveries", err)
	}
	return b, nil
}

func (e *Engine) readBacklog(ctx context.Context, b *Backlog, parts []int16) error {
	conn, err := e.db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	q := &pgx.Batch{}
	q.Queue(e.db.sql.last).QueryRow(func(row pgx.Row) error {
		var last int64
		err := row.Scan(&last)
		b.last = uint64(last)
		return err
	})
	q.Queue(e.db.sql.backlog, parts).Query(collectBacklog(b.records))
	q.Queue(e.db.sql.backlogDismissals, parts).Query(collectBacklog(b.dismissals))
	if err := conn.SendBatch(ctx, q).Close(); err != nil {
		return err
	}
	of := map[string]int16{} // the partition of each device
	var names [][]byte
	for _, table := range []map[int16]*backlogRows{b.records, b.dismissals} {
		for p, rows := range table {
			for name := range rows.devices {
				if _, twice := of[name]; name != "" && !twice { // "": held for an account without devices
					of[name] = p
					names = append(names, []byte(name))
				}
			}
		}
	}
	for some := range slices.Chunk(names, namesAtOnce) {
		if err := e.readAccounts(ctx, conn, b, some, of); err != nil {
			return err
		}
	}
	return nil
}

// collectBacklog returns a function that takes the rows of a table.
func collectBacklog(into map[int16]*backlogRows) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		var p int16
		var seq int64
		var device, value pgtype.DriverBytes
		_, err := pgx.ForEachRow(rows, []any{&p, &device, &seq, &value}, func() error {
			of := into[p]
			if of == nil {
				of = &backlogRows{devices: map[string]string{}}
				into[p] = of
			}
			of.add(device, seq, value)
			return nil
		})
		return err
	}
}

// readAccounts reads the accounts of some devices, whole.
func (e *Engine) readAccounts(ctx context.Context, conn *pgxpool.Conn, b *Backlog, names [][]byte, of map[string]int16) error {
	type found struct {
		devices []delivery.Device
		part    int16
		known   bool
	}
	accounts := map[string]*found{}
	rows, err := conn.Query(ctx, e.db.sql.backlogAccounts, names)
	if err != nil {
		return err
	}
	var id, entry pgtype.DriverBytes
	if _, err := pgx.ForEachRow(rows, []any{&id, &entry}, func() error {
		var d delivery.Device
		if err := codec.DecodeDevice(&d, string(id), entry); err != nil {
			return fmt.Errorf("device %s: %w", id, err)
		}
		a := accounts[d.Account]
		if a == nil {
			a = &found{}
			accounts[d.Account] = a
		}
		a.devices = append(a.devices, d)
		if p, there := of[d.ID]; there {
			a.part, a.known = p, true
		}
		return nil
	}); err != nil {
		return err
	}
	for name, a := range accounts {
		if !a.known { // its device has moved meanwhile
			continue
		}
		if b.accounts[a.part] == nil {
			b.accounts[a.part] = map[string][]delivery.Device{}
		}
		b.accounts[a.part][name] = a.devices
	}
	return nil
}

// Accounts implements delivery.Backlog.
func (b *Backlog) Accounts(of delivery.Shard, fn func(account string, devices []delivery.Device)) {
	for name, devices := range b.accounts[int16(of.Index)] {
		fn(name, devices)
	}
}

// Unfinished implements delivery.Backlog.
func (b *Backlog) Unfinished(of delivery.Shard, fn func(*delivery.Record) bool) error {
	var r delivery.Record
	err := b.records[int16(of.Index)].each(func(k delivery.Key, value []byte) error {
		if err := codec.DecodeRecord(&r, k, value); err != nil {
			return fmt.Errorf("record %d of device %s: %w", k.Seq, k.Device, err)
		}
		if !fn(&r) {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// Dismissals implements delivery.Backlog.
func (b *Backlog) Dismissals(of delivery.Shard, fn func(*delivery.Dismissal) bool) error {
	err := b.dismissals[int16(of.Index)].each(func(k delivery.Key, value []byte) error {
		var d delivery.Dismissal
		if err := codec.DecodeDismissal(&d, k, value); err != nil {
			return fmt.Errorf("dismissal %d of device %s: %w", k.Seq, k.Device, err)
		}
		if !fn(&d) {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// LastSeq implements delivery.Backlog.
func (b *Backlog) LastSeq(delivery.Shard) (uint64, error) { return b.last, nil }

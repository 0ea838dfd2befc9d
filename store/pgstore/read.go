package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// readTimeout bounds a read of a few rows.
const readTimeout = 10 * time.Second

// page is how many rows are read at a time where fn may end the reading. What fn does
// meanwhile keeps no snapshot of the database open.
const page = 500

func (e *Engine) one(what, sql string, args ...any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	var v []byte
	if err := e.db.pool.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		return nil, unavailable(what, err)
	}
	return v, nil
}

func each(ctx context.Context, e *Engine, sql string, args []any, into []any, fn func() error) error {
	rows, err := e.db.pool.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, fn)
	return err
}

// Notification implements delivery.Reader.
func (e *Engine) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	what := fmt.Sprintf("notification %d", seq)
	if seq > math.MaxInt64 {
		return nil, missing("notification", seq)
	}
	v, err := e.one(what, e.db.sql.notification, int64(seq))
	if err != nil {
		return nil, err
	}
	n := new(delivery.Notification)
	if err := codec.DecodeNotification(n, seq, v); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return n, nil
}

// missingAtOnce is how many notifications Missing looks for in one statement.
const missingAtOnce = 5000

// Missing returns those of seqs that the database does not have.
func (d *DB) Missing(ctx context.Context, seqs []delivery.Seq) (missing []delivery.Seq, err error) {
	for some := range slices.Chunk(seqs, missingAtOnce) {
		wanted := make([]int64, len(some))
		for i, s := range some {
			wanted[i] = int64(s)
		}
		rows, _ := d.pool.Query(ctx, d.sql.known, wanted)
		there, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return nil, unavailable("look for notifications", err)
		}
		has := map[delivery.Seq]bool{}
		for _, s := range there {
			has[delivery.Seq(s)] = true
		}
		for _, s := range some {
			if !has[s] {
				missing = append(missing, s)
			}
		}
	}
	return missing, nil
}

// Data implements delivery.Reader.
func (e *Engine) Data(seq delivery.Seq) (json.RawMessage, error) {
	v, err := e.one(fmt.Sprintf("data of notification %d", seq), e.db.sql.data, int64(seq))
	return v, err
}

// Lookup implements delivery.Reader.
func (e *Engine) Lookup(id string) (delivery.Seq, error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	var seq int64
	err := e.db.pool.QueryRow(ctx, e.db.sql.lookup, []byte(id)).Scan(&seq)
	if !errors.Is(err, pgx.ErrNoRows) {
		return delivery.Seq(seq), unavailable("notification "+id, err)
	}
	if seq, ok := delivery.SeqOf(id); ok {
		if n, err := e.Notification(seq); err == nil && n.ID == id {
			return seq, nil
		} else if err != nil && !errors.Is(err, delivery.ErrNotFound) {
			return 0, err
		}
	}
	return 0, missing("notification", id)
}

// Timeline implements delivery.Reader.
func (e *Engine) Timeline(seq delivery.Seq) (events []delivery.Event, err error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	what := fmt.Sprintf("timeline of notification %d", seq)
	there := false
	var lines []byte
	err = each(ctx, e, e.db.sql.timeline, []any{int64(seq)}, []any{&lines}, func() (err error) {
		there = true
		events, err = codec.DecodeEvents(events, seq, lines)
		return err
	})
	if err != nil {
		return nil, unavailable(what, err)
	}
	if !there {
		return nil, missing("notification", seq)
	}
	slices.SortFunc(events, func(a, b delivery.Event) int {
		if a.Number < b.Number {
			return -1
		}
		return 1
	})
	return events, nil
}

// Deliveries implements delivery.Reader. It is one transaction: a delivery that ends
// meanwhile is in one of the two tables.
func (e *Engine) Deliveries(seq delivery.Seq) (out []delivery.DeliveryState, err error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	states := map[string]delivery.DeliveryState{}
	n := new(delivery.Notification)
	err = pgx.BeginTxFunc(ctx, e.db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var content []byte
		if err := tx.QueryRow(ctx, e.db.sql.notification, int64(seq)).Scan(&content); err != nil {
			return err
		}
		if err := codec.DecodeNotification(n, seq, content); err != nil {
			return err
		}
		devices := make([][]byte, len(n.Devices))
		for i, d := range n.Devices {
			devices[i] = []byte(d)
		}
		var device, value []byte
		rows, _ := tx.Query(ctx, e.db.sql.finals, int64(seq))
		if _, err := pgx.ForEachRow(rows, []any{&device, &value}, func() error {
			f, err := codec.DecodeFinish(delivery.Key{Seq: seq, Device: string(device)}, value)
			states[f.Device] = delivery.DeliveryState{State: f.State, Attempts: f.Attempts, Pushed: f.Pushed}
			return err
		}); err != nil {
			return err
		}
		rows, _ = tx.Query(ctx, e.db.sql.records, part(uint64(seq)), devices, int64(seq))
		_, err := pgx.ForEachRow(rows, []any{&device, &value}, func() error {
			var r delivery.Record
			err := codec.DecodeRecord(&r, delivery.Key{Seq: seq, Device: string(device)}, value)
			states[r.Device] = delivery.DeliveryState{State: r.State, Attempts: r.Attempts, Pushed: r.PushAccepted}
			return err
		})
		return err
	})
	if err != nil {
		return nil, unavailable(fmt.Sprintf("deliveries of notification %d", seq), err)
	}
	out = make([]delivery.DeliveryState, 0, len(n.Devices))
	for _, device := range n.Devices {
		s := states[device]
		s.Device = device
		out = append(out, s)
	}
	return out, nil
}

// List implements delivery.Reader.
func (e *Engine) List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) error {
	below := int64(math.MaxInt64)
	if before != 0 && before < math.MaxInt64 {
		below = int64(before)
	}
	sql, args := e.db.sql.listAll, []any{below, page}
	if account != "" {
		sql, args = e.db.sql.listAccount, []any{below, page, []byte(account)}
	}
	for {
		args[0] = below
		var notes []*delivery.Notification
		var seq int64
		var content []byte
		ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
		err := each(ctx, e, sql, args, []any{&seq, &content}, func() error {
			n := new(delivery.Notification)
			if err := codec.DecodeNotification(n, delivery.Seq(seq), content); err != nil {
				return fmt.Errorf("notification %d: %w", seq, err)
			}
			notes = append(notes, n)
			return nil
		})
		cancel()
		if err != nil {
			return unavailable("list notifications", err)
		}
		for _, n := range notes {
			if !fn(n) {
				return nil
			}
		}
		if len(notes) < page {
			return nil
		}
		below = int64(notes[len(notes)-1].Seq)
	}
}

// Device implements delivery.Reader.
func (e *Engine) Device(id string) (*delivery.Device, error) {
	v, err := e.one("device "+id, e.db.sql.device, []byte(id))
	if err != nil {
		return nil, err
	}
	d := new(delivery.Device)
	if err := codec.DecodeDevice(d, id, v); err != nil {
		return nil, fmt.Errorf("device %s: %w", id, err)
	}
	return d, nil
}

func (e *Engine) entries(ctx context.Context, sql string, args ...any) (out []delivery.Device, err error) {
	var id, entry []byte
	err = each(ctx, e, sql, args, []any{&id, &entry}, func() error {
		var d delivery.Device
		if err := codec.DecodeDevice(&d, string(id), entry); err != nil {
			return fmt.Errorf("device %s: %w", id, err)
		}
		out = append(out, d)
		return nil
	})
	return out, err
}

// AccountDevices implements delivery.Reader.
func (e *Engine) AccountDevices(account string) ([]delivery.Device, error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	out, err := e.entries(ctx, e.db.sql.ofAccount, []byte(account))
	return out, unavailable("devices of account "+account, err)
}

// Devices implements delivery.Reader.
func (e *Engine) Devices(after string, fn func(*delivery.Device) bool) error {
	for {
		ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
		out, err := e.entries(ctx, e.db.sql.devices, []byte(after), page)
		cancel()
		if err != nil {
			return unavailable("read the registry", err)
		}
		for i := range out {
			if !fn(&out[i]) {
				return nil
			}
		}
		if len(out) < page {
			return nil
		}
		after = out[len(out)-1].ID
	}
}

// TokenOwner implements delivery.Reader. No error names the token, which is a secret.
func (e *Engine) TokenOwner(server, token string) (string, error) {
	v, err := e.one("holder of a push token of "+server, e.db.sql.owner, []byte(hashOf(server, token)))
	return string(v), err
}

// errEnough ends a reading early.
var errEnough = errors.New("enough")

// stream calls fn with every row of a shard in one statement, which is one snapshot, as the
// rows come. It is for readers that are quick and want all of it.
func (e *Engine) stream(what, sql string, of delivery.Shard, fn func(device []byte, seq delivery.Seq, value []byte) error) error {
	ctx, cancel := context.WithCancel(e.db.ctx)
	defer cancel() // one that ends early does not read the rest
	conn, err := e.db.pool.Acquire(ctx)
	if err != nil {
		return unavailable(what, err)
	}
	defer conn.Release()
	var device, value pgtype.DriverBytes
	var seq int64
	rows, err := conn.Query(ctx, sql, int64(of.Of), int64(of.Index))
	if err != nil {
		return unavailable(what, err)
	}
	for rows.Next() {
		if err := rows.Scan(&device, &seq, &value); err != nil {
			return unavailable(what, err)
		}
		if err := fn(device, delivery.Seq(seq), value); err != nil {
			cancel()
			rows.Close()
			if errors.Is(err, errEnough) {
				return nil
			}
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return unavailable(what, rows.Err())
}

// Unfinished implements delivery.Reader.
func (e *Engine) Unfinished(of delivery.Shard, fn func(*delivery.Record) bool) error {
	if of.Of == parts {
		b, err := e.Backlog([]uint16{of.Index})
		if err != nil {
			return err
		}
		return b.Unfinished(of, fn)
	}
	var (
		r    delivery.Record
		name string // shared by the device's Records
	)
	return e.stream("read unfinished deliveries", e.db.sql.unfinished, of, func(device []byte, seq delivery.Seq, value []byte) error {
		if string(device) != name {
			name = string(device)
		}
		if err := codec.DecodeRecord(&r, delivery.Key{Seq: seq, Device: name}, value); err != nil {
			return fmt.Errorf("record %d of device %s: %w", seq, name, err)
		}
		if !fn(&r) {
			return errEnough
		}
		return nil
	})
}

// Dismissals implements delivery.Reader.
func (e *Engine) Dismissals(of delivery.Shard, fn func(*delivery.Dismissal) bool) error {
	if of.Of == parts {
		b, err := e.Backlog([]uint16{of.Index})
		if err != nil {
			return err
		}
		return b.Dismissals(of, fn)
	}
	return e.stream("read dismissals", e.db.sql.dismissals, of, func(device []byte, seq delivery.Seq, value []byte) error {
		var d delivery.Dismissal
		if err := codec.DecodeDismissal(&d, delivery.Key{Seq: seq, Device: string(device)}, value); err != nil {
			return fmt.Errorf("dismissal %d of device %s: %w", seq, device, err)
		}
		if !fn(&d) {
			return errEnough
		}
		return nil
	})
}

// LastSeq implements delivery.Reader. It is that of the whole store, whatever the shard.
func (e *Engine) LastSeq(delivery.Shard) (uint64, error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	var last int64
	err := e.db.pool.QueryRow(ctx, e.db.sql.last).Scan(&last)
	return uint64(last), unavailable("read the highest number", err)
}

// Totals implements delivery.Reader.
func (e *Engine) Totals() (t delivery.Totals, err error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, readTimeout)
	defer cancel()
	err = e.db.pool.QueryRow(ctx, e.db.sql.totals).Scan(&t.Accepted, &t.Finished)
	return t, unavailable("read the totals", err)
}

var _ store.Auditor = (*Engine)(nil)

// auditTimeout bounds a count of all that is outstanding.
const auditTimeout = 5 * time.Minute

// Audit implements store.Auditor. It is one statement, and so one snapshot.
func (e *Engine) Audit() (a store.Audit, err error) {
	ctx, cancel := context.WithTimeout(e.db.ctx, auditTimeout)
	defer cancel()
	err = e.db.pool.QueryRow(ctx, e.db.sql.audit).Scan(&a.Accepted, &a.Finished, &a.Unfinished)
	a.Unaccounted = int64(a.Accepted - a.Finished - a.Unfinished)
	return a, unavailable("audit", err)
}

package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/store"
)

var _ store.State = (*Engine)(nil)

// scanTimeout bounds a scan. A database that no packet comes from holds it up no longer.
const scanTimeout = 30 * time.Second

// ScanState implements store.State.
func (e *Engine) ScanState(prefix string, fn func(key string, value []byte) error) error {
	type entry struct {
		key   string
		value []byte
	}
	var all []entry
	var key, value []byte
	ctx, cancel := context.WithTimeout(e.db.ctx, scanTimeout)
	defer cancel()
	err := each(ctx, e, e.db.sql.scanState, []any{[]byte(prefix), successor([]byte(prefix))}, []any{&key, &value}, func() error {
		all = append(all, entry{string(key), append([]byte(nil), value...)})
		return nil
	})
	if err != nil {
		return unavailable("scan MQTT state", err)
	}
	for _, x := range all { // fn may take its time, and call other methods
		if err := fn(x.key, x.value); err != nil {
			return err
		}
	}
	return nil
}

// stateTimeout bounds one change. One that takes longer may take effect still, if the fence
// allows it.
const stateTimeout = 10 * time.Second

// ApplyState implements store.State. It runs concurrently with Apply, on a connection of
// the pool, under the fence of the node.
func (e *Engine) ApplyState(changes []store.StateChange) error {
	const what = "apply MQTT state"
	if err := e.broken(); err != nil {
		return unavailable(what, err)
	}
	b := &pgx.Batch{}
	b.Queue(e.db.sql.own, e.node.member.ID, stateLane, e.session[stateLane])
	for i := range changes {
		c := &changes[i]
		switch {
		case c.Remove && c.Prefix:
			b.Queue(e.db.sql.removeStates, []byte(c.Key), successor([]byte(c.Key)))
		case c.Remove:
			b.Queue(e.db.sql.removeState, []byte(c.Key))
		default:
			b.Queue(e.db.sql.putState, []byte(c.Key), nonNilBytes(c.Value))
		}
	}
	ctx, cancel := context.WithTimeout(e.db.ctx, stateTimeout)
	defer cancel()
	if err := e.db.pool.SendBatch(ctx, b).Close(); err != nil {
		if code(err) == codeFenced {
			if broken := e.broken(); broken != nil { // the next session of this node has begun
				return unavailable(what, broken)
			}
			return e.node.fence(bare{err})
		}
		return unavailable(what, fmt.Errorf("%w", bare{err}))
	}
	return nil
}

func nonNilBytes(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// successor returns the first key that does not begin with prefix; nil: there is none.
func successor(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

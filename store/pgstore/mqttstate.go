package pgstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/store"
)

var _ store.State = (*Engine)(nil)

// scanTimeout bounds a scan. A database that no packet comes from holds it up no longer.
const scanTimeout = 30 * time.Second

// An index of PostgreSQL takes keys of some 2,700 bytes, and the name of a topic can be longer. An entry
// with a longKey is stored under the begin of its key and a hash, and has its key in its value.
// No key begins as longKey does.
const (
	longKey    = "\xff"
	longestKey = 1024 // that is stored as it is, and of a longer one that begins it
)

// short is what a stored key has of a long one before the hash.
func short(key string) string { return key[:min(len(key), longestKey)] }

// storedEntry returns an entry as the table has it.
func storedEntry(key string, value []byte) (storedKey, storedValue []byte) {
	if len(key) <= longestKey {
		return []byte(key), nonNilBytes(value)
	}
	sum := sha256.Sum256([]byte(key))
	return append([]byte(longKey+short(key)), sum[:]...), append(append(keySize(key), key...), value...)
}

// keySize begins the value of an entry with a longKey.
func keySize(key string) []byte { return binary.BigEndian.AppendUint32(nil, uint32(len(key))) }

// cutLong returns the key and the value of an entry with a longKey.
func cutLong(stored []byte) (key string, value []byte, err error) {
	if len(stored) >= 4 {
		if rest := stored[4:]; uint64(binary.BigEndian.Uint32(stored)) <= uint64(len(rest)) {
			size := binary.BigEndian.Uint32(stored)
			return string(rest[:size]), rest[size:], nil
		}
	}
	return "", nil, errors.New("an entry of the MQTT state is damaged")
}

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
	ranges := []string{prefix}
	if prefix != "" { // else that is all
		ranges = append(ranges, longKey+short(prefix))
	}
	for _, stored := range ranges {
		err := each(ctx, e, e.db.sql.scanState, []any{[]byte(stored), successor([]byte(stored))}, []any{&key, &value}, func() error {
			k, v := string(key), slices.Clone(value)
			if strings.HasPrefix(k, longKey) {
				var err error
				if k, v, err = cutLong(v); err != nil || !strings.HasPrefix(k, prefix) {
					return err
				}
			}
			all = append(all, entry{k, v})
			return nil
		})
		if err != nil {
			return unavailable("scan MQTT state", err)
		}
	}
	slices.SortStableFunc(all, func(x, y entry) int { return strings.Compare(x.key, y.key) })
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
			long := []byte(longKey + short(c.Key))
			b.Queue(e.db.sql.removeLongStates, long, successor(long), keySize(c.Key), []byte(c.Key))
			continue
		case len(c.Key) > longestKey: // an earlier version may have stored it as it is
			b.Queue(e.db.sql.removeState, []byte(c.Key))
		}
		if key, value := storedEntry(c.Key, c.Value); c.Remove {
			b.Queue(e.db.sql.removeState, key)
		} else {
			b.Queue(e.db.sql.putState, key, value)
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

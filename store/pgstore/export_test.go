package pgstore

import (
	"context"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// Rest makes an engine's lane one that has rested for long.
func Rest(e store.Engine) { e.(*Engine).used = time.Time{} }

// HurryPrune has a call of Prune pass over the rows of a day with one statement.
func HurryPrune(e store.Engine) { e.(*Engine).db.rowsFor = 0 }

// LaneSettings are those of a lane's session.
var LaneSettings = laneSettings

// LockDevices is the statement that locks the entries of a registration.
func LockDevices(d *DB) string { return d.sql.lockDevices }

// LooksUp reports whether a write of b would read the store first.
func LooksUp(e store.Engine, b *delivery.Batch) bool {
	notes, events, err := e.(*Engine).known(context.Background(), b)
	return notes != nil || events != nil || err != nil
}

// Settings are those of a session of the pool.
func (d *DB) Settings(t *testing.T, names ...string) (values []string) {
	t.Helper()
	for _, name := range names {
		var v string
		if err := d.pool.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&v); err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	return values
}

// FailOver has a node find another timeline of the database at its next connection.
func FailOver(n *Node) {
	n.beatMu.Lock()
	defer n.beatMu.Unlock()
	n.timeline = "0000FFFF"
	n.hangUpLocked()
}

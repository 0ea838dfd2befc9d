package pgstore

import (
	"context"
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

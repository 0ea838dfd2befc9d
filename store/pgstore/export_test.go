package pgstore

import (
	"time"

	"github.com/heartline-mqtt/heartline/store"
)

// Rest makes an engine's lane one that has rested for long.
func Rest(e store.Engine) { e.(*Engine).used = time.Time{} }

// LaneSettings are those of a lane's session.
var LaneSettings = laneSettings

// LockDevices is the statement that locks the entries of a registration.
func LockDevices(d *DB) string { return d.sql.lockDevices }

package pgstore

import (
	"time"

	"github.com/heartline-mqtt/heartline/store"
)

// Rest makes an engine's lane one that has rested for long.
func Rest(e store.Engine) { e.(*Engine).used = time.Time{} }

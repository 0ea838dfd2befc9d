package pebblestore

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestReadOnlyDoesNotCompact: a store that is opened for reading keeps new tables in memory. A compaction
// would put the others there, too.
func TestReadOnlyDoesNotCompact(t *testing.T) {
	fs := vfs.NewMem()
	s, err := Open("data", Options{Journal: true, FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(&delivery.Batch{PutDevices: []delivery.Device{{ID: "d", Account: "ann"}}, Sync: true}); err != nil {
		t.Fatal(err)
	}
	s.Abandon()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open("data", Options{ReadOnly: true, FS: fs}); err != nil {
		t.Fatal(err)
	}
	for range 20 { // as a replay of a long journal does
		if err := s.db.Set(keyScrub, nil, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if c := s.db.Metrics().Compact; c.Count != 0 || c.NumInProgress != 0 {
		t.Errorf("%d compactions, and %d in progress", c.Count, c.NumInProgress)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

package pebblestore_test

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// TestIngestsTheLastChange: a fold that becomes tables of its own keeps the last change of
// each key, whatever their order was.
func TestIngestsTheLastChange(t *testing.T) {
	fs := newFaulty(vfs.NewMem())
	var created atomic.Int64
	fs.on(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && filepath.Base(filepath.Dir(op.Path)) == "fold.new" {
			created.Add(1)
		}
		return nil
	})
	var warnings strings.Builder // that a fold went through Pebble's memory instead
	log := slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn}))
	so := pebblestore.Options{Journal: true, FS: fs, MemTableBytes: 64 << 10, Logger: log}
	s := open(t, "data", so)
	want := map[string]string{}
	for round := range 3 {
		for i := range 60 {
			key := fmt.Sprintf("k%02d", (7*i+round)%60)
			old, value := strings.Repeat("o", 200), fmt.Sprint(round, i)
			want[key] = value
			changes := []store.StateChange{{Key: key, Value: []byte(old)}, {Key: key, Value: []byte(value)}}
			if i%3 == 0 {
				changes = append(changes, store.StateChange{Key: key, Remove: true})
				delete(want, key)
			}
			if err := s.ApplyState(changes); err != nil {
				t.Fatal(err)
			}
		}
		if got := stateOf(t, s); !maps.Equal(got, want) { // the read folds
			t.Errorf("round %d: state is %v, want %v", round, got, want)
		}
		if created.Swap(0) == 0 {
			t.Errorf("round %d: no table was made", round)
		}
	}
	s.Abandon()
	closeStore(t, s)
	s = open(t, "data", so)
	if got := stateOf(t, s); !maps.Equal(got, want) {
		t.Errorf("opened again, state is %v, want %v", got, want)
	}
	closeStore(t, s)
	if warnings.Len() > 0 {
		t.Error(warnings.String())
	}
}

func stateOf(t *testing.T, s *pebblestore.Store) map[string]string {
	t.Helper()
	got := map[string]string{}
	if err := s.ScanState("", func(key string, value []byte) error {
		got[key] = string(value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

package pebblestore_test

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
	"github.com/heartline-mqtt/heartline/store/storetest"
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

// TestIngestsBehindASmallFold: a large fold reaches the disk behind an earlier small one, which only
// Pebble's memory has, wherever a crash falls.
func TestIngestsBehindASmallFold(t *testing.T) {
	fs := vfs.NewCrashableMem()
	so := pebblestore.Options{Journal: true, FS: fs, MemTableBytes: 64 << 10}
	s := open(t, "data", so)
	apply(t, s, accept(1), accept(2))
	_ = storetest.Picture(t, s) // the read folds
	for seq := delivery.Seq(3); seq < 200; seq++ {
		apply(t, s, accept(seq))
	}
	want := storetest.Picture(t, s)
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	s.Abandon()
	closeStore(t, s)
	so.FS = crashed
	s = open(t, "data", so)
	if got := storetest.Picture(t, s); got != want {
		t.Errorf("was\n%.2000s\nand is\n%.2000s", want, got)
	}
	closeStore(t, s)
}

// TestScrubClearsTables: what an ingestion could not remove leaves the disk before Scrub reports
// that it is done.
func TestScrubClearsTables(t *testing.T) {
	fs := newFaulty(vfs.NewMem())
	s := open(t, "data", pebblestore.Options{Journal: true, FS: fs, MemTableBytes: 64 << 10})
	fs.on(failing(syscall.EIO, errorfs.OpRemove)("fold.new"))
	for seq := range delivery.Seq(200) {
		apply(t, s, accept(seq+1))
	}
	_ = storetest.Picture(t, s)
	left, err := fs.List("data/fold.new")
	if err != nil || len(left) == 0 {
		t.Fatalf("files %v are left (error %v)", left, err)
	}
	apply(t, s, &delivery.Batch{Erase: []delivery.Seq{1}, Sync: true})
	if _, err := s.Scrub(t.Context(), time.Now().Add(time.Hour)); !errors.Is(err, syscall.EIO) {
		t.Errorf("scrubbed with %v", err)
	}
	fs.off()
	if done, err := s.Scrub(t.Context(), time.Now().Add(time.Hour)); !done || err != nil {
		t.Errorf("done %v, error %v", done, err)
	}
	if left, err := fs.List("data/fold.new"); err != nil || len(left) > 0 {
		t.Errorf("files %v are left (error %v)", left, err)
	}
	closeStore(t, s)
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

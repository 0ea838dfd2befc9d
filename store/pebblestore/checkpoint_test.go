package pebblestore_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// TestCheckpoint: a checkpoint that is made while others write holds everything that
// was applied before it, in whole batches, and the MQTT state.
func TestCheckpoint(t *testing.T) { both(t, testCheckpoint) }

func testCheckpoint(t *testing.T, journal bool) {
	dir := t.TempDir()
	s := open(t, dir, pebblestore.Options{Journal: journal, MemTableBytes: 256 << 10})
	if err := s.ApplyState([]store.StateChange{{Key: "retained", Value: []byte("on")}}); err != nil {
		t.Fatal(err)
	}
	var last atomic.Uint64
	var writer sync.WaitGroup
	stop := make(chan struct{})
	begun := make(chan struct{})
	writer.Go(func() {
		for seq := delivery.Seq(1); ; seq++ {
			select {
			case <-stop:
				return
			default:
			}
			b := accept(seq)
			b.Accept[0].Data = make([]byte, 4<<10)
			apply(t, s, b)
			if seq%2 == 0 {
				apply(t, s, &delivery.Batch{Finish: []delivery.Finish{{Key: delivery.Key{Seq: seq - 1, Device: "phone"}, At: start}}})
			}
			if last.Store(uint64(seq)); seq == 500 {
				close(begun)
			}
		}
	})
	<-begun
	for range 3 {
		before := last.Load()
		checkpoint, remove, err := s.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Checkpoint(); !errors.Is(err, store.ErrCheckpointExists) {
			t.Errorf("a second checkpoint at a time: %v", err)
		}
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(checkpoint)); err != nil {
			t.Fatal(err)
		}
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(checkpoint); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the checkpoint is left: %v", err)
		}
		for _, readOnly := range []bool{true, false} {
			c := open(t, copied, pebblestore.Options{Journal: journal, ReadOnly: readOnly})
			audit, err := store.AuditEngine(c)
			if err != nil || audit.Unaccounted != 0 || audit.Accepted < before {
				t.Errorf("got %+v (error %v), want at least %d accepted and none unaccounted for", audit, err, before)
			}
			for seq := range delivery.Seq(before) {
				if _, err := c.Notification(seq + 1); err != nil {
					t.Errorf("notification %d of %d: %v", seq+1, before, err)
				}
			}
			kept := ""
			if err := c.ScanState("", func(key string, value []byte) error { kept += key + "=" + string(value); return nil }); err != nil || kept != "retained=on" {
				t.Errorf("MQTT state: got %q (error %v)", kept, err)
			}
			closeStore(t, c)
		}
	}
	close(stop)
	writer.Wait()
	closeStore(t, s)
}

// TestCheckpointOnAFullDisk: a checkpoint that fails leaves nothing, and the store works.
func TestCheckpointOnAFullDisk(t *testing.T) { both(t, testCheckpointOnAFullDisk) }

func testCheckpointOnAFullDisk(t *testing.T, journal bool) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpLink, errorfs.OpMkdirAll, errorfs.OpFileSync} {
		fs := newFaulty(vfs.NewMem())
		s, err := pebblestore.Open("data", pebblestore.Options{Journal: journal, FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		apply(t, s, accept(1))
		fs.on(failing(syscall.ENOSPC, kind)("backup.new"))
		_, _, err = s.Checkpoint()
		if err == nil && kind != errorfs.OpLink { // no table yet, or copied instead
			t.Errorf("kind %v: a checkpoint on a full disk", kind)
		}
		if _, serr := fs.Stat("data/backup.new"); err != nil && !errors.Is(serr, os.ErrNotExist) {
			t.Errorf("kind %v: a part of a checkpoint is left (%v)", kind, serr)
		}
		if err := s.Apply(accept(2)); err != nil {
			t.Errorf("kind %v: the store after it: %v", kind, err)
		}
		fs.off()
		if err != nil {
			if _, _, err := s.Checkpoint(); err != nil {
				t.Errorf("kind %v: once there is room: %v", kind, err)
			}
		}
		closeStore(t, s)
	}
}

// TestUnfinishedCheckpointIsRemoved: of a process that died.
func TestUnfinishedCheckpointIsRemoved(t *testing.T) { both(t, testUnfinishedCheckpointIsRemoved) }

func testUnfinishedCheckpointIsRemoved(t *testing.T, journal bool) {
	dir := filled(t, journal)
	left := filepath.Join(dir, "backup.new")
	if err := os.CopyFS(filepath.Join(left, "db"), os.DirFS(filepath.Join(dir, "db"))); err != nil {
		t.Fatal(err)
	}
	closeStore(t, open(t, dir, pebblestore.Options{Journal: journal}))
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

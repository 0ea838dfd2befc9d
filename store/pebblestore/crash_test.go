package pebblestore_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

func opener(dir string, o pebblestore.Options) func(bool) (store.Engine, error) {
	return func(readOnly bool) (store.Engine, error) {
		o := o
		o.ReadOnly = readOnly
		return pebblestore.Open(dir, o)
	}
}

// acceptUnderLoad is the child of TestKill: it accepts and finishes on several
// goroutines, prints each Seq once it was told that it is accepted, and goes on
// until it is killed.
func acceptUnderLoad(t *testing.T, dir string, journal bool) {
	o, err := store.New(store.Options{Open: opener(dir, pebblestore.Options{Journal: journal, MemTableBytes: 512 << 10})})
	if err != nil {
		t.Fatal(err)
	}
	last, err := o.LastSeq(delivery.Shard{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	next := func() delivery.Seq {
		mu.Lock()
		defer mu.Unlock()
		last++
		return delivery.Seq(last)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				seq := next()
				if err := commit(o, accept(seq)); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				fmt.Println(seq) // one write: whole or not at all
				mu.Unlock()
				if seq%2 == 0 {
					o.Commit(&delivery.Batch{
						Events: []delivery.Event{{Seq: seq, Number: uint64(next()), Time: start, Kind: delivery.EventReceived}},
						Finish: []delivery.Finish{{Key: delivery.Key{Seq: seq, Device: "phone"}, At: start}},
					}, nil)
				}
			}
		})
	}
	wg.Wait()
}

// TestKill kills a process with kill -9 while it accepts: nothing that it was told
// is accepted is missing, round after round on the same directory.
func TestKill(t *testing.T) { both(t, testKill) }

func testKill(t *testing.T, journal bool) {
	dir := t.TempDir()
	var told []delivery.Seq
	for round := range 3 {
		what := "accept"
		if journal {
			what = "accept journal"
		}
		c := helper(t, what, dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n, stop := 0, 200+rand.IntN(800); lines.Scan(); n++ {
			var seq delivery.Seq
			if _, err := fmt.Sscan(lines.Text(), &seq); err != nil {
				t.Fatalf("the child said %q", lines.Text())
			}
			told = append(told, seq)
			if n == stop {
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				// Its output up to now counts too: it is read to the end.
			}
		}
		_ = c.Wait() // "signal: killed"
		s := open(t, dir, pebblestore.Options{Journal: journal})
		whole(t, s, told)
		closeStore(t, s)
		if round == 0 && len(told) == 0 {
			t.Fatal("the child has accepted nothing")
		}
	}
	t.Logf("%d accepted", len(told))
}

// whole checks that all of told is there and that the counts add up.
func whole(t *testing.T, s *pebblestore.Store, told []delivery.Seq) {
	t.Helper()
	missing := 0
	for _, seq := range told {
		n, err := s.Notification(seq)
		if err == nil {
			_, err = s.Lookup(n.ID)
		}
		if err != nil {
			if missing++; missing < 10 {
				t.Logf("missing: %v", err)
			}
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d are missing", missing, len(told))
	}
	unfinished := uint64(0)
	if err := s.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { unfinished++; return true }); err != nil {
		t.Error(err)
	}
	if got, err := s.Totals(); err != nil || got.Accepted != got.Finished+unfinished {
		t.Errorf("totals %+v (error %v) and %d unfinished", got, err, unfinished)
	}
}

// TestPowerLoss takes the disk as it may be after a loss of power at any moment:
// unsynced data is there in part. All confirmed data is there, and the store opens.
func TestPowerLoss(t *testing.T) { both(t, testPowerLoss) }

func testPowerLoss(t *testing.T, journal bool) {
	fs := vfs.NewCrashableMem()
	so := pebblestore.Options{Journal: journal, FS: fs, MemTableBytes: 64 << 10}
	o, err := store.New(store.Options{Open: opener("data", so)})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var last delivery.Seq
	var told []delivery.Seq
	one := make(chan struct{}) // lets one more be accepted
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range one {
				mu.Lock()
				last++
				seq := last
				mu.Unlock()
				if err := commit(o, accept(seq)); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				told = append(told, seq)
				mu.Unlock()
				o.Commit(&delivery.Batch{Finish: []delivery.Finish{{Key: delivery.Key{Seq: seq, Device: "phone"}, At: start}}}, nil)
			}
		})
	}
	t.Cleanup(func() { // in every case: nobody may be left behind
		close(one)
		wg.Wait()
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("%d accepted", len(told))
	})
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 12 {
		for range 20 + random.IntN(40) {
			one <- struct{}{} // the last few are still under way
		}
		mu.Lock()
		before := slices.Clip(told)
		mu.Unlock()
		lost := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[round%3], RNG: random})
		after := pebblestore.Options{Journal: journal, FS: lost, MemTableBytes: so.MemTableBytes}
		for range 2 { // and the directory is as good as before
			s := open(t, "data", after)
			whole(t, s, before)
			closeStore(t, s)
		}
	}
}

// TestPowerLossWhileMaking: a store is made whole, or can be made again.
func TestPowerLossWhileMaking(t *testing.T) { both(t, testPowerLossWhileMaking) }

func testPowerLossWhileMaking(t *testing.T, journal bool) {
	fs := vfs.NewCrashableMem()
	faulty := newFaulty(fs)
	random := rand.New(rand.NewPCG(3, 4))
	var mu sync.Mutex
	var clones []*vfs.MemFS
	faulty.on(func(op errorfs.Op) error { // at each step
		mu.Lock()
		defer mu.Unlock()
		clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[len(clones)%3], RNG: random}))
		return nil
	})
	closeStore(t, open(t, "data", pebblestore.Options{Journal: journal, FS: faulty}))
	for i, c := range clones {
		s, err := pebblestore.Open("data", pebblestore.Options{Journal: journal, FS: c})
		if err != nil {
			t.Errorf("after step %d of %d: %v", i, len(clones), err)
			continue
		}
		apply(t, s, accept(1))
		closeStore(t, s)
	}
	t.Logf("%d steps", len(clones))
}

package pebblestore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// batches of one notification's way: accepted, then received and finished.
func journey(seq delivery.Seq, device string) (accept, finish *delivery.Batch) {
	n := &delivery.Notification{
		Seq: seq, ID: fmt.Sprintf("0193a5b2-7e11-7000-8000-%012x", uint64(seq)), Account: "ann@example.com",
		Title: "Front door", Body: "The front door has been open for five minutes.", Ack: delivery.AckReceived,
		Urgency: delivery.UrgencyHigh, Fallback: true, AcceptedAt: start, ExpiresAt: start.Add(24 * time.Hour),
		Devices: []string{device},
	}
	accept = &delivery.Batch{Accept: []delivery.Acceptance{{Notification: n}}, Sync: true}
	finish = &delivery.Batch{
		Events: []delivery.Event{
			{Seq: seq, Number: uint64(seq) + 1, Time: start, Kind: delivery.EventPublished, Device: device, Attempt: 1},
			{Seq: seq, Number: uint64(seq) + 2, Time: start, Kind: delivery.EventReceived, Device: device, Attempt: 1},
		},
		Finish: []delivery.Finish{{Key: delivery.Key{Seq: seq, Device: device}, At: start}},
	}
	return accept, finish
}

// BenchmarkEngine is the engine's own work for one notification: in memory files,
// 64 in a group, as under load.
func BenchmarkEngine(b *testing.B) { bothOf(b, benchmarkEngine) }

func bothOf(b *testing.B, run func(*testing.B, bool)) {
	b.Run("disk", func(b *testing.B) { run(b, false) })
	b.Run("journal", func(b *testing.B) { run(b, true) })
}

func benchmarkEngine(b *testing.B, journal bool) {
	s, err := pebblestore.Open("data", pebblestore.Options{Journal: journal, FS: vfs.NewMem()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	var accepts, finishes delivery.Batch
	for i := 0; b.Loop(); i++ {
		a, f := journey(delivery.Seq(3*i+3), fmt.Sprintf("device-%05d", i%10000))
		accepts.Merge(a)
		finishes.Merge(f)
		if i%64 == 63 {
			for _, m := range []*delivery.Batch{&accepts, &finishes} {
				if err := s.Apply(m); err != nil {
					b.Fatal(err)
				}
				*m = delivery.Batch{Accept: m.Accept[:0], Events: m.Events[:0], Finish: m.Finish[:0]}
			}
		}
	}
}

// BenchmarkOutbox is the whole of it on a disk: each notification accepted, synced,
// and then finished, by 256 callers at once.
func BenchmarkOutbox(b *testing.B) { bothOf(b, benchmarkOutbox) }

func benchmarkOutbox(b *testing.B, journal bool) {
	o, err := store.New(store.Options{Open: opener(b.TempDir(), pebblestore.Options{Journal: journal})})
	if err != nil {
		b.Fatal(err)
	}
	var last atomic.Uint64
	var was syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &was); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetParallelism(max(1, 256/runtime.GOMAXPROCS(0)))
	b.RunParallel(func(pb *testing.PB) {
		done := make(chan error, 1)
		for pb.Next() {
			i := last.Add(1)
			a, f := journey(delivery.Seq(3*i), fmt.Sprintf("device-%05d", i%10000))
			o.Commit(a, func(err error) { done <- err })
			if err := <-done; err != nil {
				b.Error(err)
			}
			o.Commit(f, nil)
		}
	})
	s := o.Stats()
	var now syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &now); err != nil {
		b.Fatal(err)
	}
	cpu := now.Utime.Nano() + now.Stime.Nano() - was.Utime.Nano() - was.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N)/1000, "cpu-µs/op")
	b.ReportMetric(float64(s.Commits)/float64(s.Writes), "batches/write")
	b.ReportMetric(float64(s.SyncTime.Microseconds())/float64(s.Synced), "µs/sync")
	if err := o.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStart opens a store with a million unfinished deliveries of 10,000
// devices and iterates over them. Run it with -benchtime=1x.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	const n = 1_000_000
	s, err := pebblestore.Open(dir, pebblestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var batch delivery.Batch
	for i := range n {
		a, _ := journey(delivery.Seq(i+1), fmt.Sprintf("device-%05d", i%10000))
		batch.Merge(a)
		if batch.Sync = false; len(batch.Accept) == 1000 {
			if err := s.Apply(&batch); err != nil {
				b.Fatal(err)
			}
			batch.Accept = batch.Accept[:0]
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		s, err := pebblestore.Open(dir, pebblestore.Options{})
		if err != nil {
			b.Fatal(err)
		}
		opened := time.Since(began)
		count := 0
		if err := s.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { count++; return true }); err != nil || count != n {
			b.Fatalf("%d records (error %v)", count, err)
		}
		b.ReportMetric(opened.Seconds(), "s/open")
		b.ReportMetric((time.Since(began) - opened).Seconds(), "s/iterate")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPrune prunes finished notifications, 64 at a time.
func BenchmarkPrune(b *testing.B) {
	s, err := pebblestore.Open(b.TempDir(), pebblestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var accepts, finishes delivery.Batch
	for i := range b.N {
		a, f := journey(delivery.Seq(3*i+3), fmt.Sprintf("device-%05d", i%10000))
		accepts.Merge(a)
		finishes.Merge(f)
		if i%500 == 499 || i == b.N-1 {
			for _, m := range []*delivery.Batch{&accepts, &finishes} {
				m.Sync = false
				if err := s.Apply(m); err != nil {
					b.Fatal(err)
				}
				*m = delivery.Batch{}
			}
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; {
		n, err := s.Prune(start.Add(time.Hour), 64)
		if err != nil || n == 0 {
			b.Fatalf("pruned %d, %d left (error %v)", n, left, err)
		}
		left -= n
	}
}

// BenchmarkReplay opens a store after a kill. "waiting" has a gigabyte of journal and nothing of it
// in tables, since the disk was full; its segments are larger than by default. "under load" is the
// default store with a million notifications. Run it with -benchtime=1x.
func BenchmarkReplay(b *testing.B) {
	full := newFaulty(vfs.Default)
	b.Run("waiting", func(b *testing.B) {
		benchmarkReplay(b, pebblestore.Options{Journal: true, MemTableBytes: 512 << 20, FS: full}, func(all int64) bool {
			full.on(failing(syscall.ENOSPC, errorfs.OpCreate)(".sst"))
			return all >= 1<<30
		})
	})
	b.Run("under load", func(b *testing.B) {
		written := 0
		benchmarkReplay(b, pebblestore.Options{Journal: true}, func(int64) bool {
			written++
			return written == 20
		})
	})
}

// benchmarkReplay kills the store once `enough` is true, which gets the bytes of the journal after
// every 64 Ki notifications.
func benchmarkReplay(b *testing.B, o pebblestore.Options, enough func(all int64) bool) {
	killed := filepath.Join(b.TempDir(), "killed")
	s, err := pebblestore.Open(killed, o)
	if err != nil {
		b.Fatal(err)
	}
	n, all := 0, int64(0)
	for !enough(all) {
		for range 1 << 10 {
			var accepts, finishes delivery.Batch
			for range 64 {
				n++
				a, f := journey(delivery.Seq(3*n), fmt.Sprintf("device-%05d", n%10000))
				accepts.Merge(a)
				finishes.Merge(f)
			}
			for _, m := range []*delivery.Batch{&accepts, &finishes} {
				m.Sync = false
				if err := s.Apply(m); err != nil {
					b.Fatal(err)
				}
			}
		}
		all = 0
		for _, name := range glob(b, killed, "journal/j*.log") {
			info, err := os.Stat(name)
			if err != nil {
				b.Fatal(err)
			}
			all += info.Size()
		}
	}
	s.Abandon()
	_ = s.Close()
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "data")
		if err := os.CopyFS(dir, os.DirFS(killed)); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		s, err := pebblestore.Open(dir, pebblestore.Options{Journal: true})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/open")
		b.ReportMetric(float64(n), "notifications")
		b.ReportMetric(float64(all)/(1<<20), "MiB")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// pruning measures what pruning costs those whose notifications are accepted
// meanwhile: n finished notifications are pruned under `rate` accepts a second, and
// the same accepts are made without.
func pruning(dir string, n, rate int) error {
	with, pruned, err := acceptWhilePruning(filepath.Join(dir, "prune"), n, rate, 0)
	if err != nil {
		return err
	}
	without, _, err := acceptWhilePruning(filepath.Join(dir, "keep"), 0, rate, max(pruned, 10*time.Second))
	if err != nil {
		return err
	}
	p := func(ds []time.Duration, of float64) time.Duration {
		return ds[int(of*float64(len(ds)-1))].Round(10 * time.Microsecond)
	}
	fmt.Fprintf(os.Stdout, "pruned %d finished notifications in %s: %.0f/s\n", n, pruned.Round(time.Millisecond), float64(n)/pruned.Seconds())
	fmt.Fprintf(os.Stdout, "%-22s %-9s %-10s %-10s %s\n", fmt.Sprintf("%d accepts/s", rate), "accepts", "p50", "p99", "max")
	fmt.Fprintf(os.Stdout, "%-22s %-9d %-10s %-10s %s\n", "without pruning", len(without), p(without, 0.5), p(without, 0.99), p(without, 1))
	fmt.Fprintf(os.Stdout, "%-22s %-9d %-10s %-10s %s\n", "while it is pruned", len(with), p(with, 0.5), p(with, 0.99), p(with, 1))
	fmt.Fprintf(os.Stdout, "p99 with / without: %.2f\n", float64(p(with, 0.99))/float64(p(without, 0.99)))
	return nil
}

// acceptWhilePruning fills a store with n finished notifications, and accepts others
// until all of those are pruned, or for a while if there are none.
func acceptWhilePruning(dir string, n, rate int, while time.Duration) (sorted []time.Duration, took time.Duration, err error) {
	const old = 73 * time.Hour
	if err := fillFinished(dir, n, time.Now().Add(-old)); err != nil {
		return nil, 0, err
	}
	out, err := store.New(store.Options{HousekeepingInterval: 100 * time.Millisecond, History: 72 * time.Hour, Open: func(readOnly bool) (store.Engine, error) {
		return pebblestore.Open(dir, pebblestore.Options{ReadOnly: readOnly})
	}})
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	t := time.NewTicker(time.Second / time.Duration(rate))
	defer t.Stop()
	began := time.Now()
	for i := 0; ; i++ {
		switch took = time.Since(began); {
		case n > 0 && out.Stats().Pruned >= uint64(n), n == 0 && took > while: // a count
			wg.Wait()
			slices.Sort(sorted)
			return sorted, took, failed
		case took > 30*time.Minute:
			return nil, 0, errors.New("pruning does not end")
		}
		<-t.C
		start := time.Now()
		wg.Add(1)
		out.Commit(acceptance(delivery.Seq(start.UnixNano()), i, start), func(err error) { // after 1970
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			sorted, failed = append(sorted, time.Since(start)), errors.Join(failed, err)
		})
	}
}

func acceptance(seq delivery.Seq, i int, at time.Time) *delivery.Batch {
	return &delivery.Batch{Sync: true, Accept: []delivery.Acceptance{{Notification: &delivery.Notification{
		Seq: seq, ID: delivery.NewID(seq), Account: device(i % 1000), Title: "Front door", Body: "The front door has been open for five minutes.",
		Ack: delivery.AckReceived, Urgency: delivery.UrgencyHigh, Fallback: true, AcceptedAt: at, ExpiresAt: at.Add(24 * time.Hour),
		Devices: []string{device(i % 1000)},
	}}}}
}

// fillFinished makes a store of n notifications that were accepted, published, acked
// and so finished at a time.
func fillFinished(dir string, n int, at time.Time) error {
	s, err := pebblestore.Open(dir, pebblestore.Options{})
	if err != nil {
		return err
	}
	for i := 0; i < n; {
		var accept, finish delivery.Batch
		for range min(500, n-i) {
			seq := delivery.Seq(at.UnixNano()) + delivery.Seq(i)*1000 // after 1970
			a := acceptance(seq, i, at)
			d := a.Accept[0].Notification.Devices[0]
			accept.Accept = append(accept.Accept, a.Accept...)
			finish.Events = append(finish.Events,
				delivery.Event{Seq: seq, Number: uint64(seq) + 1, Time: at, Kind: delivery.EventPublished, Device: d, Attempt: 1},
				delivery.Event{Seq: seq, Number: uint64(seq) + 2, Time: at, Kind: delivery.EventReceived, Device: d, Attempt: 1})
			finish.Finish = append(finish.Finish, delivery.Finish{Key: delivery.Key{Seq: seq, Device: d}, At: at, State: delivery.StateAcked, Attempts: 1})
			i++
		}
		if err := errors.Join(s.Apply(&accept), s.Apply(&finish)); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	return s.Close()
}

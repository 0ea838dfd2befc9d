package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/delivery"
)

func idleRouter() *cluster.Router {
	return cluster.NewRouter(cluster.RouterOptions{Observers: &delivery.Observers{}, Parts: parts, Name: "n", Hold: time.Minute, Log: slog.New(slog.DiscardHandler)})
}

// TestRouterClose: every request that is held, or comes during or after Close, is refused,
// and after Close no goroutine begins. The race detector watches the rest.
func TestRouterClose(t *testing.T) {
	for range 50 {
		r := idleRouter()
		var callers, answers sync.WaitGroup
		for range 8 {
			answers.Add(1)
			callers.Go(func() {
				r.AcceptAsync(delivery.Request{Account: "a", Title: "t"}, func(_ delivery.Receipt, err error) {
					defer answers.Done()
					if !errors.Is(err, delivery.ErrStopped) {
						t.Errorf("during Close: %v", err)
					}
				})
			})
		}
		callers.Go(r.Close)
		r.Close()
		callers.Wait()
		answers.Wait()
		refused := false // without a lock: the answer comes before AcceptAsync returns
		r.AcceptAsync(delivery.Request{Account: "a", Title: "t"}, func(_ delivery.Receipt, err error) { refused = errors.Is(err, delivery.ErrStopped) })
		if !refused {
			t.Fatal("a request after Close was not refused at once")
		}
	}
}

// TestNodeLifecycle: Stop is safe before Start, twice and twice at once, Start fails
// without a trace and does nothing the second time or after Stop.
func TestNodeLifecycle(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		ctx := context.Background()
		router := idleRouter()
		defer router.Close()
		node := func(m *machine) *cluster.Node {
			return cluster.NewNode(cluster.NodeOptions{
				Join:   func(context.Context) (cluster.Life, error) { return b.join(m) },
				Router: router, Lease: lease, Log: slog.New(slog.DiscardHandler),
			})
		}
		lives := func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.members)
		}
		never := node(&machine{name: "never"})
		for range 2 {
			if err := never.Stop(ctx); err != nil {
				t.Errorf("never started: %v", err)
			}
		}
		if err := never.Start(ctx); !errors.Is(err, delivery.ErrStopped) {
			t.Errorf("start after stop: %v", err)
		}
		if lives() != 0 {
			t.Error("it joined after its stop")
		}

		b.away = true
		n := node(&machine{name: "n"})
		if err := n.Start(ctx); !errors.Is(err, errAway) {
			t.Errorf("start without a database: %v", err)
		}
		b.away = false
		for range 2 {
			if err := n.Start(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if lives() != 1 {
			t.Errorf("%d lives after two starts, want 1", lives())
		}
		var stops sync.WaitGroup
		for range 3 {
			stops.Go(func() {
				if err := n.Stop(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		stops.Wait()
		if lives() != 0 {
			t.Errorf("%d lives after the stop", lives())
		}
	})
}

// After a fail-over of the database no write of the lives before counts, though it still has
// them: their nodes end them and join again at once, and nobody waits for the end of a lease.
func TestDatabaseFailsOver(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		one, two := b.machine("one"), b.machine("two")
		time.Sleep(12 * time.Second)
		before := map[string]delivery.Seq{}
		for i := range 40 {
			account := fmt.Sprint("a", i)
			before[account] = accept(t, account, one, two)
		}
		b.mu.Lock()
		b.outlived = b.last
		b.mu.Unlock()
		for account := range before { // the nodes notice it
			_, _ = one.router.Accept(t.Context(), delivery.Request{Account: account, Title: "t"})
		}
		time.Sleep(lease / 2)
		b.want(map[string]int{"one": 6, "two": 6})
		for account, seq := range before {
			if after := accept(t, account, one, two); after <= seq {
				t.Errorf("%s: %d after %d", account, after, seq)
			}
		}
		b.mu.Lock()
		for id := range b.members {
			if id <= b.outlived {
				t.Errorf("life %d goes on", id)
			}
		}
		b.mu.Unlock()
		if b.fencing != 0 {
			t.Error("lives ended by others:", b.fencing)
		}
		one.stop(t)
		two.stop(t)
	})
}

package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// lostOwner is an owner at another node that is lost after each acceptance.
type lostOwner struct{ owner }

func (lostOwner) AcceptAsync(_ delivery.Request, done func(delivery.Receipt, error)) {
	done(delivery.Receipt{}, fmt.Errorf("the relay has ended: %w", delivery.ErrStopped))
}

// TestHeldAtStop: a stop refuses the requests that are held for an owner. Where a former owner may
// have accepted one, the answer says so.
func TestHeldAtStop(t *testing.T) {
	out, err := store.New(store.Options{Open: func(bool) (store.Engine, error) { return memory.New(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	stopped := delivery.New(delivery.Options{Windows: delivery.Windows{Ack: time.Second, Fallback: time.Second}, Ack: delivery.AckReceived, TTL: time.Hour}, out.View(), nil, slog.New(slog.DiscardHandler))
	stopped.Abandon()
	for name, c := range map[string]struct {
		former owner
		want   error
	}{
		"no owner yet":               {nil, delivery.ErrStopped},
		"a Core here that has ended": {stopped, delivery.ErrStopped},
		"another node that was lost": {lostOwner{}, delivery.ErrInDoubt},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRouter(RouterOptions{Observers: &delivery.Observers{}, Parts: 1, Name: "n", Hold: time.Minute, Log: slog.New(slog.DiscardHandler)})
			r.setOwner(0, 1, c.former)
			answer := make(chan error, 1)
			r.AcceptAsync(delivery.Request{Account: "a", Title: "t"}, func(_ delivery.Receipt, err error) { answer <- err })
			select {
			case err := <-answer:
				t.Fatal("not held:", err)
			default:
			}
			r.Close()
			if err := <-answer; !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

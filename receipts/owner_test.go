package receipts_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
)

// part is the partition of the webhook of these tests.
const part = 7

// owner is a node that may own the webhook, and a life of it.
type owner struct {
	*receipts.Receipts
	w    *world
	name string
	tail *receipts.Tail
	life *life
}

// life is the state of the world under the fence of one owner.
type life struct {
	*state
	fenced, doubted atomic.Bool
	late            atomic.Int64 // writes after the end
}

func (l *life) ApplyState(changes []store.StateChange) error {
	if l.fenced.Load() {
		l.late.Add(1)
		return store.ErrFenced
	}
	return l.state.ApplyState(changes)
}

func (l *life) trusted() error {
	if l.doubted.Load() {
		return delivery.ErrUnavailable
	}
	return nil
}

func (w *world) owner(name string) *owner {
	w.Helper()
	o := &owner{w: w, name: name, tail: receipts.NewSlowTail(w.core, w.pause)}
	var err error
	o.Receipts, err = receipts.New(receipts.Options{
		Core: w.core, State: w.state, Tail: o.tail, Retain: 7 * 24 * time.Hour, Agent: name, Logger: slog.New(slog.DiscardHandler),
		Hold: w.hold, Part: func(string) uint16 { return part }, Node: func(uint16) string { return "other" },
	}.WithTransport(w).WithMaxAside(maxAside), w.hooks)
	if err != nil {
		w.Fatal(err)
	}
	o.Start()
	return o
}

func (o *owner) take() {
	o.life = &life{state: o.w.state}
	o.Take(part, receipts.Tenure{State: o.life, Trusted: o.life.trusted})
}

func (o *owner) stop() {
	o.Stop(context.Background())
	o.tail.Stop()
}

// inCluster is a world without a Receipts of its own.
func inCluster(t *testing.T, test func(w *world)) {
	inWorld(t, func(w *world) {
		w.stop()
		w.state = &state{values: map[string][]byte{}}
		test(w)
		w.start() // for the end of the world
	})
}

// The owner alone sends. Its successor goes on behind it, and nothing comes twice where
// the owner has given the webhook up.
func TestYield(t *testing.T) {
	inCluster(t, func(w *world) {
		one, two := w.owner("one"), w.owner("two")
		one.take()
		var seqs []delivery.Seq
		for round, o := range []*owner{one, two, one, two} {
			if round > 0 {
				o.take()
			}
			for i := range 20 {
				seqs = append(seqs, w.notify(fmt.Sprint("account", i)))
			}
			for _, seq := range seqs {
				w.events(seq, delivery.EventPublished)
			}
			settle(time.Duration(round) * 50 * time.Millisecond) // also while it reads and sends
			o.Yield(context.Background(), part)
			w.events(seqs[0], delivery.EventReceived) // meanwhile
			settle(time.Second)
		}
		two.take()
		settle(time.Second)
		all, repeats := w.deliveries()
		for i, seq := range seqs {
			want := "accepted"
			for range 4 - i/20 {
				want += " published"
				if i == 0 {
					want += " received"
				}
			}
			if got := of(all, seq); got != want {
				w.Errorf("of notification %d came %q, want %q", i, got, want)
			}
		}
		if repeats != 0 {
			w.Errorf("%d events came twice", repeats)
		}
		one.stop()
		two.stop()
	})
}

// An owner that was taken over while it sent does not send on, and does not move the
// position of its successor. What the successor repeats has the same ID.
func TestLose(t *testing.T) {
	inCluster(t, func(w *world) {
		one, two := w.owner("one"), w.owner("two")
		one.take()
		hang := make(chan struct{})
		w.answers(func(m received) (int, http.Header, error) {
			if w.requests() > 30 {
				<-hang
			}
			return 204, nil, nil
		})
		var seqs []delivery.Seq
		for i := range 100 {
			seqs = append(seqs, w.notify(fmt.Sprint("account", i)))
		}
		for _, seq := range seqs {
			w.events(seq, delivery.EventPublished)
		}
		settle(time.Second)
		one.life.doubted.Store(true)
		one.life.fenced.Store(true)
		w.answers(nil)
		before := w.requests()
		two.take()
		settle(5 * time.Second)
		close(hang) // the requests of the former owner are answered at last
		settle(5 * time.Second)
		one.Lose(part)
		for _, seq := range seqs {
			w.events(seq, delivery.EventReceived)
		}
		settle(5 * time.Second)
		all, repeats := w.deliveries()
		for _, seq := range seqs {
			if got := of(all, seq); got != "accepted published received" {
				w.Errorf("of notification %d came %q", seq, got)
			}
		}
		if repeats > 40 {
			w.Errorf("%d events came twice, of which at most 30 and those under way could", repeats)
		}
		if sent := w.requests() - before; sent > 300 {
			w.Errorf("%d requests after the take-over: the former owner goes on", sent)
		}
		if one.life.late.Load() == 0 {
			w.Error("the former owner has not tried to write its position: the test shows nothing")
		}
		one.stop()
		two.stop()
	})
}

// A position that cannot be read is read later; one that is being read ends with the
// tenure.
func TestTakeLater(t *testing.T) {
	inCluster(t, func(w *world) {
		w.state.fails = true
		one := w.owner("one")
		one.take()
		w.notify("lost, as the webhook has no place yet")
		settle(10 * time.Second)
		w.state.mu.Lock()
		w.state.fails = false
		w.state.mu.Unlock()
		settle(2 * time.Second)
		seq := w.notify("account")
		settle(time.Second)
		if all, _ := w.deliveries(); !slices.Equal(all, []string{fmt.Sprintf("n%d accepted", seq)}) {
			w.Errorf("came %v", all)
		}
		one.stop()
	})
}

// The history waits for a webhook that no node sends at the moment, or another. It is shown
// with its parked events, and not sent again there.
func TestElsewhere(t *testing.T) {
	inCluster(t, func(w *world) {
		w.pause = time.Minute                      // days pass
		one, two := w.owner("one"), w.owner("two") // two holds the history
		one.take()
		settle(2 * time.Minute)
		if at, ok := w.hold.Oldest(); ok {
			w.Errorf("the history is held from %v on, with nothing unread", at)
		}
		w.answers(status(422))
		seq := w.notify("account")
		settle(4 * 24 * time.Hour) // all attempts
		if at, ok := w.hold.Oldest(); !ok || at.UnixNano() > int64(seq)+int64(time.Second) {
			w.Errorf("the history is held from %v on (%v), and an event of %d is parked", at, ok, seq)
		}
		one.Yield(context.Background(), part)
		w.notify("unread")
		parked, err := two.Parked("backend", 10)
		if err != nil || len(parked) != 1 || parked[0].Notification != fmt.Sprint("n", seq) || parked[0].Attempts == 0 {
			w.Errorf("parked at another node: %+v, %v", parked, err)
		}
		s := two.Statuses()
		if len(s) != 1 || s[0].State != receipts.StateElsewhere || s[0].Parked != 1 || s[0].Reason != "sent by node other" {
			w.Errorf("status at another node: %+v", s)
		}
		if _, err := two.Retry(context.Background(), "backend", nil); !errors.Is(err, receipts.ErrElsewhere) {
			w.Errorf("retry at another node: %v", err)
		}
		if _, err := two.Retry(context.Background(), "none", nil); !errors.Is(err, receipts.ErrUnknownWebhook) {
			w.Errorf("retry of no webhook: %v", err)
		}
		w.answers(nil)
		two.take()
		if n, err := two.Retry(context.Background(), "backend", nil); n != 1 || err != nil {
			w.Errorf("retry at its node: %d, %v", n, err)
		}
		settle(5 * time.Minute)
		if all, _ := w.deliveries(); len(all) != 2 {
			w.Errorf("came %v", all)
		}
		// Without the webhook its position goes, at its owner alone.
		if err := errors.Join(one.Reconfigure(context.Background(), nil, time.Hour), two.Reconfigure(context.Background(), w.hooks, time.Hour)); err != nil || w.state.text() == "" {
			w.Errorf("the other node has removed the position (error %v)", err)
		}
		if err := two.Reconfigure(context.Background(), nil, time.Hour); err != nil || w.state.text() != "" {
			w.Errorf("left (error %v):\n%s", err, w.state.text())
		}
		one.stop()
		two.stop()
	})
}

package h2pool

import (
	"context"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func TestWriteSlots(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		slots := NewWriteSlots()
		n := slots.free
		wrote := make([]func(), 0, 3*n)
		take := func() (release func()) {
			ctx, release := slots.Take(context.Background(), false)
			if trace := httptrace.ContextClientTrace(ctx); trace != nil {
				wrote = append(wrote, func() { trace.WroteRequest(httptrace.WroteRequestInfo{}) })
			}
			return release
		}
		began := time.Now()
		ends := make([]func(), n)
		for i := range ends {
			ends[i] = take()
		}
		if time.Since(began) != 0 {
			t.Error("the first had to wait")
		}
		wrote[0]()
		ends[0]() // again
		take()
		if time.Since(began) != 0 {
			t.Error("a request that was written kept its slot")
		}
		take() // no slot is released
		if waited := time.Since(began); waited != maxSlotWait {
			t.Errorf("waited %v behind requests that cannot be written", waited)
		}
		over, cancel := context.WithCancel(context.Background())
		cancel()
		before := time.Now()
		if slots.Take(over, false); time.Since(before) != 0 {
			t.Error("a cancelled request waited for its slot")
		}
		for _, end := range ends {
			end()
		}
		if slots.free != n-1 { // the slot of the second take
			t.Errorf("%d of %d slots are free", slots.free, n)
		}
	})
}

// TestWriteSlotsUrgentFirst: an urgent request gets the next slot, and those that wait
// keep their order for as long as requests are written at all.
func TestWriteSlotsUrgentFirst(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		slots := NewWriteSlots()
		slots.free = 1
		_, release := slots.Take(context.Background(), false)
		var order []string
		var all sync.WaitGroup
		take := func(name string, urgent bool) {
			all.Go(func() {
				_, release := slots.Take(context.Background(), urgent)
				order = append(order, name)
				time.Sleep(maxSlotWait * 9 / 10) // the processor is short
				release()
			})
			synctest.Wait()
		}
		take("n1", false)
		take("n2", false)
		take("n3", false)
		take("u1", true)
		take("u2", true)
		began := time.Now()
		release()
		all.Wait()
		if got := strings.Join(order, " "); got != "u1 u2 n1 n2 n3" {
			t.Errorf("the slots went to %s", got)
		}
		if took := time.Since(began); took != 5*maxSlotWait*9/10 || slots.free != 1 {
			t.Errorf("they took %v, %d slots are free", took, slots.free)
		}
	})
}

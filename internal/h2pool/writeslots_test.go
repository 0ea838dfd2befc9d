package h2pool

import (
	"context"
	"net/http/httptrace"
	"testing"
	"testing/synctest"
	"time"
)

func TestWriteSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := NewWriteSlots()
		wrote := make([]func(), 0, 3*cap(slots))
		take := func() (release func()) {
			ctx, release := slots.Take(context.Background())
			if trace := httptrace.ContextClientTrace(ctx); trace != nil {
				wrote = append(wrote, func() { trace.WroteRequest(httptrace.WroteRequestInfo{}) })
			}
			return release
		}
		began := time.Now()
		ends := make([]func(), cap(slots))
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
		if slots.Take(over); time.Since(before) != 0 {
			t.Error("a cancelled request waited for its slot")
		}
		for _, end := range ends {
			end()
		}
		if len(slots) != 1 { // the slot of the second take
			t.Errorf("%d slots are taken", len(slots))
		}
	})
}

package hooks_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestSubscribeCostsTheSame: a SUBSCRIBE to ordinary topics does not cost more the more
// subscriptions the client has already.
func TestSubscribeCostsTheSame(t *testing.T) {
	s := newSite(t)
	c := s.connect(5, rawmqtt.Connect{ID: "backend", Clean: true})
	var all []string
	for i := range 20_000 {
		all = append(all, fmt.Sprint("t/", i))
	}
	_, err := c.Subscribe(1, 1, all...)
	must(t, err)
	const times = 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range times {
		_, err := c.Subscribe(uint16(i+2), 1, fmt.Sprint("one/", i))
		must(t, err)
		must(t, c.Unsubscribe(uint16(i+100), fmt.Sprint("one/", i)))
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / times; each > 100_000 { // all of them are more than a megabyte
		t.Errorf("%d bytes for a SUBSCRIBE and an UNSUBSCRIBE", each)
	}
}

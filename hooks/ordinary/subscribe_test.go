package ordinary

import (
	"fmt"
	"strings"
	"testing"
)

// TestFilterBytes: the filters of a client have a bound in bytes, too, over all its
// connections and restarts. Services have none.
func TestFilterBytes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("f", 60_000)
	for _, c := range []struct{ limit, fit int }{{10, 4}, {2000, 8}, {3, 3}} {
		h, _ := hubAt(Options{Bounds: Bounds{Limits: Limits{Subscriptions: c.limit}}})
		s, link := join(h, "c", keptFor(100))
		next := 0
		fill := func() (added int) {
			for {
				next++
				if subscribeTo(t, h, s, link, fmt.Sprint(long, next), 1) == overQuota {
					return added
				}
				added++
			}
		}
		if n := fill(); n != c.fit {
			t.Errorf("limit %d: %d filters of 60,000 bytes, want %d", c.limit, n, c.fit)
		}
		if code := subscribeTo(t, h, s, link, long+"1", 0); code != 0 {
			t.Errorf("a subscription that is there is not replaced: 0x%02x", code)
		}
		if codes, _ := h.Unsubscribe(s, link, []string{long + "1", long + "1", long + "2", "nobody's"}); codes[0]|codes[2] != 0 {
			t.Errorf("UNSUBACK %x", codes)
		}
		s.Resume(link, nil)
		if n := fill(); n != 2 {
			t.Errorf("limit %d: %d more after an UNSUBSCRIBE of 2", c.limit, n)
		}

		h.Disconnect(s, link, Bye{Kept: true, Expiry: 100})
		st, _ := h.Export("c")
		h.End("c")
		h.Import(st)
		s, link = join(h, "c", keptFor(100), func(a *Arrival) { a.Clean = false })
		if n := fill(); n != 0 {
			t.Errorf("limit %d: %d more after a restart", c.limit, n)
		}
		if codes, _ := h.Subscribe(s, link, []Ask{{Filter: long}}, true); codes[0] != 0 {
			t.Errorf("a service: 0x%02x", codes[0])
		}
	}
}

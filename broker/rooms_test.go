package broker

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/newcomers"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestDeviceLimitOfTwoNodes: devices of an account that come at once at two nodes find room for as
// many as the account may have, and not as many at each.
func TestDeviceLimitOfTwoNodes(t *testing.T) {
	pg := testtool.StartPostgres(t)
	url := pg.URL("admin", "postgres", "")
	nodes := []*member{joined(t, url, "one"), joined(t, url, "two")}
	eventually(t, "an equal share", func() bool { return nodes[0].owned() == 512 && nodes[1].owned() == 512 })
	const limit = 5
	for i := range 8 { // either may own it
		account := fmt.Sprint("account", i)
		var room atomic.Int64
		var coming sync.WaitGroup
		for d := range 4 * limit {
			coming.Go(func() {
				m := nodes[d%2]
				_, err := m.node.rooms.Admit(m.Core(), limit, account, fmt.Sprint(account, "-", d), t)
				switch {
				case err == nil:
					room.Add(1)
				case !errors.Is(err, newcomers.ErrTooMany):
					t.Error(err)
				}
			})
		}
		coming.Wait()
		if n := room.Load(); n != limit {
			t.Errorf("%d devices of %s found room, want %d", n, account, limit)
		}
	}
	for _, m := range nodes {
		m.leave(t)
	}
}

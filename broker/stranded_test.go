package broker

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// Two nodes do not reach each other, but the database. Each ends the connections of the
// devices whose accounts the other owns, MQTT 5 with "use another server", and keeps its own.
func TestStrandedDevices(t *testing.T) {
	t.Parallel()
	pg := testtool.StartPostgres(t)
	var cables []*cable
	behindCable := func(cfg *config.Config) {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer free.Close()
		c := newCable(t, free.Addr().(*net.TCPAddr).Port)
		cables = append(cables, c)
		cfg.Cluster.Address, cfg.Cluster.Advertise = c.target, c.socket.Addr().String()
	}
	url := pg.URL("admin", "postgres", "")
	one, two := joined(t, url, "one", behindCable), joined(t, url, "two", behindCable)
	eventually(t, "an equal share", func() bool { return one.owned() == 512 && two.owned() == 512 })

	const accounts = 12
	devices := map[string][]*terminalOf{}
	for i := range accounts {
		for _, version := range []byte{4, 5} {
			account := fmt.Sprintf("account%d-%d", i, version)
			devices[account] = append(devices[account], one.connectBy(t, version, account))
		}
	}
	for _, c := range cables {
		c.cut(true)
	}
	for account, all := range devices {
		stranded := !one.node.Serves(cluster.Partition(account))
		for _, c := range all {
			if !stranded {
				continue
			}
			code := c.read()
			if want := packets.ErrUseAnotherServer.Code; c.version == 5 && code != want {
				t.Errorf("the device of %s was told 0x%02x, want 0x%02x", account, code, want)
			}
		}
	}
	for account, all := range devices {
		if one.node.Serves(cluster.Partition(account)) {
			for _, c := range all {
				_ = c.Ping() // the answer tells
				if pk, err := c.next(packets.Pingresp); err != nil {
					t.Errorf("the device of %s, which its node owns, has got %+v, %v", account, pk.FixedHeader, err)
				}
			}
		}
	}
	for _, c := range cables {
		c.cut(false)
	}
	eventually(t, "the relay", func() bool {
		for _, m := range []*member{one, two} {
			for _, p := range m.node.node.Status().Peers {
				if !p.Up {
					return false
				}
			}
		}
		return true
	})
	one.leave(t)
	two.leave(t)
}

// next reads until a packet of a type comes.
func (c *terminalOf) next(kind byte) (pk packets.Packet, err error) {
	for err == nil && pk.FixedHeader.Type != kind {
		pk, err = c.Read(time.Minute)
	}
	return pk, err
}

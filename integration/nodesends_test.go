package integration

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestEndAtAnotherNode: whatever ends a device's connection or session does so at whichever
// node the device is connected, and whichever node owns its account.
func TestEndAtAnotherNode(t *testing.T) {
	_, onPostgres := database(t)
	a, b := twoNodes(t, onPostgres)
	connect := func(s *server, account, device string) (c *rawmqtt.Client, present bool) {
		c, err := rawmqtt.Dial(s.mqtt, 5)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		ack, err := c.Connect(rawmqtt.Connect{ID: device, Username: account, Keepalive: 60, SessionExpiry: 3600})
		if err != nil || ack.ReasonCode != 0 {
			t.Fatalf("%s connects: %+v, error %v", device, ack, err)
		}
		return c, ack.SessionPresent
	}
	for _, way := range []struct {
		name  string
		end   func(account, device string)
		keeps bool // the session and the entry
	}{
		{"disconnect", func(_, device string) { a.must(http.MethodPost, "/v1/devices/"+device+"/disconnect", "", nil) }, true},
		{"forget", func(account, device string) {
			a.must(http.MethodDelete, "/v1/accounts/"+account+"/devices/"+device, "", nil)
		}, false},
		{"move", func(account, device string) {
			a.must(http.MethodPut, "/v1/accounts/new-"+account+"/devices/"+device, "", nil)
		}, false},
		{"erase", func(account, _ string) { a.must(http.MethodDelete, "/v1/accounts/"+account, "", nil) }, false},
		{"sign-out", func(account, device string) {
			c, _ := connect(a, account, device)
			if err := c.Publish(9, 1, "heartline/devices/"+device+"/sign-out", []byte("{}")); err != nil {
				t.Fatal(err)
			}
			if pk, err := c.Read(patience); err != nil || pk.FixedHeader.Type != packets.Puback || pk.ReasonCode >= 0x80 {
				t.Errorf("sign-out: %+v, error %v", pk, err)
			}
		}, false},
	} {
		t.Run(way.name, func(t *testing.T) {
			for i := range 4 { // some of the accounts are each node's
				account, device := fmt.Sprint(way.name, "-account", i), fmt.Sprint(way.name, "-phone", i)
				path := "/v1/accounts/" + account + "/devices/" + device
				a.register(account, device, "") // on the disk before it is moved
				c, _ := connect(b, account, device)
				if codes, err := c.Subscribe(1, 1, "heartline/devices/"+device+"/notifications"); err != nil || len(codes) != 1 || codes[0] != 1 {
					t.Fatalf("subscribe: %v, error %v", codes, err)
				}
				for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // the owner hears of it through the relay
					var d wire.DeviceView
					if a.must(http.MethodGet, path, "", &d); d.Channel.State == "up" {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("%s is %+v", device, d)
					}
				}
				way.end(account, device)
				switch pk, err := c.Read(patience); {
				case errors.Is(err, os.ErrDeadlineExceeded):
					t.Errorf("%s is still connected", device)
				case err == nil && pk.FixedHeader.Type != packets.Disconnect:
					t.Errorf("%s got %+v, want a DISCONNECT", device, pk)
				}
				if status, _ := a.call(http.MethodGet, path, ""); (status == http.StatusOK) != way.keeps {
					t.Errorf("the entry of %s: status %d", device, status)
				}
				if _, present := connect(b, account, device); present != way.keeps {
					t.Errorf("%s has its session: %v", device, present)
				}
			}
		})
	}

	if status, body := a.call(http.MethodPost, "/v1/devices/nobody/disconnect", ""); status != http.StatusNotFound {
		t.Errorf("a device that no node knows: %d %s", status, body)
	}
	connect(a, "here", "here")
	b.kill()
	if status, body := a.call(http.MethodPost, "/v1/devices/here/disconnect", ""); status != http.StatusNoContent {
		t.Errorf("a device at this node, after kill -9 of the other: %d %s", status, body)
	}
	if status, body := a.call(http.MethodPost, "/v1/devices/nobody/disconnect", ""); status != http.StatusNotFound {
		t.Errorf("a device that no node knows, after kill -9 of the other: %d %s", status, body)
	}
}

package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestStop: at SIGTERM clients are told, the exit code is 0, and the next start
// finds everything.
func TestStop(t *testing.T) {
	sim, env := apple(t)
	s := serve(t, env...)
	s.register("bob", "bob-phone", deviceToken(1))
	clients := map[byte]*rawmqtt.Client{}
	for _, version := range []byte{4, 5} {
		c, err := rawmqtt.Dial(s.mqtt, version)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		id := "alice-4"
		if version == 5 {
			id = "alice-5"
		}
		if _, err := c.Connect(rawmqtt.Connect{ID: id, Username: "alice", Keepalive: 60}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Subscribe(1, 1, "heartline/devices/"+id+"/notifications"); err != nil {
			t.Fatal(err)
		}
		clients[version] = c
	}
	watcher := s.events("")
	unacked := s.notify(`{"account":"alice","title":"nobody acknowledges"}`)
	pushed := s.notify(`{"account":"bob","title":"by push"}`)
	watcher.until("pushed", pushed)
	for _, c := range clients { // it is on the way, and stays unacknowledged
		if pk, err := c.Read(patience); err != nil || pk.FixedHeader.Type != packets.Publish {
			t.Fatalf("got a packet of type %d, %v", pk.FixedHeader.Type, err)
		}
	}

	s.signal(t, syscall.SIGHUP) // never ends a server
	s.stderr.until(t, "configuration reloaded")

	s.signal(t, syscall.SIGTERM)
	pk, err := clients[5].Read(patience)
	if err != nil || pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrServerShuttingDown.Code {
		t.Errorf("MQTT 5: got a packet of type %d with reason code 0x%02x, %v; want DISCONNECT 0x8B", pk.FixedHeader.Type, pk.ReasonCode, err)
	}
	if pk, err := clients[4].Read(patience); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("MQTT 3.1.1 has no DISCONNECT from a server: got a packet of type %d, %v", pk.FixedHeader.Type, err)
	}
	if code := s.wait(t); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, s.stderr)
	}

	s.start()
	s.wantTimeline(pushed, "accepted", "push_requested", "pushed")
	events := s.events("")
	for _, version := range []string{"alice-4", "alice-5"} {
		quit := device(s, "alice", version, func(id string) {
			if id != unacked {
				t.Errorf("%s got %s", version, id)
			}
		})
		defer quit()
		for {
			if e := events.next(); e.Event == "received" && e.ID == unacked && e.Device == version {
				break
			}
		}
	}
	var list wire.NotificationList
	s.must(http.MethodGet, "/v1/notifications", "", &list)
	if len(list.Notifications) != 2 {
		t.Errorf("got %+v", list)
	}
	if n := len(sim.ReceivedFor(deviceToken(1))); n != 1 {
		t.Errorf("%d pushes, want 1", n)
	}
	s.stop()
}

// TestStopUnderLoad: every notification that was answered for before the end is there after it.
func TestStopUnderLoad(t *testing.T) {
	s := serve(t, "HEARTLINE_DELIVERY_MAX_OUTSTANDING_PER_DEVICE=1000000")
	s.register("alice", "alice-phone", "")
	got := newAccepted()
	working := load(s, 0, 200, []string{"alice"}, got)
	<-got.any
	s.stop()
	working.Wait()
	s.start()
	c := collect(got.ids["alice"])
	quit := device(s, "alice", "alice-phone", c.add)
	defer quit()
	c.wait(t)
	s.stop()
}

// hangingPushes starts a server with 20 pushes that Apple's server does not answer.
func hangingPushes(t *testing.T) (*apnssim.Server, *server) {
	t.Helper()
	sim, env := apple(t)
	sim.Script(apnssim.Script{Action: apnssim.ActionHang, Times: 20})
	s := serve(t, append(env, "HEARTLINE_FALLBACK_APNS_TIMEOUT=5m")...)
	for i := range 20 {
		device := fmt.Sprintf("phone-%02d", i)
		s.register(device, device, deviceToken(i+1))
		s.notify(`{"account":"` + device + `","title":"hangs"}`)
	}
	await(t, "pushes that hang", func() bool {
		var list wire.NotificationList
		s.must(http.MethodGet, "/v1/notifications?state=pushing", "", &list)
		left := sim.Scripts() // Apple's server lets one request through before it knows the provider token
		return len(list.Notifications) == 20 && (len(left) == 0 || left[0].Times < 20)
	})
	return sim, s
}

// allPushed starts the server again, and waits for the pushes.
func allPushed(t *testing.T, sim *apnssim.Server, s *server) {
	t.Helper()
	sim.ClearScripts()
	s.start()
	await(t, "the pushes after the start", func() bool {
		var list wire.NotificationList
		s.must(http.MethodGet, "/v1/notifications?state=pushed", "", &list)
		return len(list.Notifications) == 20
	})
	s.stop()
}

// TestStopWhilePushesHang: SIGTERM while Apple's server answers nothing ends the
// program, long before they time out, with exit code 0, and the pushes are asked for again at
// the next start.
func TestStopWhilePushesHang(t *testing.T) {
	sim, s := hangingPushes(t)
	began := time.Now()
	s.signal(t, syscall.SIGTERM)
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, s.stderr)
	}
	t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
	allPushed(t, sim, s)
}

// TestSecondSignal: a second SIGTERM ends a stop that takes long, and loses nothing.
func TestSecondSignal(t *testing.T) {
	sim, s := hangingPushes(t)
	s.signal(t, syscall.SIGTERM)
	s.stderr.until(t, "stopping")
	again := time.NewTicker(10 * time.Millisecond) // one that comes too early counts for the first
	defer again.Stop()
	for ended := false; !ended; {
		select {
		case <-again.C:
			s.signal(t, syscall.SIGTERM)
		case <-s.ended:
			ended = true
		}
	}
	if code := s.wait(t); code != -1 {
		t.Errorf("exit code %d, want death by the second signal", code)
	}
	allPushed(t, sim, s)
}

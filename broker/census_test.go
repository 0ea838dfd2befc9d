package broker

import (
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// TestCensus: the devices and the waiting deliveries, counted aside; a count that is
// young enough is not repeated.
func TestCensus(t *testing.T) {
	out, err := store.New(store.Options{Open: memory.Open})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	accepted := time.Now().Add(-time.Hour)
	commit := func(b *delivery.Batch) {
		done := make(chan error, 1)
		out.Commit(b, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	first := delivery.Seq(accepted.UnixNano())
	for i := range delivery.Seq(3) {
		commit(&delivery.Batch{Sync: true, Accept: []delivery.Acceptance{{Notification: &delivery.Notification{
			Seq: first + i, ID: string(rune(97 + i)), Account: "a", Devices: []string{"phone"}, AcceptedAt: accepted, ExpiresAt: accepted.Add(24 * time.Hour),
		}}}})
	}
	commit(&delivery.Batch{Sync: true, PutDevices: []delivery.Device{{ID: "phone", Account: "a"}, {ID: "watch", Account: "a"}},
		Update: []delivery.Record{{Seq: first + 1, Device: "phone", State: delivery.StateWaiting}, {Seq: first + 2, Device: "phone", State: delivery.StateWaiting}}})
	c := &census{outbox: out}
	c.read()
	c.wg.Wait()
	n := c.read()
	c.wg.Wait()
	if again := c.read(); again.at != n.at {
		t.Error("it counts again at once")
	}
	if n.devices != 2 || n.waiting != 2 || n.oldest != first+1 {
		t.Errorf("got %+v, want 2 devices, 2 waiting, the oldest %d", n, first+1)
	}
	c.stop()
	c.stop()
	c.last.at = time.Time{}
	c.read()
	if c.running {
		t.Error("it counts after its stop")
	}
}

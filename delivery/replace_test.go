package delivery_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// replaceable is a channel that hears when another connection of its device is up.
type replaceable struct {
	*channel
	replaced int
}

func (r *replaceable) Replaced() {
	r.replaced++
	r.closed = true
}

// Of two channels of a device the later one is up, in whichever order the core hears of
// them; the other hears of it. That happens where a device moves between nodes.
func TestLaterChannelIsUp(t *testing.T) {
	inWorld(t, func(w *world) {
		begun := time.Now()
		online := func(at time.Duration) (*replaceable, error) {
			ch := &replaceable{channel: &channel{w: w, acks: true}}
			_, err := w.core.Online(delivery.OnlineInfo{Device: "phone", Account: "a", Channel: ch, Connected: begun.Add(at)})
			return ch, err
		}
		second, err := online(2 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if first, err := online(time.Second); !errors.Is(err, delivery.ErrChannelClosed) {
			t.Errorf("an earlier connection, told of later: error %v, want ErrChannelClosed", err)
		} else if synctest.Wait(); first.replaced != 1 || second.replaced != 0 {
			t.Errorf("replaced %d and %d times, want 1 and 0", first.replaced, second.replaced)
		}
		third, err := online(3 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if second.replaced != 1 || third.replaced != 0 {
			t.Errorf("replaced %d and %d times, want 1 and 0", second.replaced, third.replaced)
		}
		n := w.accept(delivery.Request{})
		third.wantIDs(false, n.ID)
		second.wantIDs(false)
		if v, err := w.core.Get(context.Background(), n.ID); err != nil || v.State != delivery.StateAcked {
			t.Errorf("%+v, error %v", v, err)
		}
	})
}

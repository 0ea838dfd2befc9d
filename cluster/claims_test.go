package cluster_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/delivery"
)

// A device that moves to an account of another node while its former account is being taken up
// is not that account's any more.
func TestClaimWhileTakenUp(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		part := uint64(cluster.Partition("ann") % parts)
		n := &delivery.Notification{
			Seq: delivery.Seq(parts*1000 + part), Account: "ann", Title: "t", Devices: []string{"phone"}, AcceptedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
		}
		n.ID = delivery.NewID(n.Seq)
		apply := func(batch *delivery.Batch) {
			if err := b.store.Apply(batch); err != nil {
				t.Error(err)
			}
		}
		apply(&delivery.Batch{
			PutDevices: []delivery.Device{{ID: "phone", Account: "ann", SeenAt: time.Now()}},
			Accept:     []delivery.Acceptance{{Notification: n}},
		})
		read := 0
		b.reading = func(m *machine) {
			if read++; read != int(part)+1 { // the Core of ann has read, and does not serve yet
				return
			}
			apply(&delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "phone", Account: "ann"}}})
			apply(&delivery.Batch{PutDevices: []delivery.Device{{ID: "phone", Account: "ben", SeenAt: time.Now()}}})
			m.router.OnClaimed(parts, delivery.Claim{Device: "phone"})
			synctest.Wait()
		}
		one := b.machine("one")
		synctest.Wait()
		if devices, err := one.router.Devices("ann"); err != nil || len(devices) != 0 {
			t.Errorf("the former account has %v (error %v)", devices, err)
		}
		one.stop(t)
	})
}

// Partitions that cannot be read at once, since one of them is damaged, are read one by one.
func TestReadOneByOne(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		b.unreadable = errors.New("device phone: not what the codec writes")
		one := b.machine("one")
		synctest.Wait()
		b.want(map[string]int{"one": parts})
		for part := range uint16(parts) {
			if !one.router.Serves(part) {
				t.Errorf("partition %d is not served", part)
			}
		}
		one.stop(t)
	})
}

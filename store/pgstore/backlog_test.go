package pgstore_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

const ofParts = 1024

// waiting is a batch that accepts a notification in a partition.
func waiting(number, part uint64, account string, devices ...string) *delivery.Batch {
	n := &delivery.Notification{
		Seq: delivery.Seq(number*ofParts + part), Account: account, Title: "t", Devices: devices,
		AcceptedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}
	n.ID = delivery.NewID(n.Seq)
	return &delivery.Batch{Accept: []delivery.Acceptance{{Notification: n}}}
}

// backlogged is a store in whose partitions 7, 8 and 9 something is unfinished: ann has a
// device without, ben one with nothing but a dismissal, and cid one with a delivery from its
// former account, which is in partition 9.
func backlogged(t *testing.T, e store.Engine) {
	t.Helper()
	registry := &delivery.Batch{PutDismissals: []delivery.Dismissal{{Seq: 9*ofParts + 8, Device: "ben1", Of: 1, ID: "n", At: time.Now()}}}
	for _, id := range []string{"ann1", "ann2", "ann3", "ben1", "cid1"} {
		registry.PutDevices = append(registry.PutDevices, delivery.Device{ID: id, Account: id[:3], SeenAt: time.Now()})
	}
	for _, b := range []*delivery.Batch{
		registry, waiting(3, 7, "ann", "ann2", "ann1"), waiting(2, 7, "ann", "ann2"), waiting(4, 9, "dan", "cid1"), waiting(5, 10, "eve", "eve1"), waiting(6, 7, "fay", ""),
	} {
		if err := e.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
}

// The backlog of some partitions is all that is unfinished there, in order, and the accounts
// that it belongs to.
func TestBacklog(t *testing.T) {
	e := open(t, join(t, fresh(t)))
	defer e.Close()
	backlogged(t, e)
	b, err := e.(store.Gatherer).Backlog([]uint16{9, 7, 8, 6})
	if err != nil {
		t.Fatal(err)
	}
	for part, want := range map[uint16]string{
		6: "",
		7: "record 6 of ; record 3 of ann1; record 2 of ann2; record 3 of ann2; account ann: ann1 ann2 ann3",
		8: "dismissal 9 of ben1; account ben: ben1",
		9: "record 4 of cid1; account cid: cid1",
	} {
		of := delivery.Shard{Index: part, Of: ofParts}
		var got []string
		err1 := b.Unfinished(of, func(r *delivery.Record) bool {
			got = append(got, fmt.Sprintf("record %d of %s", r.Seq/ofParts, r.Device))
			return true
		})
		err2 := b.Dismissals(of, func(d *delivery.Dismissal) bool {
			got = append(got, fmt.Sprintf("dismissal %d of %s", d.Seq/ofParts, d.Device))
			return true
		})
		b.Accounts(of, func(account string, devices []delivery.Device) {
			var ids []string
			for _, d := range devices {
				ids = append(ids, d.ID)
			}
			slices.Sort(ids)
			got = append(got, "account "+account+": "+strings.Join(ids, " "))
		})
		if err := errors.Join(err1, err2); err != nil || strings.Join(got, "; ") != want {
			t.Errorf("partition %d: %q (error %v), want %q", part, strings.Join(got, "; "), err, want)
		}
		n := 0
		if err := b.Unfinished(of, func(*delivery.Record) bool { n++; return false }); err != nil || n > 1 {
			t.Errorf("told to stop after 1, it called %d times (error %v)", n, err)
		}
	}
	if last, err := b.LastSeq(delivery.Shard{Index: 6, Of: ofParts}); err != nil || last < 9*ofParts+8 {
		t.Errorf("last %d (error %v)", last, err)
	}
}

// readOnce is an Outbox that refuses to read what a backlog holds.
type readOnce struct{ delivery.Outbox }

var errReadAgain = errors.New("read one by one")

func (readOnce) Device(string) (*delivery.Device, error)          { return nil, errReadAgain }
func (readOnce) AccountDevices(string) ([]delivery.Device, error) { return nil, errReadAgain }
func (readOnce) LastSeq(delivery.Shard) (uint64, error)           { return 0, errReadAgain }
func (readOnce) Unfinished(delivery.Shard, func(*delivery.Record) bool) error {
	return errReadAgain
}
func (readOnce) Dismissals(delivery.Shard, func(*delivery.Dismissal) bool) error {
	return errReadAgain
}

// A Core that starts from a backlog asks the store for nothing that the backlog has.
func TestStartFromBacklog(t *testing.T) {
	node := join(t, fresh(t))
	out, err := store.New(store.Options{Open: node.Open})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for _, b := range []*delivery.Batch{
		{PutDevices: []delivery.Device{{ID: "ann1", Account: "ann", SeenAt: time.Now()}}},
		waiting(3, 7, "ann", "ann1"),
	} {
		done := make(chan error, 1)
		out.Commit(b, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	b, err := out.Backlog([]uint16{7, 8})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []uint16{7, 8} {
		c := delivery.New(delivery.Options{Shard: delivery.Shard{Index: part, Of: ofParts}}, readOnce{out}, nil, slog.New(slog.DiscardHandler))
		if err := c.StartFrom(b); err != nil {
			t.Errorf("partition %d: %v", part, err)
		}
		c.Abandon()
	}
}

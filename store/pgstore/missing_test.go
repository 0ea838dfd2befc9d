package pgstore_test

import (
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// Missing finds those of many notifications that are not there.
func TestMissing(t *testing.T) {
	o := fresh(t)
	e := open(t, join(t, o))
	defer e.Close()
	at := time.Now()
	there := []delivery.Seq{delivery.Seq(at.UnixNano()), delivery.Seq(at.UnixNano() + 1024)}
	b := &delivery.Batch{Sync: true}
	for _, seq := range there {
		b.Accept = append(b.Accept, delivery.Acceptance{Notification: &delivery.Notification{Seq: seq, ID: delivery.NewID(seq), Account: "ann", AcceptedAt: at, ExpiresAt: at.Add(time.Hour), Devices: []string{"phone"}}})
	}
	if err := e.Apply(b); err != nil {
		t.Fatal(err)
	}
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	asked := make([]delivery.Seq, 0, 6000)
	for i := range 5998 {
		asked = append(asked, there[0]-delivery.Seq(1+i))
	}
	asked = append(asked, there...)
	missing, err := db.Missing(t.Context(), asked)
	if err != nil || len(missing) != 5998 || missing[0] != asked[0] || missing[5997] != asked[5997] {
		t.Errorf("%d are missing of %d, %v", len(missing), len(asked), err)
	}
}

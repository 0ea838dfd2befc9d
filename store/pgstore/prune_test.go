package pgstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// The removal of a day goes on in the next round, wherever it was interrupted.
func TestInterruptedRemovalOfADay(t *testing.T) {
	for detached, tables := range [][]string{{}, {"notification"}, {"notification", "event"}} {
		t.Run(fmt.Sprint(detached), func(t *testing.T) {
			o := fresh(t)
			o.Slack = time.Hour
			e := open(t, join(t, o))
			defer e.Close()
			at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
			seq := delivery.Seq(at.UnixNano())
			key := delivery.Key{Seq: seq, Device: "a"}
			for _, b := range []*delivery.Batch{
				{Accept: []delivery.Acceptance{note(seq, "given", "a")}, Sync: true},
				{Finish: []delivery.Finish{{Key: key, At: at}}, Events: []delivery.Event{{Seq: seq, Number: uint64(seq) + 1, Time: at, Kind: delivery.EventReceived}}, Sync: true},
			} {
				if err := e.Apply(b); err != nil {
					t.Fatal(err)
				}
			}
			for _, of := range tables {
				sql(t, fmt.Sprintf("ALTER TABLE %[1]s.%[2]s DETACH PARTITION %[1]s.%[2]s_20200102", o.Schema, of))
			}
			for range 2 {
				if _, err := e.Prune(at.Add(7*24*time.Hour), 100); err != nil {
					t.Fatal(err)
				}
			}
			if n := count(t, "SELECT count(*) FROM pg_tables WHERE schemaname = '"+o.Schema+"' AND tablename LIKE '%20200102'"); n != "0" {
				t.Errorf("%s tables of the day are left", n)
			}
			if n := count(t, "SELECT count(*) FROM "+o.Schema+".given_id"); n != "0" {
				t.Errorf("%s IDs of the day are left", n)
			}
		})
	}
}

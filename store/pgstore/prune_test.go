package pgstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
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

// finished writes notifications that were acked at a time, with a Seq each.
func finished(t *testing.T, e store.Engine, at time.Time, seqs ...delivery.Seq) {
	t.Helper()
	for _, seq := range seqs {
		for _, b := range []*delivery.Batch{
			{Accept: []delivery.Acceptance{note(seq, fmt.Sprint("given-", seq), "a")}, Sync: true},
			{Finish: []delivery.Finish{{Key: delivery.Key{Seq: seq, Device: "a"}, At: at}}, Events: []delivery.Event{{Seq: seq, Number: uint64(seq) + 1, Time: at, Kind: delivery.EventReceived}}, Sync: true},
		} {
			if err := e.Apply(b); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A day that an unfinished notification holds up, and one of the future, are pruned row by row,
// and unfinished ones stay.
func TestPruneRows(t *testing.T) {
	o := fresh(t)
	o.Slack = time.Hour
	e := open(t, join(t, o))
	defer e.Close()
	past := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	future := time.Now().Add(10 * 24 * time.Hour)
	for _, day := range []time.Time{past, future} {
		seq := delivery.Seq(day.UnixNano())
		if err := e.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(seq, fmt.Sprint("waits-", seq), "a")}, Sync: true}); err != nil {
			t.Fatal(err)
		}
		finished(t, e, past, seq+1<<20, seq+2<<20, seq+3<<20)
	}
	total := 0
	for range 4 {
		n, err := e.Prune(past.Add(7*24*time.Hour), 2)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if left := count(t, "SELECT count(*) FROM "+o.Schema+".notification"); total != 6 || left != "2" {
		t.Errorf("%d pruned, %s left", total, left)
	}
}

// A day with many unfinished notifications is passed over in several calls, each of which goes on
// where the one before has ended.
func TestPruneRowsGoesOn(t *testing.T) {
	o := fresh(t)
	o.Slack = time.Hour
	e := open(t, join(t, o))
	defer e.Close()
	pgstore.HurryPrune(e)
	past := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	seq := delivery.Seq(past.UnixNano())
	for range 12 {
		if err := e.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(seq, fmt.Sprint("waits-", seq), "a")}, Sync: true}); err != nil {
			t.Fatal(err)
		}
		seq += 1 << 20
	}
	finished(t, e, past, seq)
	for call, want := range []int{0, 0, 0, 1, 0} {
		if n, err := e.Prune(past.Add(7*24*time.Hour), 1); err != nil || n != want {
			t.Errorf("call %d: %d pruned, want %d, error %v", call, n, want, err)
		}
	}
}

// What one node has erased is vacuumed by another, also after a restart. It is vacuumed again until it is
// nearly a day old: somebody's transaction may have kept it.
func TestScrub(t *testing.T) {
	o := fresh(t)
	all, _ := members(t, o, "a", "b")
	e := open(t, all[0])
	now := time.Now()
	seq := delivery.Seq(now.UnixNano())
	finished(t, e, now, seq)
	if err := e.Apply(&delivery.Batch{Erase: []delivery.Seq{seq}, Sync: true}); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	other := open(t, all[1])
	defer other.Close()
	scrub := func(before time.Time) bool {
		did, err := other.(store.Scrubber).Scrub(t.Context(), before)
		if err != nil {
			t.Fatal(err)
		}
		return did
	}
	if scrub(now.Add(-time.Hour)) || scrub(now.Add(time.Hour)) {
		t.Error("it says that it is done")
	}
	vacuumed := fmt.Sprintf("SELECT coalesce(sum(vacuum_count), 0) FROM pg_stat_user_tables WHERE schemaname = '%s' AND relname = 'notification_%s'", o.Schema, now.UTC().Format("20060102"))
	eventually(t, "the vacuum", func() bool { return count(t, vacuumed) == "1" })
	sql(t, "UPDATE "+o.Schema+".erased SET latest = latest - interval '21 hours'")
	if scrub(now.Add(time.Hour)) {
		t.Error("after 21 hours it says that it is done")
	}
	eventually(t, "the second vacuum", func() bool { return count(t, vacuumed) == "2" })
	sql(t, "UPDATE "+o.Schema+".erased SET latest = latest - interval '2 hours'")
	if !scrub(now.Add(time.Hour)) || scrub(now.Add(time.Hour)) {
		t.Error("what was vacuumed is not forgotten, or before its time")
	}
}

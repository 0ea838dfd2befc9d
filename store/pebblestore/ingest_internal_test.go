package pebblestore

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestIngestedTablesStay: folds whose keys come in their order, but for some that are late, become
// tables of Pebble's last level, which no compaction writes again.
func TestIngestedTablesStay(t *testing.T) {
	var warnings strings.Builder
	log := slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := Open("data", Options{Journal: true, FS: vfs.NewMem(), MemTableBytes: 64 << 10, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	const folds, each = 4, 100
	at := time.Unix(1_700_000_000, 0)
	finish := func(b *delivery.Batch, seq int) {
		at = at.Add(time.Millisecond)
		b.Finish = append(b.Finish, delivery.Finish{Key: delivery.Key{Seq: delivery.Seq(seq), Device: "phone"}, At: at})
	}
	for fold := range folds {
		b := &delivery.Batch{Sync: true}
		for i := range each {
			seq := fold*each + i + 1
			b.Accept = append(b.Accept, delivery.Acceptance{Notification: &delivery.Notification{
				Seq: delivery.Seq(seq), ID: fmt.Sprint("n-", seq), Account: "ann", Title: strings.Repeat("Door", 40),
				AcceptedAt: at, ExpiresAt: at.Add(time.Hour), Devices: []string{"phone"},
			}})
			if i%2 == 0 {
				finish(b, seq)
			} else if fold > 0 {
				finish(b, seq-each) // late: another table has its neighbours
			}
		}
		if err := s.Apply(b); err != nil {
			t.Fatal(err)
		}
		s.folded()
	}
	levels, err := s.db.SSTables()
	if err != nil {
		t.Fatal(err)
	}
	last := map[byte]int{}
	for _, table := range levels[len(levels)-1] {
		last[table.Smallest.UserKey[0]]++
	}
	for _, prefix := range []byte{prefixContent, prefixCommit, prefixFinal, prefixFinished} {
		if last[prefix] < folds {
			t.Errorf("%d tables of %q are in the last level, want %d", last[prefix], prefix, folds)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if warnings.Len() > 0 {
		t.Error(warnings.String())
	}
}

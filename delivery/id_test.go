package delivery

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func TestIDTellsSeq(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seq := Seq(rapid.Uint64().Draw(t, "seq"))
		id := NewID(seq)
		if got, ok := SeqOf(id); !ok || got != seq {
			t.Fatalf("%s: got %d, %v, want %d", id, got, ok, seq)
		}
		if len(id) != len(placeholderID) {
			t.Fatalf("%s is not as long as %s", id, placeholderID)
		}
	})
}

// TestIDIsUUIDv7: for others, too, it says when the notification was accepted.
func TestIDIsUUIDv7(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 999_999_999, time.UTC)
	id, err := uuid.Parse(NewID(Seq(at.UnixNano())))
	if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
		t.Fatalf("%s is of version %d and variant %s: %v", id, id.Version(), id.Variant(), err)
	}
	if s, ns := id.Time().UnixTime(); !time.Unix(s, ns).Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("its time is %v, want %v", time.Unix(s, ns), at)
	}
	if a, b := NewID(7), NewID(7); a == b {
		t.Errorf("two stores may both make %s", a)
	}
	if a, b := NewID(Seq(at.UnixNano())), NewID(Seq(at.UnixNano()+1)); a >= b {
		t.Errorf("%s is not before %s", a, b)
	}
}

func TestOtherIDsTellNoSeq(t *testing.T) {
	own := NewID(Seq(time.Now().UnixNano()))
	for _, id := range []string{
		"", "order-4711", uuid.New().String(), strings.ToUpper(own), "{" + own + "}", strings.ReplaceAll(own, "-", ""), "urn:uuid:" + own,
		uuid.Max.String(), "ffffffff-ffff-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff", own[:14] + "6" + own[15:], own[:19] + "0" + own[20:],
	} {
		if seq, ok := SeqOf(id); ok {
			t.Errorf("%q tells %d", id, seq)
		}
	}
	if _, ok := SeqOf(NewID(math.MaxUint64)); !ok {
		t.Error("the highest Seq is not told")
	}
}

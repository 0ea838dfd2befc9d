package delivery

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
)

func TestEventID(t *testing.T) {
	for _, at := range []Place{
		nil, {{}}, {{Commit: 1}}, {{Commit: math.MaxUint64, Number: math.MaxUint64}},
		{{Partition: 0, Commit: 3, Number: 4}, {Partition: math.MaxUint32, Commit: 5, Number: 6}},
	} {
		if got, err := ParseEventID(EventID(at...)); err != nil || !reflect.DeepEqual(got, at) {
			t.Errorf("%v came back as %v (error %v)", at, got, err)
		}
	}
	id := EventID(Position{Commit: 300, Number: 1 << 60})
	for _, bad := range []string{"", "1", "x", id[1:], id + "A", strings.ToUpper(id), id[:len(id)-1], " " + id} {
		if got, err := ParseEventID(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v and error %v, want one that wraps ErrInvalid", bad, got, err)
		}
	}
	if !(Position{Commit: 1, Number: 9}).Less(Position{Commit: 2}) || (Position{Commit: 2, Number: 3}).Less(Position{Commit: 2, Number: 3}) {
		t.Error("positions are not ordered by commit and number")
	}
}

func FuzzParseEventID(f *testing.F) {
	f.Add(EventID(Position{Commit: 300, Number: 1 << 60}))
	f.Fuzz(func(t *testing.T, id string) {
		at, err := ParseEventID(id)
		if err != nil {
			return
		}
		if again, err := ParseEventID(EventID(at...)); err != nil || !reflect.DeepEqual(again, at) {
			t.Errorf("%v came back as %v (error %v)", at, again, err)
		}
	})
}

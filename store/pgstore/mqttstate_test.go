package pgstore_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/store"
)

// randomName is a name that no index can compress.
func randomName(begin string, length int) string {
	b := []byte(begin)
	random := rand.New(rand.NewPCG(1, uint64(length)))
	for len(b) < length {
		b = append(b, byte('a'+random.IntN(26)))
	}
	return string(b)
}

// A key may be as long as the name of a topic and a client identifier together, which an index of
// PostgreSQL does not take.
func TestStateOfLongNames(t *testing.T) {
	o := fresh(t)
	e := open(t, join(t, o))
	defer e.Close()
	state := e.(store.State)
	apply := func(changes ...store.StateChange) {
		t.Helper()
		if err := state.ApplyState(changes); err != nil {
			t.Fatal(err)
		}
	}
	want := func(prefix string, want ...string) {
		t.Helper()
		var got []string
		if err := state.ScanState(prefix, func(key string, value []byte) error {
			got = append(got, key+"="+string(value))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%.20q: %d entries, want %d:\n%.200q\n%.200q", prefix, len(got), len(want), got, want)
		}
	}
	client := "s" + randomName("", 60_000) + "\x00"
	limit, above, topic, filter := randomName("ra", 1024), randomName("rb", 1025), randomName("rc", 65_536), client+randomName("", 65_535)
	apply(store.StateChange{Key: filter, Value: []byte("1")}, store.StateChange{Key: client + "a", Value: []byte("2")},
		store.StateChange{Key: topic, Value: []byte("3")}, store.StateChange{Key: above}, store.StateChange{Key: limit, Value: []byte("5")}, store.StateChange{Key: "rz", Value: []byte("6")})
	want("r", limit+"=5", above+"=", topic+"=3", "rz=6")
	want("s", slices.Sorted(slices.Values([]string{filter + "=1", client + "a=2"}))...)
	want("", slices.Sorted(slices.Values([]string{limit + "=5", above + "=", topic + "=3", "rz=6", filter + "=1", client + "a=2"}))...)
	apply(store.StateChange{Key: topic, Value: []byte("4")}, store.StateChange{Key: above, Remove: true})
	want("r", limit+"=5", topic+"=4", "rz=6")
	apply(store.StateChange{Key: strings.TrimSuffix(client, "\x00") + "b\x00", Remove: true, Prefix: true}) // another client's
	want(client, slices.Sorted(slices.Values([]string{filter + "=1", client + "a=2"}))...)
	apply(store.StateChange{Key: client, Remove: true, Prefix: true})
	want("s")
	apply(store.StateChange{Key: "r", Remove: true, Prefix: true})
	want("")

	former := strings.Repeat("r", 2000) // an earlier version stored it as it is
	sql(t, "INSERT INTO "+o.Schema+".mqtt_state (key, value) VALUES ('"+former+"', 'old')")
	want("r", former+"=old")
	apply(store.StateChange{Key: former, Value: []byte("new")})
	want("r", former+"=new")
	apply(store.StateChange{Key: former, Remove: true})
	want("")
}

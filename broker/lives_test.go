package broker

import (
	"errors"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// The end of a life is not the end of the node: callers get an error that says to ask again.
func TestAfterALife(t *testing.T) {
	t.Parallel()
	out, err := store.New(store.Options{Open: memory.Open})
	if err != nil {
		t.Fatal(err)
	}
	l, n := &life{out: out}, &lives{}
	n.begin(l)
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(when string, err error) {
		t.Helper()
		if !errors.Is(err, delivery.ErrUnavailable) || errors.Is(err, delivery.ErrStopped) {
			t.Errorf("%s: %v", when, err)
		}
	}
	_, err = n.EventsEnd()
	check("while a life ends", err)
	check("while a life ends", n.Ready())
	n.end(l)
	_, err = n.EventsEnd()
	check("between two lives", err)
	check("between two lives", n.Ready())
}

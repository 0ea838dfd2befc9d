package listener

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A listener that refuses keeps its connections, and ends as many of them as it is told,
// each with the reason.
func TestShed(t *testing.T) {
	_, l := ours(t, nil, Options{})
	var all []*client
	for _, id := range []string{"a", "b", "c", "d"} {
		c := dial(t, l.Address(), true)
		c.connect(id)
		all = append(all, c)
	}
	old := dial(t, l.Address(), false)
	old.connect("old")
	silent := dial(t, l.Address(), true) // no CONNECT
	eventually(t, "all are there", func() bool { return l.Stats().Open == 6 })
	l.Refuse()
	l.Refuse()
	if c, err := net.Dial("tcp", l.Address()); err == nil {
		t.Error("a connection after Refuse")
		c.Close()
	}
	for _, c := range all {
		c.ping()
	}
	if ended, left := l.Shed(0, packets.CodeSuccess); ended != 0 || left != 6 {
		t.Errorf("none: %d ended, %d left", ended, left)
	}
	if ended, left := l.Shed(4, packets.ErrUseAnotherServer); ended != 4 || left != 2 {
		t.Errorf("4 of 6: %d ended, %d left", ended, left)
	}
	if ended, left := l.Shed(4, packets.ErrUseAnotherServer); ended != 2 || left != 0 {
		t.Errorf("the rest: %d ended, %d left", ended, left)
	}
	for _, c := range all {
		if p, err := c.packet(patience); err != nil || p[0] != 0xE0 || p[2] != 0x9C || !c.gone(patience) {
			t.Errorf("%x, %v; want DISCONNECT with 0x9C, and the end", p, err)
		}
	}
	if !old.gone(patience) || !silent.gone(patience) {
		t.Error("connections that are told nothing go on")
	}
}

func TestShedWebSocket(t *testing.T) {
	w := NewWebSocket(Options{})
	s := newServer(t, nil, w)
	h := httptest.NewServer(w)
	defer h.Close()
	defer s.Close()
	eventually(t, "mochi serves", w.started)
	c, _ := dialWS(t, "ws"+strings.TrimPrefix(h.URL, "http"), nil, "mqtt")
	c.connect("id")
	w.Refuse()
	answer, err := http.Get(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusServiceUnavailable {
		t.Error("after Refuse:", answer.Status)
	}
	c.ping()
	if ended, left := w.Shed(9, packets.ErrUseAnotherServer); ended != 1 || left != 0 {
		t.Errorf("%d ended, %d left", ended, left)
	}
	if p, err := c.packet(patience); err != nil || p[0] != 0xE0 || p[2] != 0x9C {
		t.Errorf("%x, %v; want DISCONNECT with 0x9C", p, err)
	}
}

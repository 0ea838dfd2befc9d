package xmpp_test

import (
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestManyAcks: a device reports each notification of a backlog as displayed. No ack is refused, and
// nothing is pushed.
func TestManyAcks(t *testing.T) {
	w := newWorld(t)
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	const many = 100
	for range many {
		w.notify(delivery.Request{Account: ann, Title: "t", Ack: delivery.AckDisplayed})
	}
	for shown, acked := 0, 0; shown < many || acked < many; {
		switch s := w.link.Next(); {
		case s.Type == "set":
			w.link.Result(s)
			w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='a'><ack xmlns='urn:heartline:1' id='" + jsonID(t, s) + "' status='displayed'/></iq>")
			shown++
		case s.Type == "result" && s.ID == "a":
			acked++
		default:
			t.Fatalf("after %d results: %+v", acked, s)
		}
	}
	got := map[string]int{}
	for _, kind := range w.kinds(device) {
		got[kind]++
	}
	if got["displayed"] != many || got["ack_timeout"] != 0 || len(w.apple.pushes) != 0 {
		t.Errorf("%v, %d pushes", got, len(w.apple.pushes))
	}
	// An ack in front of a command is no way around the limit.
	refused := 0
	for range 100 {
		w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='c'><ack xmlns='urn:heartline:1' id='x' status='displayed'/><command xmlns='http://jabber.org/protocol/commands' node='other'/></iq>")
		if s := w.link.Next(); s.Child("error").Type == "wait" {
			refused++
		}
	}
	if refused == 0 {
		t.Error("100 commands with an ack were all served")
	}
}

package xmpp_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmpptest"
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

// TestLongSender: a sender whose JID is longer than a subtitle is shown in part, and loses neither
// its own publish nor one that it joins.
func TestLongSender(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.ShowSender, o.MinInterval = true, 300*time.Millisecond })
	node, secret := w.register(phone, "phone")
	long := strings.Repeat("a", 300) + "@x.example/r"
	for _, sender := range []string{long, "bob@example.org/x", long} { // the last two share a notification
		w.link.Publish("p", host, domain, node, secret, sender, "hello")
	}
	for range 3 {
		if s := w.link.Next(); s.Type != "result" {
			t.Fatalf("%+v", s)
		}
	}
	n, err := w.core.Notification((<-w.apple.pushes).Seq)
	if want := strings.Repeat("a", delivery.MaxSubtitle-len("…")) + "…"; err != nil || n.Subtitle != want {
		t.Errorf("%+v, %v", n, err)
	}
}

// TestInvalidPublish: a publish that makes no valid notification is in the log.
func TestInvalidPublish(t *testing.T) {
	log := &logged{}
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) {
		o.Title, o.Logger = strings.Repeat("x", delivery.MaxText+1), slog.New(slog.NewTextHandler(log, nil))
	})
	node, secret := w.register(phone, "phone")
	w.link.Publish("p", host, domain, node, secret, "", "hello")
	if s := w.link.Next(); s.Child("error").Type != "wait" {
		t.Fatalf("%+v", s)
	}
	if log.count("the publish is lost") != 1 || log.count("title: at most") != 1 {
		t.Error(log.text.String())
	}
}

// TestHeartbeats: whatever a device sends of its own says that it is there, so that a notification
// that it has refused is sent again. An answer, or what another session sends, says nothing.
func TestHeartbeats(t *testing.T) {
	for name, stanza := range map[string]string{
		"ping":    "<iq type='get' from='" + phone + "' to='" + domain + "' id='q'><ping xmlns='urn:xmpp:ping'/></iq>",
		"query":   "<iq type='get' from='" + phone + "' to='" + domain + "' id='q'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>",
		"command": "<iq type='set' from='" + phone + "' to='" + domain + "' id='q'><command xmlns='http://jabber.org/protocol/commands' node='other'/></iq>",
		"state":   "<iq type='set' from='" + phone + "' to='" + domain + "' id='q'><state xmlns='urn:heartline:1' app='background'/></iq>",
		"ack":     "<iq type='set' from='" + phone + "' to='" + domain + "' id='q'><ack xmlns='urn:heartline:1' id='x' status='displayed'/></iq>",
		"unknown": "<iq type='set' from='" + phone + "' to='" + domain + "' id='q'><unknown xmlns='y'/></iq>",
		"message": "<message from='" + phone + "' to='" + domain + "'><body>x</body></message>",
	} {
		w := newWorld(t)
		device := w.up(phone, "phone")
		n := w.notify(delivery.Request{Account: ann, Title: "t", NoFallback: true})
		s, _ := w.next("notification")
		w.link.Error(s, "wait", "resource-constraint")
		w.wait(device, "waiting")
		w.link.Result(s) // was answered
		w.link.Send("<message type='error' from='" + phone + "' to='" + domain + "'/><message from='" + ann + "/other' to='" + domain + "'/>")
		w.sync(ann + "/other")
		if kinds := w.kinds(device); slices.Contains(kinds, "redelivered") {
			t.Errorf("%s: sent again without a heartbeat: %v", name, kinds)
		}
		w.link.Send(stanza)
		for again := (xmpptest.Stanza{}); again.Type != "set"; {
			if again = w.link.Next(); again.Type == "set" && jsonID(t, again) != n.ID {
				t.Errorf("%s: %+v", name, again)
			}
		}
		w.wait(device, "redelivered")
	}
}

// TestAckAheadOfMessage: the ack is handled before the message that follows it, so that its
// notification is not sent again.
func TestAckAheadOfMessage(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	n := w.notify(delivery.Request{Account: ann, Title: "t", NoFallback: true})
	s, _ := w.next("notification")
	w.link.Error(s, "wait", "resource-constraint")
	w.wait(device, "waiting")
	w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='a'><ack xmlns='urn:heartline:1' id='" + n.ID + "' status='displayed'/></iq><message from='" + phone + "' to='" + domain + "'/>")
	if s := w.link.Next(); s.Type != "result" || s.ID != "a" {
		t.Errorf("%+v", s)
	}
	w.sync(ann + "/other")
	if kinds := w.kinds(device); slices.Contains(kinds, "redelivered") {
		t.Errorf("sent again: %v", kinds)
	}
}

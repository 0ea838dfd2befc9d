package terminal

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/eclipse/paho.golang/paho"

	"github.com/heartline-mqtt/heartline/wire"
)

// arrived handles one PUBLISH. paho acknowledges it when this returns. What cannot
// be read is acknowledged, too: it would not be better the next time.
func (t *Terminal) arrived(pr paho.PublishReceived) (bool, error) {
	var err error
	switch pr.Packet.Topic {
	case t.topics.notifications():
		var p wire.Pseudo
		if err = read(pr.Packet.Payload, &p, &p.ID); err == nil {
			t.notification(p)
			if status := t.shownStatus(p); status != "" {
				t.session.after = func() { t.acknowledge(pr.Client, p.ID, status) }
			}
		}
	case t.topics.messages():
		var m wire.Message
		if err = read(pr.Packet.Payload, &m, &m.ID); err == nil {
			t.once(SeenMessage, m.ID, func() { t.opts.Display.Message(m) })
		}
	case t.topics.dismissals():
		var d wire.Dismissal
		if err = read(pr.Packet.Payload, &d, &d.ID); err == nil {
			t.dismiss(d)
		}
	default:
		return false, nil
	}
	if err != nil {
		t.log.Warn("packet from the server not readable", "topic", pr.Packet.Topic, "error", err)
	}
	return true, nil
}

// read is lenient: a later server may send more.
func read(payload []byte, v any, id *string) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return err
	}
	if *id == "" {
		return errors.New("it has no id")
	}
	return nil
}

// notification shows a tip in the background, unless the ID has been shown. p.Pushed
// does not count: a notification server has accepted a push, and Apple keeps one for a
// phone that is off (contract §2).
func (t *Terminal) notification(p wire.Pseudo) {
	t.once(SeenNotification, p.ID, func() {
		if t.Foreground() {
			t.opts.Display.Notice(p)
		} else {
			t.opts.Display.Tip(p)
		}
	})
}

// once shows a notification that has not been shown. It records it afterwards: a crash
// in between shows it twice, the other order would not show it at all.
func (t *Terminal) once(kind SeenKind, id string, show func()) {
	if t.opts.Seen.Has(kind, id) {
		return
	}
	show()
	t.seen(kind, id)
}

func (t *Terminal) seen(kind SeenKind, id string) {
	if err := t.opts.Seen.Add(kind, id); err != nil {
		t.log.Error("shown notification not recorded, it may be shown again after a restart", "id", id, "error", err)
	}
}

// dismiss takes a notification off the screen. Its ID counts as shown: a copy that
// comes later must not bring it back.
func (t *Terminal) dismiss(d wire.Dismissal) {
	if display, ok := t.opts.Display.(Dismisser); ok {
		display.Dismiss(d)
	}
	t.seen(SeenNotification, d.ID)
}

// shownStatus is the status to publish once p is shown, "" for none.
func (t *Terminal) shownStatus(p wire.Pseudo) string {
	switch t.opts.Displayed {
	case DisplayedAlways:
		return "displayed"
	case DisplayedNever:
		return ""
	case DisplayedRead:
		return "read"
	}
	if p.Ack == "displayed" {
		return "displayed"
	}
	return ""
}

// acknowledge notifies the server. It does not wait for the arrival: the server resends
// each notification that it has no `displayed` for, and each copy is answered.
func (t *Terminal) acknowledge(client *paho.Client, id, status string) {
	payload, err := json.Marshal(wire.Ack{ID: id, Status: status})
	if err == nil {
		ctx, cancel := context.WithTimeout(t.ctx, answerTimeout)
		defer cancel()
		_, err = client.PublishWithOptions(ctx, &paho.Publish{Topic: t.topics.acks(), QoS: 1, Payload: payload},
			paho.PublishOptions{Method: paho.PublishMethod_AsyncSend})
	}
	if err != nil {
		t.log.Debug("ack not published yet", "id", id, "status", status, "error", err)
	}
}

package hooks

import (
	"bytes"
	"encoding/binary"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/wire"
)

// Some packets never wait for anything: acknowledgements, PINGREQ, and notifications that
// are accepted. A listener has them handled where it has read them, and without mochi.
// Nearly all packets of a server that gets notifications through are of these kinds.

// Prompt returns a function that handles a whole packet of an established client at once,
// or returns false and has done nothing with it; nil: there is none. The packet has passed
// hooks/strict, and the function keeps nothing of it. One goroutine at a time may read
// packets of a client, by this function or another.
func (h *Hook) Prompt(cl *mqtt.Client) func(packet []byte) (handled bool) {
	c := h.conn(cl)
	if c == nil || h.hub == nil || !c.established.Load() {
		return nil
	}
	return c.prompt
}

func (c *conn) prompt(b []byte) bool {
	switch b[0] >> 4 {
	case packets.Puback:
		return c.promptPuback(b)
	case packets.Pingreq:
		c.heartbeat()
		c.pong()
		return true
	case packets.Publish:
		return c.promptPublish(b)
	}
	return false
}

// promptPuback takes a PUBACK of success, which both versions write in four bytes.
func (c *conn) promptPuback(b []byte) bool {
	if len(b) != 4 {
		return false
	}
	id := binary.BigEndian.Uint16(b[2:])
	if id >= ordinary.FirstNotificationID {
		if ref, ours := c.releaseID(id); ours {
			ref.Acked()
			return true
		}
	}
	c.heartbeat()
	c.session.Acknowledge(c, id)
	return true
}

// promptPublish takes a PUBLISH of QoS 0 or 1 to an account's notifications topic. It
// leaves one that is to be refused, and one that has to wait for a slot.
func (c *conn) promptPublish(b []byte) bool {
	h := c.hook
	qos := b[0] >> 1 & 3
	if qos > 1 || h.stopped.Load() || len(c.waiting) == cap(c.waiting) {
		return false
	}
	_, n := binary.Uvarint(b[1:])
	body := b[1+n:]
	size := 2 + int(binary.BigEndian.Uint16(body))
	topicName, rest := body[2:size], body[size:]
	if !h.topics.mayBeAccounts(topicName) {
		return false
	}
	reply := ack{qos: qos}
	if qos > 0 {
		reply.packetID, rest = binary.BigEndian.Uint16(rest), rest[2:]
	}
	if c.peer.Version == 5 {
		if rest[0] != 0 { // properties, and among them perhaps a topic alias
			return false
		}
		rest = rest[1:]
	}
	_, account, kind, ok := h.topics.parse(string(topicName))
	if !ok || kind != kindNotifications || account == "" || !c.identity.MayActFor(account) {
		return false
	}
	payload := bytes.Clone(rest)
	r, err := wire.ParseContent(payload, account)
	if err != nil {
		return false
	}
	c.heartbeat()
	c.waiting <- struct{}{} // nobody else takes slots
	c.accept(c.replies.expect(reply), r, account, payload, b[0]>>3&1 == 1)
	return true
}

// mayBeAccounts reports whether a topic name begins as those of accounts do.
func (t topics) mayBeAccounts(topicName []byte) bool {
	const of = "/accounts/"
	return len(topicName) > len(t.prefix)+len(of) && string(topicName[:len(t.prefix)]) == t.prefix &&
		string(topicName[len(t.prefix):len(t.prefix)+len(of)]) == of
}

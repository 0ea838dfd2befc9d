package hooks

import (
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// standing is what a connection's session and subscriptions put on every PUBLISH
// of ours.
type standing struct {
	resumed bool // the session is older than the connection
	// Subscription Identifiers
	notifications, messages, dismissals []int
}

// stand notes the Subscription Identifiers that the client has given.
func (c *conn) stand(filters map[string]ordinary.Subscription) {
	var s standing
	for filter, sub := range filters {
		if sub.Identifier == 0 {
			continue
		}
		if c.hook.topics.covers(filter, c.client.ID, kindNotifications) {
			s.notifications = append(s.notifications, sub.Identifier)
		}
		if c.hook.topics.covers(filter, c.client.ID, kindMessages) {
			s.messages = append(s.messages, sub.Identifier)
		}
		if c.hook.topics.covers(filter, c.client.ID, kindDismissals) {
			s.dismissals = append(s.dismissals, sub.Identifier)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.resumed = c.standing.resumed
	c.standing = s
}

// mark completes a PUBLISH with what MQTT says of copies: DUP where the session has
// had it, unacknowledged, over an earlier connection [MQTT-3.3.1-1]; another copy on
// the same connection is a packet of its own, as a resend there is forbidden
// [MQTT-4.4.0-1]. And the Subscription Identifiers [MQTT-3.3.4-3].
func (c *conn) mark(p *publication, pub delivery.Publication) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.dup = pub.Redelivery && c.standing.resumed
	for _, ref := range c.open {
		if ref.Seq == pub.Seq && ref.Message == pub.Message {
			p.dup = false
		}
	}
	switch { // each is replaced as a whole, never changed
	case pub.Message:
		p.subscriptions = c.standing.messages
	case pub.Dismissal:
		p.subscriptions = c.standing.dismissals
	default:
		p.subscriptions = c.standing.notifications
	}
}

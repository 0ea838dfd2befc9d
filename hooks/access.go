package hooks

import (
	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// AccessRule is a rule about ordinary topics. mochi's own ledger of such rules is
// not used: it keeps filters in a map, so that which of two decides is chance, and
// lets a rule for `a` speak of `a/b`.
type AccessRule = auth.ACLRule

// Rules can change while clients are connected; see Hook.Reconfigure.
type Rules struct {
	// Access decides about ordinary topics.
	Access []AccessRule
	// MaxDevices bounds the devices of an account; 0 sets no limit.
	MaxDevices int
	// Limits are about ordinary messages, where there is a Hub.
	Limits Limits
}

// rules are Rules in force. They are replaced whole, never changed.
type rules struct {
	Rules
	acl        *auth.ACL
	openTopics bool // nothing forbids an ordinary topic
}

// Reconfigure replaces the rules. Each packet, delivery and will after it is judged by
// the new ones: a client keeps a subscription that they forbid, and gets nothing by it.
func (h *Hook) Reconfigure(r Rules) {
	h.rules.Store(&rules{
		Rules: r, acl: auth.NewACL(r.Access, h.opts.AccessClosed), openTopics: len(r.Access) == 0 && !h.opts.AccessClosed,
	})
}

// writes reports whether the client may publish to a topic.
func (h *Hook) writes(cl *mqtt.Client, topicName string) bool {
	return h.rules.Load().acl.Writes(h.aclClient(cl), topicName)
}

// reads reports whether the client may have messages of a topic; see auth.ACL.Reads.
func (h *Hook) reads(cl *mqtt.Client, topicFilter string) bool {
	return h.rules.Load().acl.Reads(h.aclClient(cl), topicFilter)
}

// mayWrite reports whether a session's client may publish to an ordinary topic.
func (h *Hook) mayWrite(s *ordinary.Session, topicName string) bool {
	r := h.rules.Load()
	return r.openTopics || stateTopic(s.ID, topicName) || r.acl.Writes(h.aclSession(s), topicName)
}

// aclSession is how the ACL sees the client of a session.
func (h *Hook) aclSession(s *ordinary.Session) auth.Client {
	return auth.Client{Account: s.Account, ID: s.ID, Service: s.Service() || h.opts.Authenticate == nil}
}

// aclClient is how the ACL sees a client. A session without a connection was asked at
// its subscription; only rules that name its topics are asked again.
func (h *Hook) aclClient(cl *mqtt.Client) auth.Client {
	c := auth.Client{Account: string(cl.Properties.Username), ID: cl.ID, Service: true}
	if conn := h.conn(cl); conn != nil {
		c.Service = conn.identity.Service
	}
	return c
}

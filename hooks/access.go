package hooks

import (
	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/heartline-mqtt/heartline/auth"
)

// AccessRule is a rule about ordinary topics. mochi's own ledger of such rules is
// not used: it keeps filters in a map, so that which of two decides is chance, and
// lets a rule for `a` speak of `a/b`.
type AccessRule = auth.ACLRule

// access asks the ACL for mochi's clients.
type access struct {
	hook *Hook
	acl  *auth.ACL
}

// writes reports whether the client may publish to a topic.
func (a access) writes(cl *mqtt.Client, topicName string) bool {
	return a.acl.Writes(a.client(cl), topicName)
}

// reads reports whether the client may have messages of a topic; see auth.ACL.Reads.
func (a access) reads(cl *mqtt.Client, topicFilter string) bool {
	return a.acl.Reads(a.client(cl), topicFilter)
}

// client is how the ACL sees a client. A session without a connection was asked at
// its subscription; only rules that name its topics are asked again.
func (a access) client(cl *mqtt.Client) auth.Client {
	c := auth.Client{Account: string(cl.Properties.Username), ID: cl.ID, Service: true}
	if conn := a.hook.conn(cl); conn != nil {
		c.Service = conn.identity.Service
	}
	return c
}

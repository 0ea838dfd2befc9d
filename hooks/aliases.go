package hooks

import (
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"
)

// aliases are the topic aliases of one connection to a client (MQTT 5 §3.3.2.3.4),
// for ordinary messages. mochi's own are off: it takes an alias for known once it
// has chosen it, and keeps it in what it sends again over another connection.
type aliases struct {
	mu    sync.Mutex
	limit int
	known map[string]*alias // by topic name
}

type alias struct {
	number uint16
	sent   bool // with its topic name: it alone will do from now on
}

// maxAliases bounds a connection's aliases, which go to the topics that come first.
const maxAliases = 10

// aliasBytes is what the property takes; a topic name that is no longer gains
// nothing.
const aliasBytes = 3

// shorten gives a PUBLISH its alias, and takes the topic name away from it where
// the client has had both [MQTT-3.3.2-8].
func (a *aliases) shorten(c *conn, pk *packets.Packet) {
	if a.limit == 0 || len(pk.TopicName) <= aliasBytes {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.known[pk.TopicName]
	if x == nil {
		if len(a.known) == a.limit {
			return
		}
		if a.known == nil {
			a.known = map[string]*alias{}
		}
		x = &alias{number: uint16(len(a.known) + 1)}
		a.known[pk.TopicName] = x
	}
	with := *pk
	with.Properties.TopicAlias, with.Properties.TopicAliasFlag = x.number, true
	switch {
	case x.sent:
		with.TopicName = ""
	case tooLarge(c.client, &with): // by these bytes
		return
	}
	*pk = with
}

// sent notes that the client has an alias with its topic name. Whatever is encoded
// after this is written after it.
func (a *aliases) sent(pk *packets.Packet) {
	if pk.Properties.TopicAlias == 0 || pk.TopicName == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.known[pk.TopicName]; x != nil {
		x.sent = true
	}
}

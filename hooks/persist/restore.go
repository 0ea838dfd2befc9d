package persist

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/hooks/storage"

	"github.com/heartline-mqtt/heartline/store"
)

// StoredClients is the first thing that mochi asks for at the start. What has
// expired meanwhile is removed. mochi counts a session's expiry from the start: it
// is told what is left of it.
func (h *Hook) StoredClients() (out []storage.Client, err error) {
	now := time.Now().Unix()
	limit := int64(h.server.Options.Capabilities.MaximumSessionExpiryInterval)
	var over []store.StateChange
	err = h.scan(kindClient, func(m mark, value []byte) error {
		var s session
		if _, err := decode(value, &s); err != nil {
			return err
		}
		c := storage.Client{ID: m.client, Username: s.Username, Listener: s.Listener, ProtocolVersion: s.Version}
		life := limit
		if s.Version == 5 {
			life = min(life, int64(s.Expiry))
		}
		if s.Gone == 0 {
			s.Gone = now // the process died before it could say
			h.markSession(m.client)
		}
		left := s.Gone + life - now
		if left <= 0 {
			for _, k := range []string{m.key(), ofClient(kindSubscription, m.client), ofClient(kindInflight, m.client)} {
				over = append(over, store.StateChange{Key: k, Remove: true, Prefix: k[0] != kindClient})
			}
			return nil
		}
		if s.Version == 5 {
			c.Properties.SessionExpiryInterval, c.Properties.SessionExpiryIntervalFlag = uint32(min(left, int64(s.Expiry))), true
		}
		h.sessions.Store(m.client, &kept{session: s})
		out = append(out, c)
		return nil
	})
	if err == nil && len(over) > 0 {
		err = h.opts.Store.ApplyState(over)
	}
	return out, err
}

// StoredSubscriptions implements mqtt.Hook.
func (h *Hook) StoredSubscriptions() (out []storage.Subscription, err error) {
	err = h.scan(kindSubscription, func(m mark, value []byte) error {
		var s subscription
		if _, err := decode(value, &s); err != nil {
			return err
		}
		if _, ok := h.server.Clients.Get(m.client); !ok {
			return nil
		}
		out = append(out, storage.Subscription{
			Client: m.client, Filter: m.name, Qos: s.QoS, Identifier: s.Identifier,
			RetainHandling: s.RetainHandling, RetainAsPublished: s.RetainAsPublished, NoLocal: s.NoLocal,
		})
		return nil
	})
	atomic.AddInt64(&h.server.Info.Subscriptions, int64(len(out))) // mochi does not count them
	return out, err
}

// StoredInflightMessages puts the packets where they belong by itself and tells
// mochi of none: storage.Message has no room for the expiry and the protocol
// version, without which they would never expire.
func (h *Hook) StoredInflightMessages() ([]storage.Message, error) {
	now := time.Now().Unix()
	return nil, h.scan(kindInflight, func(m mark, value []byte) error {
		pk, err := decodePacket(value)
		if err != nil {
			return err
		}
		h.stored[m.key()] = struct{}{}
		cl, ok := h.server.Clients.Get(m.client)
		if !ok || expired(&pk, now) {
			h.mark(m) // not there, so it will be removed
			return nil
		}
		pk.PacketID = m.id
		if cl.State.Inflight.Set(pk) {
			atomic.AddInt64(&h.server.Info.Inflight, 1)
		}
		return nil
	})
}

// StoredRetainedMessages does as StoredInflightMessages does.
func (h *Hook) StoredRetainedMessages() ([]storage.Message, error) {
	now := time.Now().Unix()
	err := h.scan(kindRetained, func(m mark, value []byte) error {
		pk, err := decodePacket(value)
		if err != nil {
			return err
		}
		if expired(&pk, now) || len(pk.Payload) == 0 {
			h.mark(m)
			return nil
		}
		pk.TopicName = m.name
		h.server.Topics.RetainMessage(pk)
		return nil
	})
	atomic.StoreInt64(&h.server.Info.Retained, int64(h.server.Topics.Retained.Len()))
	h.started.Store(true) // mochi asks for nothing after this
	h.signal()
	return nil, err
}

// scan reads everything of a kind. A value that cannot be read is told of and
// passed over: one session is not worth the others.
func (h *Hook) scan(kind byte, fn func(m mark, value []byte) error) error {
	err := h.opts.Store.ScanState(string(kind), func(key string, value []byte) error {
		m, ok := parseKey(key)
		err := errValue
		if ok {
			err = fn(m, value)
		}
		if err != nil {
			h.count.damaged.Add(1)
			h.log.Error("MQTT state: passed over", "kind", string(kind), "client", m.client, "name", m.name, "error", err)
			return nil
		}
		h.count.restored.Add(1)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read MQTT state: %w", err)
	}
	return nil
}

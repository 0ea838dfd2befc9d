package persist

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/store"
)

var errBegun = errors.New("restored already, or stopped")

// Restore brings the stored state into the Hub and starts the writer. Sessions that
// have expired meanwhile are removed. It works once, and not after Stop.
func (h *Keeper) Restore() error {
	first := false
	h.begin.Do(func() { first = true })
	if !first {
		return errBegun
	}
	if err := h.restore(); err != nil {
		close(h.done)
		return err
	}
	go h.write()
	h.signal()
	return nil
}

func (h *Keeper) restore() error {
	now := time.Now().Unix()
	sessions := map[string]*ordinary.State{}
	steps := []error{
		h.restoreSessions(sessions, now),
		h.restoreSubscriptions(sessions),
		h.restoreInflight(sessions, now),
		h.restoreIncoming(sessions),
		h.restoreRetained(now),
	}
	if err := errors.Join(steps...); err != nil {
		return err
	}
	for _, s := range sessions {
		slices.SortFunc(s.Outgoing, func(a, b ordinary.Outgoing) int { return cmp.Compare(a.Order, b.Order) })
		h.hub.Import(*s)
	}
	return nil
}

func (h *Keeper) restoreSessions(sessions map[string]*ordinary.State, now int64) error {
	var over []store.StateChange
	err := h.scan(kindClient, func(m mark, value []byte) error {
		var s session
		if _, err := decode(value, &s); err != nil {
			return err
		}
		limit := uint32(h.opts.MaxSessionExpiry / time.Second)
		expiry := limit
		if s.Version == 5 {
			expiry = min(limit, s.Expiry)
		}
		if s.Gone == 0 {
			s.Gone = now // the process died before it could say
			h.Session(string(s.Username), m.client)
		}
		if s.Gone+int64(expiry) <= now {
			for _, k := range []string{m.key(), ofClient(kindSubscription, m.client), ofClient(kindInflight, m.client), ofClient(kindIncoming, m.client)} {
				over = append(over, store.StateChange{Key: k, Remove: true, Prefix: k[0] != kindClient})
			}
			return nil
		}
		sessions[m.client] = &ordinary.State{
			Header: ordinary.Header{
				ID: m.client, Account: string(s.Username), Service: s.Service, Version: s.Version, Expiry: expiry, Gone: s.Gone,
			},
			Subscriptions: map[string]ordinary.Subscription{},
		}
		return nil
	})
	if err == nil && len(over) > 0 {
		if err := h.opts.Store.ApplyState(over); err != nil {
			// They are found again at the next start.
			h.log.Error("expired sessions not removed", "sessions", len(over)/4, "error", err)
		}
	}
	return err
}

func (h *Keeper) restoreSubscriptions(sessions map[string]*ordinary.State) error {
	return h.scan(kindSubscription, func(m mark, value []byte) error {
		var s subscription
		if _, err := decode(value, &s); err != nil {
			return err
		}
		if of := sessions[m.client]; of != nil {
			of.Subscriptions[m.name] = ordinary.Subscription{
				QoS: s.QoS, Identifier: s.Identifier, RetainHandling: s.RetainHandling,
				RetainAsPublished: s.RetainAsPublished, NoLocal: s.NoLocal,
			}
			if s.Replaying {
				of.Replays = append(of.Replays, ordinary.Replay{Filter: m.name, After: s.After})
			}
		}
		return nil
	})
}

func (h *Keeper) restoreInflight(sessions map[string]*ordinary.State, now int64) error {
	return h.scan(kindInflight, func(m mark, value []byte) error {
		header, msg, err := decodeMessage(value)
		if err != nil {
			return err
		}
		h.stored[m.key()] = struct{}{}
		of := sessions[m.client]
		if of != nil && header.Type == typePubrec {
			// An older version kept both directions under one kind.
			id := m.id
			if header.ClientID != 0 {
				id = header.ClientID
			}
			of.Incoming = append(of.Incoming, id)
			h.Incoming(of.Account, m.client, id)
		}
		o, ok := header.outgoing(msg, m.id)
		// The client may hold the identifier of a message that was sent.
		if of == nil || !ok || !o.Sent && expired(msg, now) {
			h.mark("", m) // the Hub does not have it, so it will be removed
			return nil
		}
		of.Outgoing = append(of.Outgoing, o)
		return nil
	})
}

func (h *Keeper) restoreIncoming(sessions map[string]*ordinary.State) error {
	return h.scan(kindIncoming, func(m mark, _ []byte) error {
		h.stored[m.key()] = struct{}{}
		if of := sessions[m.client]; of != nil {
			of.Incoming = append(of.Incoming, m.id)
		} else {
			h.mark("", m)
		}
		return nil
	})
}

// restoreRetained leaves the messages where they are: the Hub gets their names and sizes.
func (h *Keeper) restoreRetained(now int64) error {
	return h.scan(kindRetained, func(m mark, value []byte) error {
		_, msg, err := decodeMessage(value)
		if err != nil {
			return err
		}
		if expired(msg, now) || len(msg.Payload) == 0 {
			h.mark("", m)
			return nil
		}
		msg.TopicName = m.name
		h.hub.ImportRetained(msg)
		return nil
	})
}

var errFound = errors.New("found")

// Load implements ordinary.Disk.
func (h *Keeper) Load(topicName string) (found *ordinary.Message, err error) {
	key := mark{kind: kindRetained, name: topicName}.key()
	err = h.opts.Store.ScanState(key, func(k string, value []byte) error {
		if k != key {
			return errFound // the first is the key itself, or it is not there
		}
		_, m, err := decodeMessage(slices.Clone(value))
		if err != nil {
			return err
		}
		m.TopicName, found = topicName, m
		return errFound
	})
	if err != nil && !errors.Is(err, errFound) {
		return nil, fmt.Errorf("read a retained message: %w", err)
	}
	return found, nil
}

// scan reads everything of a kind. A value that cannot be read is reported and skipped:
// one session is not worth the others.
func (h *Keeper) scan(kind byte, fn func(m mark, value []byte) error) error {
	err := h.opts.Store.ScanState(string(kind), func(key string, value []byte) error {
		m, ok := parseKey(key)
		err := errValue
		if ok {
			err = fn(m, value)
		}
		if err != nil {
			h.count.damaged.Add(1)
			h.seldom.Error(h.log, "MQTT state entry skipped", "kind", string(kind), "client", m.client, "name", m.name, "error", err)
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

package hooks

import (
	"encoding/binary"
	"slices"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/text"
)

// subscribe takes a SUBSCRIBE.
func (c *conn) subscribe(pk *packets.Packet) {
	h := c.hook
	asks := make([]ordinary.Ask, len(pk.Filters))
	reason, ours := "", false
	for i := range pk.Filters {
		f := &pk.Filters[i]
		a := &asks[i]
		a.Filter = f.Filter
		ours = ours || h.topics.concerns(f.Filter)
		a.Subscription = ordinary.Subscription{
			QoS: min(f.Qos, h.server.Options.Capabilities.MaximumQos), NoLocal: f.NoLocal, RetainAsPublished: f.RetainAsPublished,
			RetainHandling: f.RetainHandling, Identifier: f.Identifier,
		}
		if c.bridge { // it asks for no message back that it has brought
			group, _ := ordinary.SplitShare(f.Filter)
			a.NoLocal, a.RetainAsPublished = group == "", true // [MQTT-3.8.3-4]
		}
		if code, why := c.refusesFilter(f); code.Code != 0 {
			a.Code, reason = code.Code, why
		}
	}
	codes, ok := h.hub.Subscribe(c.session, c, asks, c.exempt())
	if !ok {
		return // taken over
	}
	if reason == "" && slices.Contains(codes, packets.ErrQuotaExceeded.Code) {
		reason = "too many subscriptions, or too long ones (mqtt.limits.subscriptions), or too many changes of the account wait for the disk"
	}
	if reason != "" {
		h.limited(c, "subscription refused", reason)
	}
	c.answerFilters(packets.Suback, pk.PacketID, codes, reason, ours)
}

// answerFilters sends a SUBACK or an UNSUBACK when the device's channel knows of the
// change, and before what the channel sends because of it. ours: some of the filters concern
// topics of ours. With others alone it does not go over all subscriptions: a service may have
// many, and ask for one at a time.
func (c *conn) answerFilters(packet byte, id uint16, codes []byte, reason string, ours bool) {
	if ours {
		c.outlet.cork()
		defer c.uncork()
		c.subscriptionsChanged()
	}
	answer := c.filterAnswer(packet, id, codes, reason)
	switch limit := c.peer.MaximumPacketSize; {
	case limit > 0 && len(answer) > limit: // [MQTT-3.1.2-24]: nothing can answer it
		_ = c.hook.server.DisconnectClient(c.client, packets.ErrPacketTooLarge)
	case !c.session.Resume(c, answer):
		c.client.Stop(errAnswers)
	}
}

// refusesFilter says why a filter is not granted.
func (c *conn) refusesFilter(f *packets.Subscription) (code packets.Code, reason string) {
	h := c.hook
	group, inner := ordinary.SplitShare(f.Filter)
	switch limit := h.rules.Load().Limits.TopicLevels; {
	case mqtt.IsSharedFilter(f.Filter) && !strings.HasPrefix(f.Filter, "$share/"): // an ordinary filter that no topic matches
		return packets.ErrTopicFilterInvalid, "a shared subscription begins with $share/, in small letters"
	case !mqtt.IsValidFilter(f.Filter, false), strings.HasPrefix(f.Filter, "$share/") && (group == "" || inner == "" || strings.ContainsAny(group, "+#")):
		return packets.ErrTopicFilterInvalid, "not a topic filter"
	case limit > 0 && !c.exempt() && !h.topics.within(inner) && ordinary.Levels(inner) > limit:
		return packets.ErrQuotaExceeded, "too many levels (mqtt.limits.topic_levels)"
	case group != "" && f.NoLocal:
		return packets.ErrProtocolViolationInvalidSharedNoLocal, "No Local on a shared subscription"
	case group != "" && h.topics.belowDevices(inner): // it would be granted and bring nothing
		return packets.ErrSharedSubscriptionsNotSupported, "the topics of a device are its own, and are not shared"
	case group != "" && h.topics.within(inner): // the same: a service reads events from its own place in the store
		return packets.ErrSharedSubscriptionsNotSupported, "topics below " + h.topics.prefix + " are not shared: subscribe without $share"
	}
	if c.isDevice() == nil && h.topics.coversOwn(inner, c.client.ID) {
		if err := c.admitDevice(); err != nil {
			h.Counters.OverDevices.Add(1)
			return packets.ErrQuotaExceeded, err.Error()
		}
	}
	if reason = h.mayNotSubscribe(c, inner); reason != "" {
		code = packets.ErrNotAuthorized
		if h.server.Options.Capabilities.Compatibilities.ObscureNotAuthorized {
			code = packets.ErrUnspecifiedError
		}
		return code, reason
	}
	return packets.CodeSuccess, ""
}

// mayNotSubscribe is why a client may read no topic that a filter can match; "": it
// may read some of them. The others are kept back at delivery.
func (h *Hook) mayNotSubscribe(c *conn, filter string) string {
	switch {
	case c.isDevice() != nil && h.topics.belowDevices(filter):
		return text.OneLine(c.isDevice().Error())
	case h.topics.within(filter):
		if h.opts.Authenticate == nil || c.isDevice() == nil && h.topics.coversOwn(filter, c.client.ID) || slices.Contains(h.topics.refusals(c.client.ID), filter) {
			return ""
		}
		if _, events := h.topics.eventsOf(filter); events {
			return c.refusesEvents(filter)
		}
		return "a device reads its own topics only"
	case !h.reads(c.client, filter):
		return "no topic that this filter matches may be read: " + h.rules.Load().acl.Why()
	}
	return ""
}

// mayRead reports whether a session's client may have messages published to a topic.
func (h *Hook) mayRead(s *ordinary.Session, topicName string) bool {
	if h.topics.within(topicName) {
		if h.opts.Authenticate == nil {
			return true
		}
		return h.topics.coversOwn(topicName, s.ID) || slices.Contains(h.topics.refusals(s.ID), topicName)
	}
	r := h.rules.Load()
	return r.openTopics || r.acl.Reads(h.aclSession(s), topicName)
}

func (c *conn) unsubscribe(pk *packets.Packet) {
	filters, ours := make([]string, len(pk.Filters)), false
	for i := range pk.Filters {
		filters[i] = pk.Filters[i].Filter
		ours = ours || c.hook.topics.concerns(filters[i])
	}
	if codes, ok := c.hook.hub.Unsubscribe(c.session, c, filters); ok {
		c.answerFilters(packets.Unsuback, pk.PacketID, codes, "", ours)
	}
}

// filterAnswer is a SUBACK or an UNSUBACK. MQTT 5 §3.9 §3.11, MQTT 3.1.1 §3.9 §3.11.
func (c *conn) filterAnswer(packet byte, id uint16, codes []byte, reason string) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if c.peer.Version == 5 {
		props := 0
		p := &c.client.Properties.Props
		room := c.peer.MaximumPacketSize == 0 || 16+len(codes)+len(reason) <= c.peer.MaximumPacketSize
		if reason != "" && room && !(p.RequestProblemInfoFlag && p.RequestProblemInfo == 0) { // [MQTT-3.1.2-29]
			props = 3 + len(reason)
		}
		body = binary.AppendUvarint(body, uint64(props))
		if props > 0 {
			body = appendText(append(body, 0x1f), reason)
		}
		body = append(body, codes...)
	} else if packet == packets.Suback {
		for _, code := range codes {
			body = append(body, min(code, 0x80))
		}
	}
	return append(binary.AppendUvarint([]byte{packet << 4}, uint64(len(body))), body...)
}

func (h *Hook) suback(cl *mqtt.Client, pk *packets.Packet) {
	if c := h.conn(cl); c != nil {
		if reason := c.refusedSub.Swap(nil); reason != nil {
			pk.Properties.ReasonString = *reason
		}
	}
}

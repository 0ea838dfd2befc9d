package broker

import (
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// This file turns values of hooks/ordinary into those that go between nodes, and back.

func relayMessage(m *ordinary.Message) *relay.Message {
	x := &relay.Message{
		TopicName: m.TopicName, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Origin: m.Origin, Account: m.Account,
		Created: m.Created, Expiry: m.Expiry, Stamp: m.Stamp, PayloadFormat: m.PayloadFormat, HasPayloadFormat: m.HasPayloadFormat,
		ContentType: m.ContentType, ResponseTopic: m.ResponseTopic, CorrelationData: m.CorrelationData, Known: m.Quiet,
	}
	for _, u := range m.User {
		x.User = append(x.User, [2]string{u.Key, u.Value})
	}
	return x
}

func ordinaryMessage(x *relay.Message) *ordinary.Message {
	m := &ordinary.Message{
		TopicName: x.TopicName, Payload: x.Payload, QoS: x.QoS, Retain: x.Retain, Origin: x.Origin, Account: x.Account,
		Created: x.Created, Expiry: x.Expiry, Stamp: x.Stamp,
		Properties: ordinary.Properties{
			PayloadFormat: x.PayloadFormat, HasPayloadFormat: x.HasPayloadFormat, ContentType: x.ContentType,
			ResponseTopic: x.ResponseTopic, CorrelationData: x.CorrelationData,
		},
	}
	for _, u := range x.User {
		m.User = append(m.User, ordinary.UserProperty{Key: u[0], Value: u[1]})
	}
	return m
}

func stateOf(st *ordinary.State) *relay.SessionState {
	x := &relay.SessionState{Service: st.Service, Version: st.Version, Expiry: st.Expiry, Gone: st.Gone, Incoming: st.Incoming}
	for filter, s := range st.Subscriptions {
		x.Subscriptions = append(x.Subscriptions, relay.Subscription{
			Filter: filter, QoS: s.QoS, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, RetainHandling: s.RetainHandling, Identifier: s.Identifier,
		})
	}
	for _, r := range st.Replays {
		x.Replays = append(x.Replays, relay.Replay{Filter: r.Filter, After: []byte(r.After)})
	}
	for _, o := range st.Outgoing {
		y := relay.Outgoing{PacketID: o.PacketID, QoS: o.QoS, Retain: o.Retain, Sent: o.Sent, Identifiers: o.Identifiers, Share: o.Share}
		if o.Message != nil {
			y.Message = relayMessage(o.Message)
		}
		x.Outgoing = append(x.Outgoing, y)
	}
	return x
}

func sessionOf(client, account string, x *relay.SessionState) ordinary.State {
	st := ordinary.State{
		Header:        ordinary.Header{ID: client, Account: account, Service: x.Service, Version: x.Version, Expiry: x.Expiry, Gone: x.Gone},
		Subscriptions: make(map[string]ordinary.Subscription, len(x.Subscriptions)), Incoming: x.Incoming,
	}
	for _, s := range x.Subscriptions {
		st.Subscriptions[s.Filter] = ordinary.Subscription{
			QoS: s.QoS, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, RetainHandling: s.RetainHandling, Identifier: s.Identifier,
		}
	}
	for _, r := range x.Replays {
		st.Replays = append(st.Replays, ordinary.Replay{Filter: r.Filter, After: string(r.After)})
	}
	for _, o := range x.Outgoing {
		y := ordinary.Outgoing{PacketID: o.PacketID, QoS: o.QoS, Retain: o.Retain, Sent: o.Sent, Identifiers: o.Identifiers, Share: o.Share}
		if o.Message != nil {
			y.Message = ordinaryMessage(o.Message)
		}
		st.Outgoing = append(st.Outgoing, y)
	}
	return st
}

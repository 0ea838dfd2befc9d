package broker

import (
	"reflect"
	"testing"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// TestSessionOverTheWire: every part of a session that moves arrives. One that is added to
// hooks/ordinary has to be passed on, too.
func TestSessionOverTheWire(t *testing.T) {
	m := ordinary.Message{
		TopicName: "t", Payload: []byte("p"), QoS: 2, Retain: true, Origin: "o", Account: "a", Created: 1, Expiry: 2, Stamp: 3,
		Properties: ordinary.Properties{
			PayloadFormat: 1, HasPayloadFormat: true, ContentType: "c", ResponseTopic: "r", CorrelationData: []byte("d"),
			User: []ordinary.UserProperty{{Key: "k", Value: "v"}, {Key: "k", Value: "w"}},
		},
	}
	st := ordinary.State{
		Header:        ordinary.Header{ID: "id", Account: "account", Service: true, Version: 5, Expiry: 4, Gone: 5},
		Subscriptions: map[string]ordinary.Subscription{"f": {QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2, Identifier: 6}},
		Outgoing: []ordinary.Outgoing{
			{PacketID: 7, QoS: 1, Retain: true, Sent: true, Identifiers: []int{8, 9}, Share: "$share/g/t", Message: &m},
			{PacketID: 8},
		},
		Incoming: []uint16{10},
		Replays:  []ordinary.Replay{{Filter: "f", After: "a\x00b"}},
	}
	for _, v := range []reflect.Value{reflect.ValueOf(m), reflect.ValueOf(m.Properties), reflect.ValueOf(st), reflect.ValueOf(st.Header), reflect.ValueOf(st.Subscriptions["f"]), reflect.ValueOf(st.Outgoing[0])} {
		for i := range v.NumField() {
			switch name := v.Type().Field(i).Name; {
			case name == "Order" || name == "relayed" || name == "replaying": // each node's own
			case name == "Quiet": // no session has such a message
			case v.Field(i).IsZero():
				t.Errorf("%s of %s is not tried", name, v.Type())
			}
		}
	}
	if got := sessionOf("id", "account", stateOf(&st)); !reflect.DeepEqual(got, st) {
		t.Errorf("sent %+v\n got %+v", st, got)
	}
	if m.Quiet = true; !relayMessage(&m).Known {
		t.Error("clients of other nodes hear of a removal that no client is to hear of")
	}
}

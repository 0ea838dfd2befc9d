package xmpp_test

import (
	"fmt"

	"github.com/heartline-mqtt/heartline/xmpp"
)

// The device ID of an XMPP client is made from its account and the ID that its app
// chose.
func ExampleDeviceID() {
	id := xmpp.DeviceID("ann@example.org", "phone-1")
	fmt.Println(id == xmpp.DeviceID("ann@example.org", "phone-1"), id == xmpp.DeviceID("ben@example.org", "phone-1"))
	// Output: true false
}

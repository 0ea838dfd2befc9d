package strict_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/heartline-mqtt/heartline/hooks/strict"
)

// A Reader passes well-formed packets, and stops at the first that MQTT forbids.
func ExampleNewReader() {
	connect := []byte("\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x04test")
	publish := []byte("\x30\x05\x00\x03a/#") // a topic name with a wildcard, and too short
	r := strict.NewReader(bytes.NewReader(append(connect, publish...)), &strict.Options{MaxPacketSize: 1 << 20})

	passed, err := io.ReadAll(r)
	fmt.Println(bytes.Equal(passed, connect))
	if v, ok := errors.AsType[*strict.Violation](err); ok {
		fmt.Printf("%s: %#x %s\n", strict.PacketName(v.Packet), v.Code, v.Rule)
	}
	// Output:
	// true
	// PUBLISH: 0x81 topic_wildcard
}

package wire_test

import (
	"encoding/json"
	"fmt"

	"github.com/heartline-mqtt/heartline/wire"
)

// A device reads a pseudo-notification and answers on its acks topic.
func Example() {
	payload := []byte(`{"id":"order-7","account":"alice","title":"Order 7",
		"accepted_at":"2026-11-23T09:30:00.120Z","redelivery":false,"pushed":true,
		"has_message":false,"ack":"displayed","tag":"order-7"}`)
	var p wire.Pseudo
	if err := json.Unmarshal(payload, &p); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Title, wire.ParseTime(p.AcceptedAt).UnixMilli())

	ack, err := json.Marshal(wire.Ack{ID: p.ID, Status: p.Ack})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(ack))
	// Output:
	// Order 7 1795426200120
	// {"id":"order-7","status":"displayed"}
}

// An account may hold characters that a topic level cannot.
func ExampleLevel() {
	level := wire.Level("+49151/home")
	account, ok := wire.ParseLevel(level)
	fmt.Println(level, account, ok)
	// Output: %2B49151%2Fhome +49151/home true
}

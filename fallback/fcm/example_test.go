package fcm_test

import (
	"fmt"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/fcm"
)

// The form of a registration can be checked without any configuration.
func ExampleCheckForm() {
	_, err := fcm.CheckForm(delivery.Registration{Server: delivery.ServerFCM, Token: "bad token"})
	fmt.Println(err != nil)
	r, err := fcm.CheckForm(delivery.Registration{Server: delivery.ServerFCM, Token: "dA1b2C3:APA91bExample"})
	fmt.Println(r.Token, err)
	// Output:
	// true
	// dA1b2C3:APA91bExample <nil>
}

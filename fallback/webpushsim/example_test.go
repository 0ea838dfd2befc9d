package webpushsim_test

import (
	"fmt"
	"strings"

	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
)

// A subscription as a browser makes it; its JSON form goes to Heartline as it is.
func ExampleServer_Subscribe() {
	sim, err := webpushsim.Start(webpushsim.Options{ControlAddress: "off"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sim.Close()
	sub, err := sim.Subscribe("")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(strings.HasPrefix(sub.Endpoint, sim.URL()), sub.Keys.P256dh != "", sub.Keys.Auth != "")
	// Output: true true true
}

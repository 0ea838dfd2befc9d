package fcmsim_test

import (
	"fmt"

	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
)

// Heartline's configuration takes the three values: fallback.fcm.service_account_file,
// endpoint and ca_file.
func ExampleStart() {
	sim, err := fcmsim.Start(fcmsim.Options{ControlAddress: "off"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sim.Close()
	fmt.Println(len(sim.ServiceAccount()) > 0, len(sim.CAPEM()) > 0, sim.URL() != "")
	fmt.Println(len(sim.Received("")))
	// Output:
	// true true true
	// 0
}

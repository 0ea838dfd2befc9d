package apns_test

import (
	"context"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apns"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// A router with Apple's side in front of the simulator, and one push.
func Example() {
	sim, err := apnssim.Start(apnssim.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = sim.Close() }()

	key := sim.Key()
	apple, err := apns.New(apns.Config{
		Endpoint: sim.URL(), CAPEM: sim.CAPEM(), // neither of them for Apple
		Apps: []apns.App{{Topic: "com.example.app", KeyPEM: key.PEM, KeyID: key.KeyID, TeamID: key.TeamID}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	router, err := fallback.New(fallback.Options{
		Pushers: []fallback.Pusher{apple},
		Content: func(delivery.Seq) (*delivery.Notification, error) { // delivery.Core.Notification
			return &delivery.Notification{ID: "n1", Account: "anna", Title: "Hello", ExpiresAt: time.Now().Add(time.Hour)}, nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = router.Close(context.Background()) }()

	token, err := router.Normalize(delivery.Registration{Token: "00FFAA"})
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan delivery.PushResult, 1)
	router.Push(context.Background(), delivery.Push{
		Device: "phone", Registration: token, Attempt: 1,
	}, func(r delivery.PushResult) { done <- r })
	fmt.Println((<-done).Detail)
	fmt.Println(sim.Shown(token.Token)[0].CollapseID)
	// Output:
	// 200
	// n1
}

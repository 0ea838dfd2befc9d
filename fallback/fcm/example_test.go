package fcm_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/fcm"
	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
)

// A router with Google's side in front of the simulator, and one push.
func Example() {
	sim, err := fcmsim.Start(fcmsim.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = sim.Close() }()

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(sim.CAPEM())
	google, err := fcm.New(fcm.Config{
		Endpoint: sim.URL(), RootCAs: roots, // neither of them for Google
		Apps: []fcm.App{{ServiceAccount: sim.ServiceAccount()}}, // the content of the file
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	router, err := fallback.New(fallback.Options{
		Pushers: []fallback.Pusher{google},
		Content: func(delivery.Seq) (*delivery.Notification, error) { // delivery.Core.Notification
			return &delivery.Notification{ID: "n1", Account: "anna", Title: "Hello", ExpiresAt: time.Now().Add(time.Hour)}, nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = router.Close(context.Background()) }()

	token, err := router.Normalize(delivery.Registration{Token: "dA1b2C3:APA91bExample"})
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan delivery.PushResult, 1)
	router.Push(context.Background(), delivery.Push{
		Device: "phone", Registration: token, Attempt: 1,
	}, func(r delivery.PushResult) { done <- r })
	fmt.Println((<-done).Detail)
	fmt.Println(sim.Shown(token.Token)[0].Tag)
	// Output:
	// 200
	// n1
}

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

package fallback_test

import (
	"context"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
)

// pager is a notification server that prints.
type pager struct{}

func (pager) Apps() []fallback.App { return []fallback.App{{Server: "pager", Name: "ward-7"}} }

func (pager) Normalize(r delivery.Registration) (delivery.Registration, error) {
	if r.App == "" {
		r.App = "ward-7"
	}
	return r, nil
}

func (pager) Fits(*delivery.Notification) error { return nil }

func (pager) Concurrency(fallback.App) int { return 1 }

func (pager) Push(_ context.Context, r fallback.Request) (string, error) {
	if r.Registration.Token == "broken" {
		return "", &fallback.PushError{TokenGone: true, Reason: "no such pager"}
	}
	fmt.Println("beep:", r.Notification.Title)
	return "receipt-1", nil
}

func (pager) Close() error { return nil }

// A notification server of one's own behind the router.
func ExamplePusher() {
	router, err := fallback.New(fallback.Options{
		Pushers: []fallback.Pusher{pager{}},
		Content: func(delivery.Seq) (*delivery.Notification, error) { // delivery.Core.Notification
			return &delivery.Notification{ID: "n1", Account: "anna", Title: "Bed 4", ExpiresAt: time.Now().Add(time.Hour)}, nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = router.Close(context.Background()) }()

	for _, token := range []string{"123", "broken"} {
		r, err := router.Normalize(delivery.Registration{Server: "pager", Token: token})
		if err != nil {
			fmt.Println(err)
			return
		}
		done := make(chan delivery.PushResult, 1)
		router.Push(context.Background(), delivery.Push{
			Device: "nurse", Registration: r, Attempt: 1,
		}, func(r delivery.PushResult) { done <- r })
		result := <-done
		fmt.Println(result.Outcome == delivery.PushAccepted, result.Outcome == delivery.PushTokenGone)
	}
	// Output:
	// beep: Bed 4
	// true false
	// false true
}

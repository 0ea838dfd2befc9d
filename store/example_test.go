package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// A core runs on an outbox in memory. The account's device is offline and has no
// registration, so that the notification waits.
func Example() {
	ctx := context.Background()
	outbox, err := store.New(store.Options{Open: memory.Open})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer outbox.Close()
	core := delivery.New(delivery.Options{
		Windows: delivery.Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second},
		TTL:     time.Hour, MaxOutstanding: 100, MaxInflight: 16, ForgetDeviceAfter: 24 * time.Hour,
	}, outbox, nil, slog.New(slog.DiscardHandler))
	if err := core.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer core.Stop(ctx)

	if err := core.PutDevice(ctx, "alice", "phone", nil); err != nil {
		fmt.Println(err)
		return
	}
	receipt, err := core.Accept(ctx, delivery.Request{Account: "alice", ID: "order-7", Title: "Order 7"})
	fmt.Println(receipt.Notification.ID, err)
	view, err := core.Get(ctx, "order-7")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range view.Deliveries {
		fmt.Println(d.Device, d.State)
	}
	// Output:
	// order-7 <nil>
	// phone waiting
}

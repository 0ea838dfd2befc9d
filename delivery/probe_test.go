package delivery_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestProbeAfterAClockStep: the wall clock says when a suspended registration may be
// probed. It was set forward since the suspension, or the machine was suspended: the
// monotonic clock has not come to that time yet.
func TestProbeAfterAClockStep(t *testing.T) {
	probe := testtool.Stepped(time.Now().Add(time.Hour), -2*time.Hour)
	s := newStore(t)
	defer s.close()
	r := delivery.Registration{
		Server: delivery.ServerAPNs, App: "app", Kind: delivery.KindAlert, Token: "aa", Claims: true,
		Suspended: &delivery.Suspension{Reason: "400 BadDeviceToken", NextProbe: probe},
	}
	done := make(chan error, 1)
	s.Commit(&delivery.Batch{PutDevices: []delivery.Device{{ID: "phone", Account: "a", Registrations: []delivery.Registration{r}, SeenAt: time.Now()}}}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a := &apple{}
	core := newCore(options(), s, a, slog.New(slog.DiscardHandler))
	if err := core.Start(); err != nil {
		t.Fatal(err)
	}
	events := core.Subscribe(100)
	if _, err := core.Accept(context.Background(), delivery.Request{Account: "a", Title: "t"}); err != nil {
		t.Fatal(err)
	}
	for e := range events.C {
		if e.Kind == delivery.EventPushed {
			break
		}
	}
	if err := core.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

package fallbacktest

import (
	"context"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
)

// SilentConnection tests a Pusher whose connection goes dead without a word, as when a NAT has
// forgotten it: the next push finds it out in time for the one after it. silence has the open
// connections go dead; scripted has the one go dead that the next request comes by.
func SilentConnection(t *testing.T, p fallback.Pusher, r delivery.Registration, silence func(), scripted func() error) {
	t.Helper()
	if testing.Short() {
		t.Skip("waits 5 s for a ping: not with -short")
	}
	send := func(ctx context.Context, id string) error {
		now := time.Now()
		n := &delivery.Notification{ID: id, Account: "anna", Title: "Title", Body: "Body", Urgency: delivery.UrgencyHigh, AcceptedAt: now, ExpiresAt: now.Add(time.Hour)}
		_, err := p.Push(ctx, fallback.Request{App: p.Apps()[0], Device: "phone", Registration: r, Notification: n, Attempt: 1})
		return err
	}
	lost := func(id, next string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start := time.Now()
		if err := send(ctx, id); err == nil {
			t.Error("a dead connection answers")
		}
		t.Logf("found after %v", time.Since(start).Round(time.Millisecond))
		if err := send(ctx, next); err != nil {
			t.Errorf("the push after it: %v", err)
		}
	}
	if err := send(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	silence()
	lost("b", "c")
	if err := scripted(); err != nil {
		t.Fatal(err)
	}
	lost("d", "e")
}

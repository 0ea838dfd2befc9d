package apns

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

func TestPush(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, s)}})
	n := note("n1")
	p := pushNote("00FF", n) // the router pushes what it is given, in any spelling
	if res := do(t, r, p); res.Outcome != delivery.PushAccepted || res.Detail != "200" {
		t.Fatalf("%+v", res)
	}
	got := s.Received()[0]
	want, err := payload(n, maxPayload)
	if err != nil {
		t.Fatal(err)
	}
	if got.Token != "00ff" || got.Topic != topic || got.PushType != "alert" || got.Priority != "10" || got.CollapseID != "n1" ||
		got.APNsID != apnsID("n1", "phone") || got.Expiration != strconv.FormatInt(p.ExpiresAt.Add(time.Second-1).Unix(), 10) ||
		string(got.Payload) != string(want) || got.KeyID != s.Key().KeyID {
		t.Errorf("%+v\n%s", got, got.Payload)
	}
	st := r.Status()
	if len(st) != 2 || st[0].State != "ok" || st[0].Counts[fallback.Count{Outcome: "accepted", Reason: "accepted"}] != 1 ||
		st[0].Credentials.TokenIssued.IsZero() || st[0].Credentials.Connections != 1 || st[1].Credentials.Connections != 0 {
		t.Errorf("%+v", st)
	}
}

// TestPayloadIsNotEscapedOnTheWay: what fits when it is measured fits when it
// arrives.
func TestPayloadIsNotEscapedOnTheWay(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	n := note("n")
	n.Body = strings.Repeat("<&>", 2000)
	if _, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: n}); err != nil {
		t.Fatal(err)
	}
	if got := s.Received()[0].Payload; len(got) != maxPayload || strings.Contains(string(got), `\u003c`) {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}

// TestStorm: everything arrives, over few connections.
func TestStorm(t *testing.T) {
	s := startSim(t, apnssim.Options{MaxConcurrentStreams: 100})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, s)}})
	const n = 1500
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		r.Push(context.Background(), pushTo(hexToken(i), "n"+hexToken(i)), func(res delivery.PushResult) {
			if res.Outcome != delivery.PushAccepted {
				t.Errorf("%+v", res)
			}
			wg.Done()
		})
	}
	wg.Wait()
	if _, ever := s.Connections(); ever > 4 || len(s.Received()) != n {
		t.Errorf("%d connections, %d requests", ever, len(s.Received()))
	}
}

package fallback

import (
	"context"
	"sync"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

func TestPush(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	r := newRouter(t, Options{Pushers: []Pusher{apnsFor(t, s)}})
	if res := do(t, r, pushTo(deviceToken, "n1")); res.Outcome != delivery.PushAccepted {
		t.Fatalf("%+v", res)
	}
	got := s.Received()
	if len(got) != 1 {
		t.Fatal(got)
	}
	t.Logf("%+v %s", got[0], got[0].Payload)
	t.Logf("%+v", r.Status())
}

func TestStorm(t *testing.T) {
	s := startSim(t, apnssim.Options{MaxConcurrentStreams: 100})
	r := newRouter(t, Options{Pushers: []Pusher{apnsFor(t, s)}})
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
	open, ever := s.Connections()
	t.Log(open, ever, len(s.Received()))
}

package apns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/token"
	"golang.org/x/net/http2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

var stormSize = flag.Int("storm", 50_000, "pushes of BenchmarkStorm")

// BenchmarkStorm pushes 50,000 notifications through a Router and through a bare
// apns2 loop with the same concurrency, at the same simulator, in turn, and
// reports both rates and their ratio:
//
//	go test -run '^$' -bench Storm -benchtime 3x ./fallback
func BenchmarkStorm(b *testing.B) {
	const concurrency = 500
	s := startSim(b, apnssim.Options{MaxReceived: 1000})
	n := *stormSize

	pushes := make([]delivery.Push, n)
	for i := range pushes {
		pushes[i] = pushTo(hexToken(i), "n"+hexToken(i))
	}
	r := newRouter(b, fallback.Options{Pushers: []fallback.Pusher{apnsFor(b, s)}, MaxConcurrent: concurrency})
	bare := bareClient(b, s)
	body, err := payload(note("n"), maxPayload)
	if err != nil {
		b.Fatal(err)
	}

	router := func(pushes []delivery.Push) {
		var wg sync.WaitGroup
		wg.Add(len(pushes))
		for _, p := range pushes {
			r.Push(context.Background(), p, func(res delivery.PushResult) {
				if res.Outcome != delivery.PushAccepted {
					b.Errorf("%+v", res)
				}
				wg.Done()
			})
		}
		wg.Wait()
	}
	loop := func(pushes []delivery.Push) {
		var wg sync.WaitGroup
		work := make(chan *delivery.Push)
		for range min(concurrency, len(pushes)) {
			wg.Go(func() {
				for p := range work {
					res, err := bare.PushWithContext(context.Background(), &apns2.Notification{
						ApnsID: apnsID(p.Registration.Token, p.Device), CollapseID: p.Registration.Token, DeviceToken: p.Registration.Token,
						Topic: topic, Expiration: p.ExpiresAt, Priority: 10, PushType: apns2.PushTypeAlert, Payload: body,
					})
					if err != nil || !res.Sent() {
						b.Errorf("%+v %v", res, err)
					}
				}
			})
		}
		for i := range pushes {
			work <- &pushes[i]
		}
		close(work)
		wg.Wait()
	}

	// A first push each, so that both have a connection with all its streams.
	router(pushes[:1])
	loop(pushes[:1])

	var tRouter, tLoop time.Duration
	for b.Loop() {
		// In slices, in turn: a shared machine's moods strike both.
		for part := range slices.Chunk(pushes, max(1, n/10)) {
			runtime.GC()
			start := time.Now()
			loop(part)
			tLoop += time.Since(start)
			runtime.GC()
			start = time.Now()
			router(part)
			tRouter += time.Since(start)
		}
	}
	total := float64(n * b.N)
	b.ReportMetric(total/tRouter.Seconds(), "router-push/s")
	b.ReportMetric(total/tLoop.Seconds(), "bare-push/s")
	b.ReportMetric(tLoop.Seconds()/tRouter.Seconds(), "ratio")
}

// bareClient is apns2 as its README shows it.
func bareClient(tb testing.TB, s *apnssim.Server) *apns2.Client {
	k := s.Key()
	key, err := token.AuthKeyFromBytes(k.PEM)
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	c := apns2.NewTokenClient(&token.Token{AuthKey: key, KeyID: k.KeyID, TeamID: k.TeamID})
	c.Host = s.URL()
	//nolint:staticcheck // apns2 comes with this transport and is measured as it comes
	c.HTTPClient.Transport.(*http2.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}}
	tb.Cleanup(c.CloseIdleConnections)
	return c
}

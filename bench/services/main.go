// Command services measures what push services that are down do to the pushes of the
// others: 1,000 browsers at 50 push services (contract §2: an origin has a lane of its
// own), first all well, then with 5 that refuse connections, 5 that take 9 s for each
// answer and 5 that answer 403 or 429. It prints the time from acceptance to the push at the
// 35 good ones.
//
//	make bench-services
package main

import (
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
	"github.com/heartline-mqtt/heartline/internal/credentials"
)

const (
	services = 50
	browsers = 1000
	bad      = 15 // of the services: 5 dead, 5 slow, 5 that refuse
)

func main() {
	n := flag.Int("n", 10_000, "notifications of a run")
	rate := flag.Int("rate", 500, "notifications a second")
	rounds := flag.Int("rounds", 3, "pairs of runs")
	flag.Parse()
	if err := measure(*n, *rate, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "services:", err)
		os.Exit(1)
	}
}

func measure(n, rate, rounds int) error {
	fmt.Fprintf(os.Stdout, "%d cores, %s, %s; %d notifications a run, %d a second, %d browsers at %d push services\n\n",
		runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02"), n, rate, browsers, services)
	fmt.Fprintf(os.Stdout, "%-6s %-12s %-12s %-12s %-12s %s\n", "round", "p50, well", "p99, well", "p50, 15 bad", "p99, 15 bad", "ratio of p99")
	var ratios []float64
	for round := range rounds {
		well, err := run(n, rate, false)
		if err != nil {
			return err
		}
		ill, err := run(n, rate, true)
		if err != nil {
			return err
		}
		ratio := at(ill, 99).Seconds() / at(well, 99).Seconds()
		ratios = append(ratios, ratio)
		fmt.Fprintf(os.Stdout, "%-6d %-12s %-12s %-12s %-12s %.2f\n", round+1, at(well, 50), at(well, 99), at(ill, 50), at(ill, 99), ratio)
	}
	slices.Sort(ratios)
	fmt.Fprintf(os.Stdout, "\nmedian: p99 at the %d good services is %.2f times that without the bad ones (at most 1.5)\n", services-bad, ratios[len(ratios)/2])
	return nil
}

func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[len(sorted)*percent/100].Round(10 * time.Microsecond)
}

// run pushes n notifications and returns how long those for the good services took,
// sorted.
func run(n, rate int, withBad bool) (took []time.Duration, err error) {
	dir, err := os.MkdirTemp("", "heartline-services-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var cas []byte
	sims := make([]*webpushsim.Server, services)
	for i := range sims {
		if sims[i], err = webpushsim.Start(webpushsim.Options{ControlAddress: "off"}); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, sims[i].Close()) }()
		cas = append(cas, sims[i].CAPEM()...)
	}
	b, err := start(dir, cas)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close(context.Background())) }()
	events := b.Core().Subscribe(1 << 20)
	defer events.Close()
	for i := range browsers {
		sub, err := sims[i%services].Subscribe("")
		if err != nil {
			return nil, err
		}
		r := delivery.Registration{Server: delivery.ServerWebPush, Token: sub.Endpoint}
		p256dh, err1 := base64.RawURLEncoding.DecodeString(sub.Keys.P256dh)
		auth, err2 := base64.RawURLEncoding.DecodeString(sub.Keys.Auth)
		r.P256dh, r.Auth = p256dh, auth
		if err := errors.Join(err1, err2, b.Core().SetRegistration(name(i), name(i), r)); err != nil {
			return nil, err
		}
	}
	if err := b.Core().Flush(context.Background()); err != nil {
		return nil, err
	}
	// One push each first: every good service then has a connection.
	if _, err := storm(b, events, browsers, rate); err != nil {
		return nil, err
	}
	if withBad {
		if err := spoil(sims); err != nil {
			return nil, err
		}
	}
	return storm(b, events, n, rate)
}

// spoil makes the first services bad.
func spoil(sims []*webpushsim.Server) error {
	for i, s := range sims[:bad] {
		var err error
		switch {
		case i < 5:
			err = s.Close()
		case i < 10:
			err = s.Scripts.Add(webpushsim.Script{Delay: webpushsim.Duration(9 * time.Second)})
		case i%2 == 0:
			err = s.Scripts.Add(webpushsim.Script{Status: 403, Body: `{"reason":"BadJwtToken"}`})
		default:
			err = s.Scripts.Add(webpushsim.Script{Status: 429, RetryAfter: "5"})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// storm has n notifications accepted at a steady rate, and returns once all of them for
// good services are pushed.
func storm(b *broker.Broker, events *delivery.Subscription, n, rate int) ([]time.Duration, error) {
	failed := make(chan error, 1)
	wanted := 0
	for i := range n {
		if i%services >= bad {
			wanted++
		}
	}
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for i := range n {
			<-tick.C
			b.Core().AcceptAsync(delivery.Request{Account: name(i), Title: "Services", Body: "somebody is calling"}, func(_ delivery.Receipt, err error) {
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
		}
	}()
	accepted := map[delivery.Seq]time.Time{}
	var took []time.Duration
	giveUp := time.After(time.Duration(n/rate)*time.Second + time.Minute)
	for len(took) < wanted {
		select {
		case e := <-events.C:
			switch e.Kind {
			case delivery.EventAccepted:
				accepted[e.Seq] = e.Time
			case delivery.EventPushed:
				if good(e.Device) {
					took = append(took, e.Time.Sub(accepted[e.Seq]))
				}
			}
		case err := <-failed:
			return nil, err
		case <-giveUp:
			return nil, fmt.Errorf("%d of %d pushes for good services were accepted in time", len(took), wanted)
		}
	}
	slices.Sort(took)
	return took, nil
}

func name(i int) string { return fmt.Sprintf("browser-%02d-%04d", i%services, i%browsers) }

func good(device string) bool {
	var service, browser int
	_, err := fmt.Sscanf(device, "browser-%02d-%04d", &service, &browser)
	return err == nil && service >= bad
}

func start(dir string, cas []byte) (*broker.Broker, error) {
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, cas, 0o600); err != nil {
		return nil, err
	}
	key, err := credentials.GenerateVAPIDKey()
	if err != nil {
		return nil, err
	}
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", ""
	w := &cfg.Fallback.WebPush
	w.Enabled, w.Key, w.Contact, w.CAFile = true, config.Secret(key), "mailto:ops@example.com", ca
	w.AllowPrivate = []string{netip.MustParsePrefix("127.0.0.0/8").String()}
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return b, b.Start()
}

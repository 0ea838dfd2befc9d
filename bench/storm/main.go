// Command storm measures a fallback storm: notifications for offline devices, made
// durable and pushed by Heartline, and by a bare apns2 loop of the same concurrency
// that pushes to the same simulator, in turn in one run; and what the storm does to
// the acks of devices that are online. The simulator and the devices are processes
// of their own, as they would be: see peers.go.
//
//	make bench-storm
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/token"
	"golang.org/x/net/http2"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
)

const (
	offlineDevices = 1000
	onlineDevices  = 20
	concurrency    = 500 // fallback.apns.max_concurrent
	ackRate        = 200 // notifications a second for the devices that are online
	topic          = "com.example.heartline"
)

func main() {
	role := flag.String("role", "", "for the program's own use")
	n := flag.Int("n", 50_000, "notifications in all")
	rounds := flag.Int("rounds", 5, "rounds they are divided into")
	engine := flag.String("engine", config.Default().Store.Engine, "store.engine")
	profiles := flag.String("profiles", "", "directory for cpu, mutex and block profiles of the storms alone")
	flag.Parse()
	var err error
	switch *role {
	case "simulator":
		err = simulate()
	case "devices":
		err = beDevices(flag.Arg(0))
	default:
		err = run(*engine, *n, *rounds, *profiles)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "storm:", err)
		os.Exit(1)
	}
}

type rig struct {
	sim    simulator
	broker *broker.Broker
	bare   *apns2.Client
	ctx    context.Context

	mu       sync.Mutex
	pushed   int
	waitFor  int
	reached  chan struct{}
	ackTimes []time.Duration
	sent     map[delivery.Seq]time.Time // published, and not acknowledged yet
}

func run(engine string, n, rounds int, profiles string) error {
	dir, err := os.MkdirTemp("", "heartline-storm-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := &rig{ctx: context.Background(), sent: map[delivery.Seq]time.Time{}}
	end, err := startPeer(&r.sim, "simulator")
	if err != nil {
		return err
	}
	defer end()
	cfg, err := r.sim.config(dir)
	if err != nil {
		return err
	}
	cfg.Store.Engine, cfg.Delivery.MaxOutstandingPerDevice = engine, n
	if r.broker, err = broker.New(cfg, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	defer r.broker.Close(r.ctx) //nolint:errcheck // the process ends
	if err := r.broker.Start(); err != nil {
		return err
	}
	if r.bare, err = bareClient(r.sim); err != nil {
		return err
	}
	go r.watch(r.broker.Core().Subscribe(1 << 20))
	if err := r.register(); err != nil {
		return err
	}
	var ready struct{}
	endDevices, err := startPeer(&ready, "devices", r.broker.MQTTAddr())
	if err != nil {
		return err
	}
	defer endDevices()
	return r.measure(n, rounds, profiles)
}

func (r *rig) measure(n, rounds int, profiles string) error {
	part := n / rounds
	stop := make(chan struct{})
	var online sync.WaitGroup
	online.Go(func() { r.acks(stop) })
	// One push each first: both then have a connection with all its streams.
	if err := errors.Join(r.storm(1), r.loop(1)); err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%d cores, %s, %s; %d notifications in %d rounds, %d at a time\n\n", runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02"), n, rounds, concurrency)
	fmt.Fprintf(os.Stdout, "%-6s %-18s %-18s %-7s %-18s %-18s %-16s %-16s %s\n", "round", "heartline push/s", "bare apns2 push/s", "ratio", "heartline CPU/push", "bare CPU/push", "p99 ack, calm", "p99 ack, bare", "p99 ack, storm")
	perPush := func(p period) time.Duration { return (p.cpu / time.Duration(part)).Round(100 * time.Nanosecond) }
	var ratios, acks, cpus []float64
	for round := range rounds {
		calm := r.during(func() error { time.Sleep(3 * time.Second); return nil })
		bare := r.during(func() error { return r.loop(part) })
		storm := r.during(func() error {
			stop, err := profile(profiles, round)
			if err != nil {
				return err
			}
			return errors.Join(r.storm(part), stop())
		})
		if err := errors.Join(calm.err, bare.err, storm.err); err != nil {
			return err
		}
		ours, theirs := float64(part)/storm.took.Seconds(), float64(part)/bare.took.Seconds()
		ratios, acks = append(ratios, ours/theirs), append(acks, storm.p99.Seconds()/calm.p99.Seconds())
		cpus = append(cpus, storm.cpu.Seconds()/bare.cpu.Seconds())
		fmt.Fprintf(os.Stdout, "%-6d %-18.0f %-18.0f %-7.2f %-18s %-18s %-16s %-16s %s\n", round+1, ours, theirs, ours/theirs, perPush(storm), perPush(bare), calm.p99.Round(10*time.Microsecond), bare.p99.Round(10*time.Microsecond), storm.p99.Round(10*time.Microsecond))
	}
	close(stop)
	online.Wait()
	slices.Sort(ratios)
	slices.Sort(acks)
	slices.Sort(cpus)
	fmt.Fprintf(os.Stdout, "\nmedians: %.2f of the bare loop's rate; %.2f of its CPU time; p99 of acks %.1f times that without a storm\n", ratios[len(ratios)/2], cpus[len(cpus)/2], acks[len(acks)/2])
	return nil
}

type period struct {
	took time.Duration
	cpu  time.Duration // of this process, without its peers
	p99  time.Duration // publish to ack, of the devices that are online
	err  error
}

func (r *rig) during(do func() error) period {
	runtime.GC()
	r.mu.Lock()
	r.ackTimes = nil
	r.mu.Unlock()
	start, cpu := time.Now(), cpuTime()
	err := do()
	p := period{took: time.Since(start), cpu: cpuTime() - cpu, err: err}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ackTimes) > 0 {
		slices.Sort(r.ackTimes)
		p.p99 = r.ackTimes[len(r.ackTimes)*99/100]
	}
	return p
}

// storm has n notifications accepted, durable, and waits until Apple's stand-in has
// taken a push for each.
func (r *rig) storm(n int) error {
	r.mu.Lock()
	r.waitFor, r.reached = r.pushed+n, make(chan struct{})
	reached := r.reached
	r.mu.Unlock()
	slots, failed := make(chan struct{}, 2048), make(chan error, 1)
	for i := range n {
		slots <- struct{}{}
		r.broker.Core().AcceptAsync(delivery.Request{Account: offline(i), Title: "Storm", Body: "somebody is calling"}, func(_ delivery.Receipt, err error) {
			<-slots
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	select {
	case <-reached:
		return nil
	case err := <-failed:
		return err
	}
}

// loop is a program as written with apns2 and no broker.
func (r *rig) loop(n int) error {
	work, failed := make(chan int), make(chan error, concurrency)
	var workers sync.WaitGroup
	payload := []byte(`{"aps":{"alert":{"title":"Storm","body":"somebody is calling"},"mutable-content":1},"heartline":{"id":"x"}}`)
	for range min(concurrency, n) {
		workers.Go(func() {
			for i := range work {
				res, err := r.bare.PushWithContext(r.ctx, &apns2.Notification{
					CollapseID: fmt.Sprint(i), DeviceToken: deviceToken(i), Topic: topic, Priority: 10,
					Expiration: time.Now().Add(time.Hour), PushType: apns2.PushTypeAlert, Payload: payload,
				})
				if err == nil && !res.Sent() {
					err = errors.New(res.Reason)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for i := range n {
		select {
		case work <- i:
		case err := <-failed:
			close(work)
			return err
		}
	}
	close(work)
	workers.Wait()
	return nil
}

// watch counts accepted pushes and times acks.
func (r *rig) watch(s *delivery.Subscription) {
	for e := range s.C {
		r.mu.Lock()
		switch e.Kind {
		case delivery.EventPushed:
			if r.pushed++; r.pushed == r.waitFor {
				close(r.reached)
			}
		case delivery.EventPublished:
			r.sent[e.Seq] = e.Time
		case delivery.EventReceived:
			r.ackTimes = append(r.ackTimes, e.Time.Sub(r.sent[e.Seq]))
			delete(r.sent, e.Seq)
		}
		r.mu.Unlock()
	}
	if s.Lagged() {
		panic("the rig was too slow to watch")
	}
}

// register gives the devices that are offline their push tokens.
func (r *rig) register() error {
	for i := range offlineDevices {
		token := delivery.Registration{Server: delivery.ServerAPNs, Token: deviceToken(i)}
		if err := r.broker.Core().SetRegistration(offline(i), offline(i), token); err != nil {
			return err
		}
	}
	return r.broker.Core().Flush(r.ctx)
}

// acks notifies the devices that are online, steadily.
func (r *rig) acks(stop chan struct{}) {
	tick := time.NewTicker(time.Second / ackRate)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			r.broker.Core().AcceptAsync(delivery.Request{Account: online(i % onlineDevices), Title: "Calm"}, func(delivery.Receipt, error) {})
		case <-stop:
			return
		}
	}
}

// cpuTime is what this process has used: Heartline, or the bare loop.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func offline(i int) string     { return fmt.Sprintf("offline-%04d", i%offlineDevices) }
func online(i int) string      { return fmt.Sprintf("online-%02d", i) }
func deviceToken(i int) string { return fmt.Sprintf("%064x", i%offlineDevices+1) }

// bareClient is apns2 as its README shows it.
func bareClient(sim simulator) (*apns2.Client, error) {
	key, err := token.AuthKeyFromBytes(sim.Key.PEM)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(sim.CA)
	c := apns2.NewTokenClient(&token.Token{AuthKey: key, KeyID: sim.Key.KeyID, TeamID: sim.Key.TeamID})
	c.Host = sim.URL
	//nolint:staticcheck // apns2 comes with this transport and is measured as it comes
	c.HTTPClient.Transport.(*http2.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}}
	return c, nil
}

// Command soak keeps one real server under mixed load for an hour and compares the last
// ten minutes with the first ten after the warm-up: nothing may grow.
//
//	make soak
//	make soak ARGS='-duration 4m -devices 200 -rate 20'
//
// It builds the binary, starts it with push-sim for the three notification servers, and
// plays devices that come, go, break and change their account, backends over HTTP and
// MQTT, readers of events, receivers of webhooks, intruders, and an operator who reloads.
// In the end every accepted delivery must have an end in the event stream, and the data
// directory must account for all of them.
//
//	make reloads
//
// is the other mode: each kind of reload at half of the rate that this machine reaches.
// No connection may drop and no notification may be lost.
//
// Read main.go (the order of a run), load.go (backends, intruders, faults), device.go (a
// device), streams.go (readers of events), reload.go (changes of the configuration),
// ledger.go (the ends of the deliveries), samples.go (the comparison), atrate.go (the
// other mode), then world.go and process.go (the server and its surroundings). Linux
// only: it reads /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/broker"
)

// options are the flags.
type options struct {
	duration, warmup time.Duration
	devices          int
	rate             float64
	binary           string // "": built
	out, verbose     io.Writer
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run() error {
	o := options{out: os.Stdout, verbose: io.Discard}
	flag.DurationVar(&o.duration, "duration", time.Hour, "of the load, with the warm-up")
	flag.DurationVar(&o.warmup, "warmup", 0, "before the first samples that are compared; 0: a sixth of the duration")
	flag.IntVar(&o.devices, "devices", 2000, "devices")
	flag.Float64Var(&o.rate, "rate", 20, "calls of backends a second; the other traffic follows the number of devices")
	flag.StringVar(&o.binary, "binary", "", "the program to test; \"\" builds it")
	verbose := flag.Bool("v", false, "also print the log of the server")
	reloads := flag.Bool("reloads", false, "reloads of each kind at half of the rate that this machine reaches, instead")
	each := flag.Duration("each", 15*time.Second, "with -reloads: how long each kind takes")
	most := flag.Float64("most", 0, "with -reloads: the rate that counts as the most; 0: it is measured")
	flag.Parse()
	if runtime.GOOS != "linux" {
		return errors.New("it reads memory and descriptors from /proc, which is Linux's")
	}
	if *verbose {
		o.verbose = os.Stderr
	}
	if o.devices < 10 || o.rate <= 0 || o.duration < 5*time.Second {
		return errors.New("give at least 10 -devices, a -rate above 0 and a -duration of 5s or more")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "heartline-soak-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if *reloads {
		return atRate(ctx, dir, o, reloadKinds(), *each, *most)
	}
	r, err := soak(ctx, dir, o)
	if err != nil {
		return err
	}
	return r.verdict()
}

// report is the result of a run.
type report struct {
	faults []string // a lost delivery, an unexpected answer
	grown  []string
	done   *tally
}

func (r *report) verdict() error {
	if len(r.faults)+len(r.grown) == 0 {
		return nil
	}
	return fmt.Errorf("%d faults, %d quantities have grown", len(r.faults), len(r.grown))
}

// soak runs the load and prints its findings. An error means that the run could not be
// completed.
func soak(ctx context.Context, dir string, o options) (_ *report, err error) {
	t := timingFor(o.duration)
	if o.warmup == 0 {
		o.warmup = o.duration / 6
	}
	l := &load{
		timing: t, rate: o.rate, done: newTally(), unexpected: newTally(),
		run: fmt.Sprintf("soak-%x", time.Now().Unix()),
	}
	samples := newSamples(time.Now())
	l.samples = samples
	l.ledger = newLedger(func(took time.Duration) { samples.add("delivery", float64(took)/float64(time.Millisecond)) })
	change := func(s settings) {
		s.set("store.history", t.history.String())
		s.set("store.housekeeping", t.house.String())
	}
	begun := time.Now()
	world, err := newWorld(ctx, dir, o.binary, "account-%05d", max(o.devices/2, 5), change, http.HandlerFunc(l.receive), o.verbose)
	if err != nil {
		return nil, err
	}
	defer world.close()
	l.world = world
	fmt.Fprintf(o.out, "%d cores, %s, %s; %d devices, %.0f calls of backends a second, for %s; history %s, longest TTL %s\n",
		runtime.NumCPU(), runtime.Version(), begun.Format("2006-01-02 15:04"), o.devices, o.rate, o.duration, t.history, t.ttl)

	// Two contexts: the backends stop first, so that their notifications can end.
	living, stopLiving := context.WithCancel(ctx)
	defer stopLiving()
	// Not WithTimeout: calls that the end of the load cuts must not look like calls that
	// took too long.
	busy, stopBusy := context.WithCancel(living)
	defer stopBusy()
	defer time.AfterFunc(o.duration, stopBusy).Stop()
	samples.begun = time.Now()
	var devices, backends sync.WaitGroup
	for i := range o.devices {
		devices.Go(func() { newDevice(l, i).live(living) })
	}
	devices.Go(func() { l.readLedger(living) })
	for _, f := range []func(context.Context){
		l.backends, func(ctx context.Context) { l.overMQTT(ctx, 4) }, func(ctx context.Context) { l.overMQTT(ctx, 5) },
		l.readers, l.intruders, l.tenants, l.faults, l.reloads, l.backups,
	} {
		backends.Go(func() { f(busy) })
	}
	r := &report{done: l.done}
	l.watch(busy, r, o)
	stopBusy()
	backends.Wait()
	if ctx.Err() == nil && len(r.faults) == 0 {
		l.settle(ctx, r)
	}
	stopLiving()
	devices.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, p := range []struct {
		name string
		pid  int
	}{{"server", world.server.cmd.Process.Pid}, {"push-sim", world.sims.cmd.Process.Pid}, {"soak", os.Getpid()}} {
		if used, err := cpuOf(p.pid); err == nil {
			fmt.Fprintf(o.out, "CPU of %s: %.1f%% of a core\n", p.name, 100*used.Seconds()/time.Since(samples.begun).Seconds())
		}
	}
	l.finish(r)
	l.print(o, r)
	window := min((o.duration-o.warmup)/2, 10*time.Minute)
	r.grown = samples.compare(o.out, span{o.warmup, o.warmup + window}, span{o.duration - window, o.duration})
	for _, f := range r.faults {
		fmt.Fprintln(o.out, "fault:", f)
	}
	return r, nil
}

// watch samples the server until ctx ends, and prints a line a minute.
func (l *load) watch(ctx context.Context, r *report, o options) {
	every, line := 5*time.Second, time.Minute
	if o.duration < 10*time.Minute {
		every, line = max(o.duration/60, 200*time.Millisecond), o.duration/6
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	missed, printed := 0, time.Duration(0)
	cpu, at := time.Duration(0), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := l.sample(ctx, r); err == nil {
			missed = 0
		} else if ctx.Err() == nil {
			l.unexpected.countWith("sample", err.Error())
			if missed++; missed == 3 {
				r.faults = append(r.faults, fmt.Sprintf("the server no longer answers: %v; its goroutines are in %s", err, l.world.server.stacks()))
				return
			}
		}
		now := time.Since(l.samples.begun)
		if now-printed < line {
			continue
		}
		if used, err := cpuOf(l.world.server.cmd.Process.Pid); err == nil {
			if cpu > 0 {
				l.samples.add("cpu", 100*(used-cpu).Seconds()/time.Since(at).Seconds())
			}
			cpu, at = used, time.Now()
		}
		if size, err := diskUsage(l.world.path("data")); err == nil {
			l.samples.add("disk", size)
		}
		var figures []string
		for _, q := range quantities()[:10] {
			figures = append(figures, fmt.Sprintf("%s %.1f%s", q.name, q.reduce(l.samples.between(q.series, printed, now+time.Second))/q.unit.per, strings.TrimSuffix(q.unit.name, " of a core")))
		}
		fmt.Fprintf(o.out, "%7s  %s\n", now.Round(time.Second), strings.Join(figures, ", "))
		printed = now
	}
}

// sample takes one sample of each quantity that costs little.
func (l *load) sample(ctx context.Context, r *report) error {
	resident, err := l.world.server.resident()
	descriptors, err2 := l.world.server.descriptors()
	m, err3 := l.world.server.metrics(ctx)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	l.samples.add("resident", resident)
	l.samples.add("descriptors", descriptors)
	for series, metric := range map[string]string{
		"heap": "go_gc_heap_live_bytes", "goroutines": "go_goroutines", "connections": "heartline_connections", "sessions": "heartline_mqtt_sessions",
		"subscriptions": "heartline_mqtt_subscriptions", "ordinary": "heartline_mqtt_ordinary_inflight", "retained": "heartline_mqtt_retained",
		"devices": "heartline_devices_known", "outstanding": "heartline_deliveries_outstanding", "pushes": "heartline_push_queue",
		"lag": "heartline_webhook_lag_seconds", "deferred": "heartline_webhook_deferred", "parked": "heartline_webhook_parked",
	} {
		v, ok := m[metric]
		if !ok {
			l.unexpected.count("no metric " + metric)
		}
		l.samples.add(series, v)
	}
	for _, metric := range []string{"heartline_unaccounted", "heartline_mqtt_panics_total", "heartline_store_failed_writes_total"} {
		if fault := fmt.Sprintf("%s is %v", metric, m[metric]); m[metric] != 0 && !slices.Contains(r.faults, fault) {
			r.faults = append(r.faults, fault)
		}
	}
	return nil
}

// settle waits until every notification has an end. Devices go on living.
func (l *load) settle(ctx context.Context, r *report) {
	for rest(ctx, 200*time.Millisecond) {
		n, overdue := l.ledger.open()
		if n == 0 {
			return
		}
		if len(overdue) < n {
			continue
		}
		for _, id := range overdue[:min(5, n)] {
			_, body, err := l.world.server.call(ctx, "GET", "/v1/notifications/"+id, "")
			r.faults = append(r.faults, fmt.Sprintf("notification %s has no end: %s %v", id, body, err))
		}
		r.faults = append(r.faults, fmt.Sprintf("%d notifications have no end in the event stream", n))
		return
	}
}

// finish ends the server and audits its data directory.
func (l *load) finish(r *report) {
	fault := func(format string, args ...any) { r.faults = append(r.faults, fmt.Sprintf(format, args...)) }
	took, err := l.world.server.stop()
	if err != nil {
		fault("%v", err)
		return
	}
	l.done.countWith("server stopped", took.Round(time.Millisecond).String())
	audit, err := broker.CheckBackup(filepath.Join(l.world.dir, "data"))
	switch {
	case err != nil:
		fault("audit of the data directory: %v", err)
	case audit.Unaccounted != 0:
		fault("%d of %d deliveries are unaccounted for in the data directory", audit.Unaccounted, audit.Accepted)
	default:
		l.done.countWith("audit", fmt.Sprintf("%d deliveries accepted, %d finished, %d not, 0 unaccounted for", audit.Accepted, audit.Finished, audit.Unfinished))
	}
	if refused, want := l.world.server.logged("ERROR reload refused"), 2*l.world.broken; refused != want {
		fault("the log names %d refused mistakes of configurations, there were %d", refused, want)
	}
	for _, line := range l.unexpected.lines() {
		fault("unexpected: %s", line)
	}
}

// print prints the traffic and the log's warnings.
func (l *load) print(o options, r *report) {
	fmt.Fprintln(o.out, "\ntraffic:")
	for _, line := range r.done.lines() {
		fmt.Fprintln(o.out, " ", line)
	}
	fmt.Fprintln(o.out, "  ledger:", l.ledger)
	fmt.Fprintln(o.out, "\nlog of the server, warnings, errors and reloads:")
	l.world.server.mu.Lock()
	defer l.world.server.mu.Unlock()
	var lines []string
	for msg, n := range l.world.server.logs {
		lines = append(lines, fmt.Sprintf("  %d × %s", n, msg))
	}
	slices.Sort(lines)
	fmt.Fprintln(o.out, strings.Join(lines, "\n"))
	fmt.Fprintln(o.out)
}

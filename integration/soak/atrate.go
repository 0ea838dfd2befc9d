package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/bench"
	"github.com/heartline-mqtt/heartline/wire"
)

// away is how many devices are offline and get pushes.
const away = 50

// atRate reloads each of the kinds of change, and a configuration with mistakes, at half of the
// rate that this machine reaches, and counts the connections that drop and the
// notifications that are lost. It fails if there are any. A most above 0 is taken as the
// rate that this machine reaches.
func atRate(ctx context.Context, dir string, o options, kinds []reloadKind, each time.Duration, most float64) error {
	taken := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	change := func(s settings) { s.set("store.history", "5m") }
	w, err := newWorld(ctx, dir, o.binary, "bench-%06d", o.devices, change, taken, o.verbose)
	if err != nil {
		return err
	}
	defer w.close()
	for i := range away {
		status, body, err := w.server.call(ctx, http.MethodPut, fmt.Sprintf("/v1/accounts/away-%d/devices/away-device-%d", i, i), fmt.Sprintf(`{"apns":{"token":"%064x"}}`, i+1))
		if err != nil || status != http.StatusCreated {
			return fmt.Errorf("put a device: %d %s %w", status, body, err)
		}
	}
	if most == 0 {
		fmt.Fprintf(o.out, "the rate that this machine reaches, with %d devices:\n", o.devices)
		res, err := bench.Run(ctx, w.benchOptions(o, 0, each, false, nil))
		if err != nil {
			return err
		}
		most = res.Accepted
	}
	fmt.Fprintf(o.out, "most: %.0f notifications a second; each kind at half of it, for %s\n\n", most, each)

	fmt.Fprintf(o.out, "%-28s %7s %11s %10s %6s %8s %7s %11s %8s %8s %8s\n", "reload of", "times", "accepted/s", "delivered", "lost", "dropped", "pushed", "not pushed", "p50 ms", "p99 ms", "max ms")
	kinds = append(slices.Clip(kinds), reloadKind{name: "a broken configuration", change: func(w *world, _ int) error { return w.reloadBroken(ctx) }, watched: true})
	var errs []error
	for _, kind := range kinds {
		row, err := w.atRateOf(ctx, o, kind, each, most/2)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", kind.name, err))
		}
		fmt.Fprintln(o.out, row)
	}
	if refused, want := w.server.logged("ERROR reload refused"), 2*w.broken; refused != want {
		errs = append(errs, fmt.Errorf("the log names %d refused mistakes, there were %d", refused, want))
	}
	if _, err := w.server.stop(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// benchOptions are a run of the benchmark against w. sending is called when it begins to
// send.
func (w *world) benchOptions(o options, rate float64, each time.Duration, overTLS bool, sending func()) bench.Options {
	b := bench.Defaults()
	b.Address, b.Devices, b.Rate, b.Duration, b.ServerPID = w.server.mqtt, o.devices, rate, each, w.server.cmd.Process.Pid
	b.Password, b.PublisherUsername, b.PublisherPassword = []byte(password), service, []byte(password)
	b.Keepalive, b.Patience = 5*time.Minute, patience
	if overTLS {
		b.Address, b.TLS = w.server.tls, &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate is changed while clients connect
	}
	b.Progress = func(format string, args ...any) {
		fmt.Fprintf(o.verbose, format+"\n", args...)
		if format == "sending" && sending != nil {
			sending()
		}
	}
	return b
}

// atRateOf measures one kind. An error says which promise was broken.
func (w *world) atRateOf(ctx context.Context, o options, kind reloadKind, each time.Duration, rate float64) (row string, err error) {
	begin := make(chan struct{})
	load, stop := context.WithCancel(ctx)
	defer stop()
	reloads := 0
	reloaded := make(chan error, 1)
	go func() {
		select {
		case <-begin:
		case <-load.Done():
			reloaded <- nil
			return
		}
		var errs []error
		for until := time.Now().Add(each); time.Now().Before(until) && len(errs) == 0 && rest(load, time.Second); reloads++ {
			errs = append(errs, w.apply(load, kind, reloads)...)
		}
		reloaded <- errors.Join(errs...)
	}()
	pushed := make(chan pushes, 1)
	go func() { pushed <- w.pushAway(load, begin, kind.name, each) }()

	res, err := bench.Run(ctx, w.benchOptions(o, rate, each, kind.name == "certificates", func() { close(begin) }))
	if err != nil {
		stop()
		err = errors.Join(err, <-reloaded)
		<-pushed
		return kind.name + ": no result", err
	}
	err = <-reloaded
	p := <-pushed
	t := res.Totals
	if t.Dropped+t.Lost+t.Refused+t.Unanswered > 0 || p.missing > 0 {
		err = errors.Join(err, fmt.Errorf("%d connections dropped (%s), %d notifications lost, %d refused (%s), %d unanswered, %d not pushed",
			t.Dropped, res.Dropped, t.Lost, t.Refused, res.Refused, t.Unanswered, p.missing))
	}
	// The next kind begins from the first settings.
	err = errors.Join(append(w.apply(ctx, kind, 1), err, p.err)...)
	return fmt.Sprintf("%-28s %7d %11.0f %10d %6d %8d %7d %11d %8.1f %8.1f %8.1f", kind.name, reloads, res.Accepted, t.Delivered, t.Lost, t.Dropped,
		p.sent-p.missing, p.missing, res.Delivery.P50, res.Delivery.P99, res.Delivery.Max), err
}

// apply makes the nth change of a kind and has the server take it up.
func (w *world) apply(ctx context.Context, kind reloadKind, n int) []error {
	said := w.server.logged(kind.taken)
	err := kind.change(w, n)
	switch {
	case err != nil:
	case kind.taken != "":
		err = w.waitForLog(ctx, kind.taken, said)
	case !kind.watched:
		err = w.reload(ctx, n%2 == 1)
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// pushes counts the notifications for devices that are offline.
type pushes struct {
	sent, missing int
	err           error
}

// pushAway notifies the offline devices, and waits until each was pushed.
func (w *world) pushAway(ctx context.Context, begin <-chan struct{}, kind string, each time.Duration) (p pushes) {
	select {
	case <-begin:
	case <-ctx.Done():
		return p
	}
	run := time.Now().UnixNano()
	id := func(n int) string { return fmt.Sprintf("away-%x-%d", run, n) }
	for until := time.Now().Add(each); time.Now().Before(until) && rest(ctx, 50*time.Millisecond); p.sent++ {
		status, body, err := w.server.call(ctx, http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"id":%q,"account":"away-%d","title":%q}`, id(p.sent), p.sent%away, kind))
		if err != nil || status != http.StatusAccepted {
			p.err = errors.Join(fmt.Errorf("notify an offline device: %d %s", status, body), err)
			return p
		}
	}
	deadline := time.Now().Add(patience)
	for n := 0; n < p.sent; {
		var v wire.NotificationView
		_, body, err := w.server.call(ctx, http.MethodGet, "/v1/notifications/"+id(n), "")
		if err == nil {
			err = json.Unmarshal(body, &v)
		}
		switch {
		case ctx.Err() != nil:
			return p
		case err == nil && len(v.Deliveries) == 1 && v.Deliveries[0].Pushed:
			n++
		case time.Now().After(deadline):
			p.missing++
			n++
		default:
			rest(ctx, 50*time.Millisecond)
		}
	}
	return p
}

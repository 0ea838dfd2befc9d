package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/wire"
)

func emptyList(body []byte) bool {
	var l wire.NotificationList
	return json.Unmarshal(body, &l) == nil && len(l.Notifications) == 0
}

// once is a signal that may be given more than once.
type once struct {
	c chan struct{}
	o sync.Once
}

func newOnce() *once { return &once{c: make(chan struct{})} }

func (o *once) give() { o.o.Do(func() { close(o.c) }) }

// journey is the steps of one delivery, and where to kill the program in it.
type journey struct {
	name   string
	online bool
	first  Ack
	last   string   // the event that ends it where nothing is killed
	plants []string // steps that come by
}

var journeys = []journey{
	{"acked", true, AckAtOnce, "received", []string{
		"event accepted", "event published", "copy", "ack", "event received", "event channel_lost",
	}},
	{"not acked, pushed, published again", true, AckFirstNever, "received", []string{
		"copy", "event ack_timeout", "event push_requested", "request", "answer", "answer lost", "event push_retry", "event pushed",
		"event fallback_timeout", "event redelivered", "ack", "event received",
	}},
	{"offline", false, AckAtOnce, "waiting", []string{
		"event accepted", "event push_requested", "request", "answer", "answer lost", "event push_retry", "event pushed",
		"event fallback_timeout", "event waiting",
	}},
}

// crashes kills the program at the moment at which a step has been seen from the
// outside: each event of the stream; a copy at the device, before its ack and right
// after it; a request at Apple's server, before its answer, and with the answer on
// its way or lost. It reaches whatever the program does between that step and the
// next, not a chosen instruction in it; crashedSyncs does.
func crashes(w *World, size int, full bool) error {
	if err := w.Start(); err != nil {
		return err
	}
	w.Heartbeats(300 * time.Millisecond)
	plants := 0
	for _, j := range journeys {
		plants += len(j.plants)
	}
	each := max(1, size/plants)
	rounds := 1
	if full {
		rounds, each = 3, each/3
	}
	for range rounds {
		for _, j := range journeys {
			for _, plant := range j.plants {
				if err := w.crash(j, plant, each); err != nil {
					return fmt.Errorf("%s, %s: %w", j.name, plant, err)
				}
				w.Runs++
			}
		}
	}
	return w.Drain(time.Minute)
}

// crash runs one journey and kills at the plant, or at the journey's end where it
// does not come by there.
func (w *World) crash(j journey, plant string, n int) error {
	die := newOnce()
	over := newOnce()
	added, err := w.Add(1, func(_ int, d *Device) {
		d.Seen = func(Copy) {
			if plant == "copy" {
				die.give()
			}
		}
		d.Ack = func(id string, nth int) (time.Duration, bool) {
			after, yes := j.first(id, nth)
			if yes && plant == "ack" {
				time.AfterFunc(after+100*time.Microsecond, die.give)
			}
			return after, yes
		}
	})
	if err != nil {
		return err
	}
	d := added[0]
	w.Apple.ClearScripts()
	switch plant {
	case "request":
		w.Apple.Script(apnssim.Script{Delay: 200 * time.Millisecond})
	case "answer lost":
		w.Apple.Script(apnssim.Script{Action: apnssim.ActionDrop, Times: 1})
	case "event push_retry":
		w.Apple.Script(apnssim.Script{Status: 503, Times: 1})
	}
	before := len(w.Apple.Received())
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if strings.HasPrefix(plant, "answer") || plant == "request" {
		wg.Go(func() {
			if _, err := w.Apple.Wait(ctx, before+1); err == nil {
				die.give()
			}
		})
	}
	listening := newOnce()
	wg.Go(func() {
		_ = w.listen(ctx, d.Account, listening, func(event string) { // ends with the program
			if "event "+event == plant {
				die.give()
			}
			if event == j.last {
				time.AfterFunc(300*time.Millisecond, over.give) // the plant may be about to come
			}
		})
	})
	select {
	case <-listening.c:
	case <-ctx.Done():
		return ctx.Err()
	}
	quit := func() {}
	if j.online {
		quit = w.Connect(d)
	}
	load := w.LoadFor([]string{d.Account}, n, 4, nil)
	if plant == "event channel_lost" {
		wg.Go(func() {
			select {
			case <-time.After(200 * time.Millisecond):
				d.Drop()
			case <-ctx.Done():
			}
		})
	}
	select {
	case <-die.c:
	case <-over.c:
	case <-ctx.Done():
	}
	if err := w.Restart(); err != nil {
		return err
	}
	if err := load.Wait(); err != nil {
		return err
	}
	quit()
	d.SetAck(AckAtOnce)
	w.Connect(d)
	return nil
}

// listen follows the events of an account.
func (w *World) listen(ctx context.Context, account string, listening *once, event func(string)) error {
	_, base, err := w.Program.Up(ctx)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/events?account="+account, nil)
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	in.Scan() // ": connected": from here on nothing is missed
	listening.give()
	for in.Scan() {
		if name, ok := strings.CutPrefix(in.Text(), "event: "); ok {
			event(name)
		}
	}
	return in.Err()
}

// crashedSyncs lets the program die right before and right after the nth fsync of
// each journey, for n from 1 until the journey ends without that many.
func crashedSyncs(w *World, size int, full bool) error {
	if err := w.Start(); err != nil {
		return err
	}
	w.Heartbeats(300 * time.Millisecond)
	most := 12
	if !full {
		most = 3
	}
	per := max(1, size/(len(journeys)*2*most))
	for _, j := range journeys {
		for _, when := range []string{"before", "after"} {
			for n := 1; n <= most; n++ {
				fired, err := w.crashAtSync(j, when, n, per)
				if err != nil {
					return fmt.Errorf("%s, %s fsync %d: %w", j.name, when, n, err)
				}
				w.Runs++
				if !fired {
					break
				}
			}
		}
	}
	return w.Drain(time.Minute)
}

func (w *World) crashAtSync(j journey, when string, n, per int) (fired bool, err error) {
	added, err := w.Add(1, func(_ int, d *Device) { d.Ack = j.first })
	if err != nil {
		return false, err
	}
	d := added[0]
	w.Apple.ClearScripts()
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	over, listening := newOnce(), newOnce()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		left := per
		_ = w.listen(ctx, d.Account, listening, func(event string) { // ends with the program
			if event == j.last {
				if left--; left == 0 {
					time.AfterFunc(300*time.Millisecond, over.give) // its commit lingers
				}
			}
		})
	})
	select {
	case <-listening.c:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	died := w.Program.Ended()
	if err := w.Program.Tell(ctx, fmt.Sprintf("kill %s %d", when, n)); err != nil {
		return false, err
	}
	quit := func() {}
	if j.online {
		quit = w.Connect(d)
	}
	load := w.LoadFor([]string{d.Account}, per, 4, nil)
	select {
	case <-died:
		fired = true
		err = w.Program.Died(ctx)
	case <-over.c:
		err = w.Program.Kill()
	case <-ctx.Done():
		err = w.Program.Kill()
	}
	if err == nil {
		err = w.Start()
	}
	if err == nil {
		err = load.Wait()
	}
	quit()
	d.SetAck(AckAtOnce)
	w.Connect(d)
	return fired, err
}

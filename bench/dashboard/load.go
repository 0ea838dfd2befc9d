package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/bench"
)

// budget is what open dashboards may take of the throughput.
const budget = 0.02

// sight is who looks while notifications flow.
type sight struct {
	name  string
	pages []page
}

// measured is one load.
type measured struct {
	*bench.Result
	answers, bytes float64 // a second, of all pages
}

// load measures the rate that the server reaches and its processor time a notification,
// without and with dashboards. Each run has a server of its own that has just begun, and the
// runs of a round follow one another.
func (p *program) load(ctx context.Context) error {
	var overviews, all []page
	for range p.pages {
		overviews = append(overviews, overviewPage())
		all = append(all, overviewPage(), journeyPage(), devicePage())
	}
	sights := []sight{
		{"no dashboard", nil},
		{fmt.Sprintf("%d overviews", p.pages), overviews},
		{fmt.Sprintf("%d of each page", p.pages), all},
	}
	fmt.Fprintf(os.Stdout, "Notifications over MQTT from 8 publishers with 64 in flight each to 200 devices, 256 bytes, as fast as it goes; %d rounds of %s, in turn.\n\n", p.rounds, p.duration)
	const row = "%-6v %-18s %16s %20s %18s %14s %s\n"
	fmt.Fprintf(os.Stdout, row, "round", "open", "notifications/s", "server µs each", "idle, % of a core", "answers/s", "")
	runs := make([][]measured, len(sights))
	for round := range p.rounds {
		for i := range sights {
			s := (round + i) % len(sights) // none is always the first
			m, err := p.once(ctx, sights[s])
			if err != nil {
				return fmt.Errorf("%s: %w", sights[s].name, err)
			}
			runs[s] = append(runs[s], m)
			fmt.Fprintf(os.Stdout, row, round+1, sights[s].name, fmt.Sprintf("%.0f", m.Throughput), fmt.Sprintf("%.2f", m.Server.Each),
				fmt.Sprintf("%.2f", 100*m.Idle.Cores), fmt.Sprintf("%.0f", m.answers), faults(m.Result))
		}
	}
	fmt.Fprintln(os.Stdout)
	rate := func(m measured) float64 { return m.Throughput }
	cost := func(m measured) float64 { return m.Server.Each }
	idle := func(m measured) float64 { return m.Idle.Cores }
	for s, of := range sights[1:] {
		lost, dearer := 1-ratio(runs[s+1], runs[0], rate), ratio(runs[s+1], runs[0], cost)-1
		fmt.Fprintf(os.Stdout, "%s: %+.1f %% notifications a second, %+.1f %% processor time each (medians of the ratios of a round; budget %.0f %%); idle %.2f %% of a core\n",
			of.name, -100*lost, 100*dearer, 100*budget, 100*(medianOf(runs[s+1], idle)-medianOf(runs[0], idle)))
	}
	fmt.Fprintln(os.Stdout)
	return nil
}

func medianOf(runs []measured, figure func(measured) float64) float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, figure(r))
	}
	return median(all)
}

// ratio is the median of the ratios round by round: what the machine does to one run of a
// round it does to the others.
func ratio(ours, theirs []measured, figure func(measured) float64) float64 {
	var all []float64
	for i := range ours {
		all = append(all, figure(ours[i])/figure(theirs[i]))
	}
	return median(all)
}

// faults says what went wrong with the notifications; "" is nothing.
func faults(r *bench.Result) string {
	t := r.Totals
	if t.Lost+t.Duplicated+t.OutOfOrder+t.Refused+t.Unanswered+t.Dropped == 0 {
		return ""
	}
	return fmt.Sprintf("%d lost, %d duplicated, %d out of order, %d refused or unanswered, %d connections lost",
		t.Lost, t.Duplicated, t.OutOfOrder, t.Refused+t.Unanswered, t.Dropped)
}

// once is one load on a new server.
func (p *program) once(ctx context.Context, of sight) (m measured, err error) {
	data := filepath.Join(p.dir, "load")
	defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	s, err := p.start(ctx, data)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := prepare(ctx, "http://"+s.http); err != nil {
		return m, err
	}
	v, err := look(ctx, s, of.pages)
	if err != nil {
		return m, err
	}
	o := bench.Defaults()
	o.Address, o.Prefix, o.ServerPID = s.mqtt, "load", s.cmd.Process.Pid
	o.Duration, o.Idle, o.Warmup = p.duration, p.idle, 2*time.Second
	begun, answers, size := time.Now(), v.answers.Load(), v.bytes.Load()
	m.Result, err = bench.Run(ctx, o)
	took := time.Since(begun).Seconds()
	m.answers, m.bytes = float64(v.answers.Load()-answers)/took, float64(v.bytes.Load()-size)/took
	err = errors.Join(err, v.close())
	if err == nil && len(of.pages) > 0 && m.answers == 0 {
		err = errors.New("the pages were sent nothing")
	}
	if err == nil && (m.Server == nil || m.Idle == nil) {
		err = errors.New("the server's processor time is not known: this needs Linux")
	}
	return m, err
}

// prepare makes what journeyPage and devicePage show.
func prepare(ctx context.Context, base string) error {
	for _, c := range []struct{ method, path, body string }{
		{http.MethodPut, "/v1/accounts/" + watched + "/devices/" + watched, "{}"},
		{http.MethodPost, "/v1/notifications", `{"account":"` + watched + `","id":"` + watched + `","title":"Watched"}`},
	} {
		r, err := http.NewRequestWithContext(ctx, c.method, base+c.path, strings.NewReader(c.body))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		_ = resp.Body.Close() // the status says it
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("%s %s: %s", c.method, c.path, resp.Status)
		}
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func p50(r *result) float64 { return r.Delivery.P50 }
func p99(r *result) float64 { return r.Delivery.P99 }

// two are our binaries and plain mochi.
func (p *program) two() []contestant { return append(slices.Clone(p.ours), p.plain) }

// latency is what one message takes where there is no other, and the 99th percentile
// at half of the top rate.
func (p *program) latency(ctx context.Context) error {
	one := map[string][]*result{}
	var syncs []float64
	for round := range p.rounds {
		sync, err := fdatasync()
		if err != nil {
			return err
		}
		syncs = append(syncs, sync)
		for _, c := range p.two() {
			r, err := p.once(ctx, c, "--devices", "200", "--publishers", "1", "--inflight", "1", "--window", "delivered", "--payload", "256", "--duration", p.duration.String())
			if err != nil {
				return err
			}
			one[c.name] = append(one[c.name], r)
			p.report.progress("round %d  %-34s p50 %6.3f ms  p99 %6.3f ms  fdatasync %.3f ms  %s", round+1, c.name, r.Delivery.P50, r.Delivery.P99, sync, faults([]*result{r}))
		}
	}
	t := table{head: []string{"broker, one in flight", "p50", "p99", "p50 until the sender is answered", "faults"}}
	for _, c := range p.two() {
		runs := one[c.name]
		t.add(c.name, fmt.Sprintf("%.3f ms", medianOf(runs, p50)), fmt.Sprintf("%.3f ms", medianOf(runs, p99)),
			fmt.Sprintf("%.3f ms", medianOf(runs, func(r *result) float64 { return r.Accept.P50 })), faults(runs))
	}
	t.add("one fdatasync of 512 bytes", fmt.Sprintf("%.3f ms", median(syncs)), "", "", "")
	var aims []aim
	for _, c := range p.ours {
		var all []float64
		for i, r := range one[c.name] {
			all = append(all, r.Delivery.P50/(one[p.plain.name][i].Delivery.P50+syncs[i]))
		}
		aims = append(aims, aim{c.name + ": p50 at one in flight ÷ (plain mochi + one fdatasync)", "1.25", "1.1", fmt.Sprintf("%.2f", median(all))})
	}
	text := fmt.Sprintf("One publisher sends a message once the one before is at its device; 200 devices, 256 bytes; medians of %d rounds of %s. Latency is from sending to the device's reading.", p.rounds, p.duration)
	return p.report.section("latency", text, t, aims)
}

// half is how late messages are at half of the top rate.
func (p *program) half(ctx context.Context) error {
	t := table{head: []string{"broker, at half of its top rate", "messages/s asked for", "delivered/s", "p50", "p90", "p99", "p99.9", "generator's own p99", "server CPU a message", "faults"}}
	var aims []aim
	all := map[string][]*result{}
	rates := map[string]float64{}
	for round := range p.rounds {
		for _, c := range p.two() {
			if p.top[c.name] == nil {
				r, err := p.once(ctx, c, append(work, "--duration", p.duration.String())...)
				if err != nil {
					return err
				}
				p.top[c.name] = []*result{r}
			}
			if round == 0 {
				rates[c.name] = float64(int(medianOf(p.top[c.name], throughput) / 2))
			}
			r, err := p.once(ctx, c, append(work, "--duration", p.duration.String(), "--rate", fmt.Sprint(rates[c.name]))...)
			if err != nil {
				return err
			}
			all[c.name] = append(all[c.name], r)
			p.report.progress("round %d  %-34s %.0f/s asked for, %.0f/s  p50 %.2f ms  p99 %.2f ms  generator's p99 %.2f ms  %s", round+1, c.name, rates[c.name], r.Throughput, r.Delivery.P50, r.Delivery.P99, r.Lag.P99, faults([]*result{r}))
		}
	}
	for _, c := range p.two() {
		runs := all[c.name]
		t.add(c.name, fmt.Sprintf("%.0f", rates[c.name]), fmt.Sprintf("%.0f", medianOf(runs, throughput)), ms(medianOf(runs, p50)),
			ms(medianOf(runs, func(r *result) float64 { return r.Delivery.P90 })), ms(medianOf(runs, p99)),
			ms(medianOf(runs, func(r *result) float64 { return r.Delivery.P999 })), ms(medianOf(runs, func(r *result) float64 { return r.Lag.P99 })),
			fmt.Sprintf("%.1f µs", medianOf(runs, cpu)), faults(runs))
	}
	for _, c := range p.ours {
		aims = append(aims, aim{c.name + ": p99 at half of the top rate", "10 ms", "3 ms", ms(medianOf(all[c.name], p99))})
	}
	text := fmt.Sprintf("The same work at a fixed rate, half of each broker's own top rate; medians of %d rounds of %s. Latency counts from when a message was due, sent or not.", p.rounds, p.duration)
	return p.report.section("half", text, t, aims)
}

// fdatasync is the median of what making 512 bytes durable takes, in ms: what a
// durable acceptance cannot go below.
func fdatasync() (float64, error) {
	dir, err := os.MkdirTemp("", "heartline-compare-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // it is thrown away
	var all []float64
	for range 500 {
		start := time.Now()
		if _, err := f.Write(make([]byte, 512)); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		all = append(all, time.Since(start).Seconds()*1000)
	}
	return median(all), nil
}

const (
	idleDevices = 15_000
	idleHold    = 20 * time.Second
)

// idle is what a device costs that is connected, subscribed and silent.
func (p *program) idle(ctx context.Context) error {
	all := p.two()
	for _, c := range p.beside {
		if c.name == mosquittoInMemory {
			all = append(all, c)
		}
	}
	return p.idleDevices(ctx, "idle", all, "", aim{"memory of an idle connected device ÷ plain mochi", "0.25", "0.12", ""})
}

// idleDevices measures the idle devices of some contestants. over is how they connect: plain
// TCP, or "TLS". bar is the aim of ours.
func (p *program) idleDevices(ctx context.Context, name string, all []contestant, over string, bar aim) error {
	t := table{head: []string{"broker", "without devices", fmt.Sprintf("with %d", idleDevices), "a device", "÷ plain mochi", "connecting them took"}}
	each := map[string][]float64{}
	first := map[string][3]float64{}
	rounds := min(p.rounds, 3)
	for round := range rounds {
		for _, c := range all {
			s, err := c.start(ctx)
			if err != nil {
				return err
			}
			flags := []string{"--devices", fmt.Sprint(idleDevices), "--publishers", "0", "--duration", idleHold.String()}
			if over != "" {
				flags = append(flags, p.overTLS(s)...)
			}
			empty, err := resident(s.cmd.Process.Pid)
			var r *result
			if err == nil {
				r, err = p.load(ctx, s, flags...)
			}
			if err = errors.Join(err, s.stop()); err != nil {
				return err
			}
			full := float64(r.Idle.Resident)
			each[c.name] = append(each[c.name], (full-empty)/idleDevices)
			first[c.name] = [3]float64{empty, full, r.Connect}
			p.report.progress("round %d  %-34s %s %.1f MB, with devices %.1f MB: %.0f B each", round+1, c.name, over, empty/1e6, full/1e6, (full-empty)/idleDevices)
		}
	}
	plain := median(each[p.plain.name])
	var aims []aim
	for _, c := range all {
		t.add(c.name, fmt.Sprintf("%.1f MB", first[c.name][0]/1e6), fmt.Sprintf("%.1f MB", first[c.name][1]/1e6), fmt.Sprintf("%.0f B", median(each[c.name])),
			fmt.Sprintf("%.2f", median(each[c.name])/plain), fmt.Sprintf("%.1f s", first[c.name][2]/1000))
	}
	for _, c := range p.ours {
		aims = append(aims, aim{c.name + ": " + bar.what, bar.bar, bar.aim, fmt.Sprintf("%.2f", median(each[c.name])/plain)})
	}
	text := fmt.Sprintf("Resident memory %s after %d devices have connected and subscribed%s, less that of the server alone; median of %d.", idleHold, idleDevices, map[bool]string{true: " over " + over}[over != ""], rounds)
	return p.report.section(name, text, t, aims)
}

func resident(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return kib * 1024, err
}

const stormDevices = 10_000

// reconnect has devices come back at once, one notification waiting for each.
func (p *program) reconnect(ctx context.Context) error {
	t := table{head: []string{"broker", "all subscribed", "all delivered", "delivered", "faults"}}
	var aims []aim
	all := map[string][]*result{}
	for round := range p.rounds {
		for _, c := range p.two() {
			s, err := c.start(ctx)
			if err != nil {
				return err
			}
			n := fmt.Sprint(stormDevices)
			r, err := p.load(ctx, s, "--devices", n, "--offline", "1", "--count", n, "--return", "--patience", "30s")
			if err == nil && s.http != "" {
				err = finished(ctx, s)
			}
			if err = errors.Join(err, s.stop()); err != nil {
				return err
			}
			all[c.name] = append(all[c.name], r)
			p.report.progress("round %d  %-34s all subscribed after %.2f s, %d delivered after %.2f s  %s", round+1, c.name, r.Return.Subscribed/1000, r.Return.Messages, r.Return.Delivered/1000, faults([]*result{r}))
		}
	}
	delivered := func(r *result) float64 { return r.Return.Delivered / 1000 }
	for _, c := range p.two() {
		runs := all[c.name]
		t.add(c.name, fmt.Sprintf("%.2f s", medianOf(runs, func(r *result) float64 { return r.Return.Subscribed / 1000 })), fmt.Sprintf("%.2f s", medianOf(runs, delivered)),
			fmt.Sprintf("%.0f", medianOf(runs, func(r *result) float64 { return float64(r.Return.Messages) })), faults(runs))
	}
	for _, c := range p.ours {
		aims = append(aims, aim{fmt.Sprintf("%s: %d devices back at once, 1 outstanding each ÷ plain mochi", c.name, stormDevices), "0.9", "0.5", fmt.Sprintf("%.2f", ratio(all[c.name], all[p.plain.name], delivered))})
	}
	text := fmt.Sprintf("%d devices that were away connect at the same moment, one message waiting for each; until the last of them has read its message and acknowledged it; medians of %d rounds.", stormDevices, p.rounds)
	return p.report.section("reconnect", text, t, aims)
}

// finished makes sure that Heartline waits for nothing more once the messages in flight
// have arrived.
func finished(ctx context.Context, s *server) error {
	for tries := 0; ; tries++ {
		left := ""
		for _, state := range []string{"pending", "published", "pushing", "pushed", "waiting"} {
			var list struct {
				Notifications []struct {
					ID string `json:"id"`
				} `json:"notifications"`
			}
			if err := get(ctx, "http://"+s.http+"/v1/notifications?limit=1&state="+state, &list); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if len(list.Notifications) > 0 {
				left = list.Notifications[0].ID + " is " + state
			}
		}
		if left == "" {
			return nil
		}
		if tries == 100 {
			return fmt.Errorf("%s: notification %s, and its device has acknowledged all", s.name, left)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func get(ctx context.Context, address string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", address, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// outstanding is the throughput with a million deliveries for others in the store.
func (p *program) outstanding(ctx context.Context) error {
	t := table{head: []string{"broker", "none outstanding", fmt.Sprintf("%d outstanding", p.backlog), "ratio", "CPU ratio", "faults"}}
	var aims []aim
	for _, c := range p.ours {
		without, with, err := p.sideBySide(ctx, c)
		if err != nil {
			return err
		}
		t.add(c.name, fmt.Sprintf("%.0f/s", medianOf(without, throughput)), fmt.Sprintf("%.0f/s", medianOf(with, throughput)), fmt.Sprintf("%.2f", ratio(with, without, throughput)),
			fmt.Sprintf("%.2f", ratio(with, without, cpu)), faults(append(without, with...)))
		aims = append(aims, aim{fmt.Sprintf("%s: throughput with %d outstanding for others ÷ with none", c.name, p.backlog), "0.95", "0.98", fmt.Sprintf("%.2f", ratio(with, without, throughput))})
		aims = append(aims, aim{fmt.Sprintf("%s: server CPU a notification with %d outstanding for others ÷ with none", c.name, p.backlog), "1.05", "1.02", fmt.Sprintf("%.2f", ratio(with, without, cpu))})
	}
	text := fmt.Sprintf("The work of the first table while deliveries wait for other devices, which are offline, 1000 each; two servers, in turn, %d rounds.", p.rounds)
	return p.report.section("outstanding", text, t, aims)
}

func (p *program) sideBySide(ctx context.Context, c contestant) (without, with []*result, err error) {
	empty, err := c.start(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer empty.stop() //nolint:errcheck // there is nothing it could say
	full, err := c.start(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer full.stop() //nolint:errcheck // likewise
	p.report.progress("%s: %d for devices that are offline", c.name, p.backlog)
	fill, err := p.load(ctx, full, "--prefix", "others", "--devices", fmt.Sprint(max(1, p.backlog/1000)), "--offline", "1", "--count", fmt.Sprint(p.backlog))
	if err != nil {
		return nil, nil, err
	}
	if fill.Totals.Accepted != int64(p.backlog) {
		return nil, nil, fmt.Errorf("%s accepted %d of %d: %s", c.name, fill.Totals.Accepted, p.backlog, faults([]*result{fill}))
	}
	for round := range p.rounds {
		for _, side := range []struct {
			s    *server
			runs *[]*result
		}{{empty, &without}, {full, &with}} {
			r, err := p.load(ctx, side.s, append(work, "--duration", p.duration.String())...)
			if err != nil {
				return nil, nil, err
			}
			*side.runs = append(*side.runs, r)
		}
		p.report.progress("round %d  %-34s without %.0f/s, with %.0f/s", round+1, c.name, without[round].Throughput, with[round].Throughput)
	}
	return without, with, nil
}

// batch compares NDJSON over HTTP with MQTT, each with the same number under way.
func (p *program) batch(ctx context.Context) error {
	t := table{head: []string{"ingress", "in flight", "notifications/s", "÷ MQTT", "CPU ÷ MQTT", "p50", "p99", "faults"}}
	var aims []aim
	modes := []string{"notifications", "batch", "http"}
	for _, c := range p.ours {
		for _, inflight := range []string{"64", "256"} {
			all := map[string][]*result{}
			for round := range p.rounds {
				for _, mode := range modes {
					if mode == "http" && inflight != "64" {
						continue
					}
					by := c
					by.mode = mode
					r, err := p.once(ctx, by, "--devices", "200", "--publishers", "8", "--inflight", inflight, "--payload", "256", "--duration", p.duration.String())
					if err != nil {
						return err
					}
					all[mode] = append(all[mode], r)
					p.report.progress("round %d  %-34s %-14s %s in flight %8.0f/s  server %6.1f µs  %s", round+1, c.name, mode, inflight, r.Throughput, r.Server.Each, faults([]*result{r}))
				}
			}
			mqtt := all["notifications"]
			for _, mode := range modes {
				if runs := all[mode]; runs != nil {
					name := map[string]string{"notifications": "MQTT", "batch": "POST of a batch", "http": "POST of each"}[mode]
					t.add(c.name+": "+name, "8 × "+inflight, fmt.Sprintf("%.0f", medianOf(runs, throughput)), fmt.Sprintf("%.2f", ratio(runs, mqtt, throughput)),
						fmt.Sprintf("%.2f", ratio(runs, mqtt, cpu)), ms(medianOf(runs, p50)), ms(medianOf(runs, p99)), faults(runs))
				}
			}
			aims = append(aims, aim{fmt.Sprintf("%s: POST of NDJSON, notifications/s ÷ MQTT, 8 × %s in flight", c.name, inflight), "1", "1.5", fmt.Sprintf("%.2f", ratio(all["batch"], mqtt, throughput))})
		}
	}
	text := fmt.Sprintf("Notifications from 8 senders to 200 devices, 256 bytes each way in; a batch is one POST a sender, streamed; medians of %d rounds of %s.", p.rounds, p.duration)
	return p.report.section("batch", text, t, aims)
}

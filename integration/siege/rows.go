package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// row is one siege.
type row struct {
	name    string
	env     []string
	files   int           // file descriptors the server may have; 0: as many as there are
	devices int           // that are notified in turn, and acknowledge
	deaf    int           // further ones, that stop reading and are notified, too
	rate    int           // notifications a second
	hold    time.Duration // from when the siege is complete
	silent  bool          // the sockets say nothing: what one of them takes can be told
	lay     []attack
}

func rows(small bool) []row {
	n := func(full, few int) int {
		if small {
			return few
		}
		return full
	}
	hold := 20 * time.Second
	if small {
		hold = 3 * time.Second
	}
	patient := "HEARTLINE_MQTT_CONNECT_TIMEOUT=5m" // so that they stay, and can be counted
	return []row{
		{
			name: fmt.Sprintf("%d sockets without CONNECT", n(15_000, 3000)), env: []string{patient},
			devices: 1, rate: 20, hold: hold, silent: true, lay: []attack{silent(n(15_000, 3000))},
		},
		{
			name:    fmt.Sprintf("%d slowloris, 1 byte/s", n(4000, 300)),
			devices: 1, rate: 20, hold: hold, lay: []attack{slowloris(n(4000, 300))},
		},
		{
			name:    fmt.Sprintf("%d announce 256 MiB, again and again", n(500, 50)),
			devices: 1, rate: 20, hold: hold, lay: []attack{headers(n(500, 50))},
		},
		{
			name: fmt.Sprintf("1 %% of %d devices does not read", n(5000, 300)), env: []string{"HEARTLINE_MQTT_WRITE_TIMEOUT=5s"},
			devices: n(4950, 297), deaf: n(50, 3), rate: n(400, 100), hold: hold, lay: []attack{flood(n(160, 160))},
		},
		{
			name: fmt.Sprintf("%d sockets without CONNECT, 256 file descriptors", n(2000, 600)), env: []string{patient},
			files: 256, devices: 20, rate: 20, hold: hold, lay: []attack{silent(n(2000, 600))},
		},
		{
			name: "all of these, GOMEMLIMIT=128MiB", env: []string{"GOMEMLIMIT=128MiB", "HEARTLINE_MQTT_WRITE_TIMEOUT=5s"},
			devices: n(990, 99), deaf: n(10, 1), rate: n(100, 20), hold: hold,
			lay: []attack{silent(n(8000, 400)), slowloris(n(2000, 100)), headers(n(200, 20)), flood(160)},
		},
	}
}

// result is a line of the table.
type result struct {
	notified, acked    int
	p50, longest, calm time.Duration
	connects           int
	slowest            time.Duration
	before, most       float64 // resident bytes
	socket             float64 // bytes, of one that says nothing
	ended              string
	exit               string
	silent             bool
}

func (r result) line(name string) string {
	socket := "–"
	if r.silent {
		socket = fmt.Sprintf("%.0f", r.socket)
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
	return fmt.Sprintf("| %s | %d | %d | %s | %s | %s | %d | %s | %.0f | %.0f | %s | %s | %s |", name, r.notified, r.acked, ms(r.p50), ms(r.longest), ms(r.calm),
		r.connects, ms(r.slowest), r.before/1e6, r.most/1e6, socket, r.ended, r.exit)
}

// mostBytes is what a socket that has said nothing may take of the server.
const mostBytes = 10 << 10

func (r row) play(ctx context.Context, binary, data string, log io.Writer) (res result, err error) {
	res.silent = r.silent
	s, err := start(binary, data, r.files, r.env, log)
	if err != nil {
		return res, err
	}
	defer s.kill()
	all, err := connect(s, r.devices, r.deaf)
	if err != nil {
		return res, err
	}
	defer all.close()

	calm, err := all.notify(ctx, r.rate, 2*time.Second)
	if err != nil {
		return res, fmt.Errorf("before the siege: %w", err)
	}
	res.calm = median(calm)
	if res.before, err = s.resident("VmRSS"); err != nil {
		return res, err
	}
	before, err := s.metrics(ctx)
	if err != nil {
		return res, err
	}

	camp, lift := context.WithCancel(ctx)
	besiegers := &besiegers{server: s, devices: all}
	defer besiegers.wait()
	defer lift()
	laid := make(chan error, 1)
	go func() {
		var errs []error
		for _, lay := range r.lay {
			errs = append(errs, lay(camp, besiegers))
		}
		laid <- errors.Join(errs...)
	}()
	newcomers := newcomers(camp, s)
	var under []time.Duration
	for standing := false; !standing; {
		times, err := all.notify(ctx, r.rate, time.Second) // while it comes up, too
		under = append(under, times...)
		if err != nil {
			return res, err
		}
		select {
		case err := <-laid:
			if err != nil {
				return res, fmt.Errorf("lay the siege: %w", err)
			}
			standing = true
		default:
		}
	}
	times, err := all.notify(ctx, r.rate, r.hold)
	if err != nil {
		return res, err
	}
	under = append(under, times...)
	now, err := s.resident("VmRSS")
	if err != nil {
		return res, err
	}
	if res.most, err = s.resident("VmHWM"); err != nil {
		return res, err
	}
	after, err := s.metrics(ctx)
	if err != nil {
		return res, err
	}
	if pending := after[`heartline_connections_pending{listener="tcp"}`]; r.silent && pending > 0 {
		res.socket = (now - res.before) / pending
	}
	res.p50, res.longest = median(under), slices.Max(under)
	res.notified, res.ended = len(under), ended(before, after)
	if res.acked, err = all.acked(ctx, len(calm)); err != nil {
		return res, err
	}
	lift() // the newcomers; the sockets stay
	n := <-newcomers
	res.connects, res.slowest = n.connects, n.slowest

	var errs []error
	if res.acked != res.notified {
		errs = append(errs, fmt.Errorf("%d of %d notifications acknowledged", res.acked, res.notified))
	}
	if n.err != nil {
		errs = append(errs, fmt.Errorf("%d newcomers were not let in: %w", n.failed, n.err))
	}
	if r.silent && res.socket > mostBytes {
		errs = append(errs, fmt.Errorf("a socket that says nothing takes %.0f bytes, want at most %d", res.socket, mostBytes))
	}
	if n := after[`heartline_connections_ended_total{listener="tcp",reason="accept_error"}`]; n > 0 {
		errs = append(errs, fmt.Errorf("accept failed %.0f times: the store has no file descriptors either then", n))
	}
	if panics := sum(after, "heartline_mqtt_panics_total"); panics > 0 {
		errs = append(errs, fmt.Errorf("%.0f panics recovered", panics))
	}
	if res.exit, err = s.stop(); err != nil { // with the besiegers still there
		errs = append(errs, err)
	}
	return res, errors.Join(errs...)
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

// ended tells what the server has done to connections, by reason.
func ended(before, after map[string]float64) string {
	var parts []string
	for name, n := range after {
		_, labels, ok := strings.Cut(name, "heartline_connections_ended_total{")
		if n -= before[name]; !ok || n == 0 || !strings.Contains(labels, `listener="tcp"`) {
			continue
		}
		_, reason, _ := strings.Cut(labels, `reason="`)
		reason, _, _ = strings.Cut(reason, `"`)
		parts = append(parts, fmt.Sprintf("%.0f %s", n, strings.ReplaceAll(reason, "_", " ")))
	}
	if n := sum(after, "heartline_mqtt_malformed_total") - sum(before, "heartline_mqtt_malformed_total"); n > 0 {
		parts = append(parts, fmt.Sprintf("%.0f malformed", n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func sum(metrics map[string]float64, name string) float64 {
	var total float64
	for full, v := range metrics {
		if strings.HasPrefix(full, name+"{") {
			total += v
		}
	}
	return total
}

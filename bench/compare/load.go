package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result holds the fields read from the answer of `heartline bench --json`.
type result struct {
	Throughput float64 `json:"delivered_per_s"`
	Accepted   float64 `json:"accepted_per_s"`
	Delivery   latency `json:"delivery"`
	Accept     latency `json:"accept"`
	Lag        latency `json:"lag"`
	Connect    float64 `json:"connect_ms"`
	Totals     struct {
		Sent       int64 `json:"sent"`
		Accepted   int64 `json:"accepted"`
		Refused    int64 `json:"refused"`
		Unanswered int64 `json:"unanswered"`
		Delivered  int64 `json:"delivered"`
		Lost       int64 `json:"lost"`
		Duplicated int64 `json:"duplicated"`
		OutOfOrder int64 `json:"out_of_order"`
		Dropped    int64 `json:"connections_lost"`
	} `json:"totals"`
	Generator usage  `json:"generator"`
	Server    *usage `json:"server"`
	Idle      *usage `json:"server_idle"`
	Return    *struct {
		Subscribed float64 `json:"subscribed_ms"`
		Delivered  float64 `json:"delivered_ms"`
		Messages   int64   `json:"messages"`
	} `json:"return"`
}

type latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
}

type usage struct {
	Each     float64 `json:"cpu_us_per_message"`
	Cores    float64 `json:"cores"`
	Resident int64   `json:"resident_bytes"`
}

// load puts a server under load, with the flags of `heartline bench`.
func (p *program) load(ctx context.Context, s *server, flags ...string) (*result, error) {
	return p.loadAnd(ctx, s, func() {}, flags...)
}

// loadAnd is load that calls sending once the first message is sent.
func (p *program) loadAnd(ctx context.Context, s *server, sending func(), flags ...string) (*result, error) {
	args := append([]string{
		"bench", "--json", "--server", "mqtt://" + s.mqtt, "--mode", s.mode, "--server-pid", strconv.Itoa(s.cmd.Process.Pid),
	}, flags...)
	if s.http != "" {
		args = append(args, "--http", "http://"+s.http)
	}
	cmd := exec.CommandContext(ctx, p.generator, args...) //nolint:gosec // a binary that was named on the command line
	var stdout bytes.Buffer
	stderr := watcher{part: "sending", seen: sending}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begun, busy, own := time.Now(), machineBusy(), processBusy(s.cmd.Process.Pid)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s under load: %w\n%s", s.name, err, stderr.text.String())
	}
	own = processBusy(s.cmd.Process.Pid) - own + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	p.othersMu.Lock()
	p.others = append(p.others, max(0, (machineBusy()-busy-own).Seconds()/time.Since(begun).Seconds()))
	p.othersMu.Unlock()
	var r result
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		return nil, fmt.Errorf("%s under load: %w", s.name, err)
	}
	return &r, nil
}

// watcher keeps its input, and calls seen once that contains part.
type watcher struct {
	text bytes.Buffer
	part string
	seen func()
}

func (w *watcher) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	if w.seen != nil && strings.Contains(w.text.String(), w.part) {
		w.seen()
		w.seen = nil
	}
	return n, err
}

// machineBusy is the CPU time that everything on this machine has used.
func machineBusy() time.Duration {
	stat, _ := os.ReadFile("/proc/stat") // proc_stat(5); without it the others are not told of
	line, _, _ := strings.Cut(string(stat), "\n")
	var busy int64
	for i, field := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 { // its name, idle, waiting for disks; guests are in user
			continue
		}
		ticks, _ := strconv.ParseInt(field, 10, 64)
		busy += ticks
	}
	return time.Duration(busy) * time.Second / ticksPerSecond
}

// processBusy is the CPU time that a process has used.
func processBusy(pid int) time.Duration {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // one that has ended has used no more
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / ticksPerSecond
}

// ticksPerSecond is what Linux counts in towards programs.
const ticksPerSecond = 100

// faults says what went wrong with the messages of some runs; "" is nothing.
func faults(runs []*result) string {
	var lost, duplicated, order, refused, dropped int64
	for _, r := range runs {
		lost += r.Totals.Lost
		duplicated += r.Totals.Duplicated
		order += r.Totals.OutOfOrder
		refused += r.Totals.Refused + r.Totals.Unanswered
		dropped += r.Totals.Dropped
	}
	var all []string
	for _, f := range []struct {
		n    int64
		text string
	}{{lost, "lost"}, {duplicated, "duplicated"}, {order, "out of order"}, {refused, "refused"}, {dropped, "connections lost"}} {
		if f.n > 0 {
			all = append(all, fmt.Sprintf("%d %s", f.n, f.text))
		}
	}
	return strings.Join(all, ", ")
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// medianOf is the median of a figure of some runs.
func medianOf(runs []*result, figure func(*result) float64) float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, figure(r))
	}
	return median(all)
}

// ratio is the median of the ratios round by round: what the machine does to one
// round it does to all of its runs.
func ratio(ours, theirs []*result, figure func(*result) float64) float64 {
	var all []float64
	for i := range min(len(ours), len(theirs)) {
		all = append(all, figure(ours[i])/figure(theirs[i]))
	}
	return median(all)
}

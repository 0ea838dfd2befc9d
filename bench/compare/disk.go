package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// disk is what a notification writes to the disk: log, tables and all compactions until there
// are no more.
func (p *program) disk(ctx context.Context) error {
	t := table{head: []string{"broker", "notifications", "written each, at the end of the load", "and once nothing more was written", "faults"}}
	var aims []aim
	for _, c := range p.ours {
		s, err := c.start(ctx)
		if err != nil {
			return err
		}
		r, under, after, err := p.writtenBy(ctx, s)
		if err = errors.Join(err, s.stop()); err != nil {
			return err
		}
		n := float64(r.Totals.Accepted)
		t.add(c.name, fmt.Sprint(r.Totals.Accepted), fmt.Sprintf("%.0f B", under/n), fmt.Sprintf("%.0f B", after/n), faults([]*result{r}))
		aims = append(aims, aim{c.name + ": disk written a notification, all compactions included", "1.2 KB", "0.9 KB", fmt.Sprintf("%.2f KB", after/n/1000)})
	}
	text := fmt.Sprintf("What the server writes to the disk (write_bytes of /proc/PID/io) for each notification of the first table's work, %s long.", p.duration*diskRun)
	return p.report.section("disk", text, t, aims)
}

const (
	diskRun   = 12 // times the duration of a measurement
	diskQuiet = 5 * time.Second
)

func (p *program) writtenBy(ctx context.Context, s *server) (r *result, under, after float64, err error) {
	pid := s.cmd.Process.Pid
	before, err := written(pid)
	if err != nil {
		return nil, 0, 0, err
	}
	if r, err = p.load(ctx, s, append(work, "--duration", (p.duration*diskRun).String(), "--warmup", "0s")...); err != nil {
		return nil, 0, 0, err
	}
	now, err := written(pid)
	if err != nil {
		return nil, 0, 0, err
	}
	under = now - before
	for last, since := now, time.Now(); time.Since(since) < diskQuiet; time.Sleep(100 * time.Millisecond) { // for an outside counter
		if now, err = written(pid); err != nil {
			return nil, 0, 0, err
		}
		if now-last > 1e6 {
			last, since = now, time.Now()
		}
	}
	return r, under, now - before, nil
}

// written is what a process has had written to disks, in bytes.
func written(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(text), "\nwrite_bytes: ")
	if !found {
		return 0, fmt.Errorf("/proc/%d/io has no write_bytes", pid)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseFloat(value, 64)
}

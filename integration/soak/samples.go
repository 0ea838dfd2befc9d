package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// quantity is a figure that must not grow.
type quantity struct {
	name   string
	series string // where its samples are
	reduce func([]float64) float64
	unit   unit
	// It grows if its last value is above its first one by more than this share of
	// the first and by more than this much.
	share, least float64
}

type unit struct {
	name string
	per  float64
}

var (
	megabytes    = unit{"MB", 1e6}
	milliseconds = unit{"ms", 1}
	number       = unit{"", 1}
	percent      = unit{"% of a core", 1}
)

// quantities are the rows of the table. The shares leave room for the collector's
// rhythm, for the merging of tables, and for other programs on the machine.
func quantities() []quantity {
	const MB = 1e6
	return []quantity{
		{"resident memory", "resident", mean, megabytes, 0.10, 16 * MB},
		{"heap after GC", "heap", mean, megabytes, 0.10, 4 * MB},
		{"goroutines", "goroutines", mean, number, 0.05, 50},
		{"file descriptors", "descriptors", mean, number, 0.05, 50},
		{"data directory", "disk", mean, megabytes, 0.15, 32 * MB},
		{"accept p50", "accept", median, milliseconds, 0.50, 2},
		{"accept p99", "accept", p99, milliseconds, 1.00, 25},
		{"delivery p50", "delivery", median, milliseconds, 0.50, 2},
		{"delivery p99", "delivery", p99, milliseconds, 1.00, 25},
		{"CPU of the server", "cpu", mean, percent, 0.20, 4},
		{"connections", "connections", mean, number, 0.05, 50},
		{"sessions", "sessions", mean, number, 0.05, 50},
		{"subscriptions", "subscriptions", mean, number, 0.05, 200},
		{"queued ordinary messages", "ordinary", mean, number, 0.25, 500},
		{"retained messages", "retained", mean, number, 0.05, 50},
		{"devices known", "devices", mean, number, 0.05, 50},
		{"unfinished deliveries", "outstanding", mean, number, 0.25, 200},
		{"queued pushes", "pushes", mean, number, 0.25, 100},
		{"webhook lag", "lag", mean, unit{"s", 1}, 0.50, 60},
		{"deferred webhook events", "deferred", mean, number, 0.50, 500},
		{"parked webhook events", "parked", mean, number, 0, 10},
	}
}

func mean(values []float64) float64 {
	var sum float64
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(len(values), 1))
}

func median(values []float64) float64 { return quantile(values, 0.5) }

func p99(values []float64) float64 { return quantile(values, 0.99) }

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[int(q*float64(len(values)-1))]
}

// samples keeps every sample with its time since the beginning.
type samples struct {
	begun time.Time

	mu     sync.Mutex
	series map[string][]sample
}

type sample struct {
	at    time.Duration
	value float64
}

func newSamples(begun time.Time) *samples {
	return &samples{begun: begun, series: map[string][]sample{}}
}

func (s *samples) add(series string, value float64) {
	at := time.Since(s.begun)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.series[series] = append(s.series[series], sample{at, value})
}

// between returns the values of a series in a span of time.
func (s *samples) between(series string, from, to time.Duration) []float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.series[series]
	early := func(sm sample, at time.Duration) int { return cmp.Compare(sm.at, at) }
	first, _ := slices.BinarySearchFunc(all, from, early)
	last, _ := slices.BinarySearchFunc(all, to, early)
	values := make([]float64, 0, max(last-first, 0))
	for _, sm := range all[first:max(first, last)] {
		values = append(values, sm.value)
	}
	return values
}

// span is a part of the run.
type span struct{ from, to time.Duration }

// compare writes the table of two spans and a line for each quantity that has grown,
// and returns the names of those. A quantity without samples in one of the spans counts
// as grown: nothing is known about it.
func (s *samples) compare(out io.Writer, first, last span) (grown []string) {
	var lines []string
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	round := func(d time.Duration) string { return d.Round(time.Second).String() }
	fmt.Fprintf(w, "\t%s to %s\t%s to %s\tchange\tallowed\t\n", round(first.from), round(first.to), round(last.from), round(last.to))
	for _, q := range quantities() {
		before, after := s.between(q.series, first.from, first.to), s.between(q.series, last.from, last.to)
		a, b := q.reduce(before), q.reduce(after)
		show := func(v float64) string { return fmt.Sprintf("%.1f %s", v/q.unit.per, q.unit.name) }
		allowed := max(q.share*a, q.least)
		fmt.Fprintf(w, "%s\t%s\t%s\t%+.1f\t+%.1f\t\n", q.name, show(a), show(b), (b-a)/q.unit.per, allowed/q.unit.per)
		switch {
		case len(before) == 0 || len(after) == 0:
			lines = append(lines, fmt.Sprintf("grows: %s: no samples", q.name))
		case b-a > allowed:
			lines = append(lines, fmt.Sprintf("grows: %s %s → %s", q.name, show(a), show(b)))
		default:
			continue
		}
		grown = append(grown, q.name)
	}
	_ = w.Flush() // to a terminal
	for _, l := range lines {
		fmt.Fprintln(out, l)
	}
	return grown
}

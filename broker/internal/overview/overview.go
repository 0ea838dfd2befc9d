// Package overview keeps the figures that the dashboard draws: samples of the last
// hour in memory, and a stream of the present. It reads the same registry as
// /metrics, so that the page and Prometheus show the same numbers.
//
// Read overview.go, then readiness.go and quantile.go. One goroutine samples, from Start to Stop. The
// cost does not grow with the number of viewers: one text is made per tick for all of
// them. The package imports delivery and wire.
package overview

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

const (
	// tick is the time between two messages to the viewers.
	tick = 2 * time.Second
	// sampleTicks is how many ticks a sample of the history is apart.
	sampleTicks = 5
	// kept is the number of samples: one hour.
	kept = int(time.Hour / (tick * sampleTicks))
	// eventsPerTick bounds the events of one message; the others are counted.
	eventsPerTick = 20
)

// Metric is one line of /metrics: a counter, a gauge or a histogram.
type Metric struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Value  float64           `json:"value" doc:"Of a histogram: the number of observations"`
	P50    *float64          `json:"p50,omitempty" doc:"Of a histogram: an estimate from its buckets, since the start"`
	P95    *float64          `json:"p95,omitempty"`
	P99    *float64          `json:"p99,omitempty"`
}

// Now is the present.
type Now struct {
	Time      string             `json:"time" format:"date-time"`
	StartedAt string             `json:"started_at" format:"date-time"`
	Node      string             `json:"node,omitempty" doc:"With PostgreSQL: the name of the node that has counted"`
	Version   string             `json:"version"`
	Ready     bool               `json:"ready"`
	Checks    map[string]string  `json:"checks" doc:"The checks of /readyz"`
	Faults    []string           `json:"faults,omitempty" doc:"The checks that are faults"`
	Metrics   []Metric           `json:"metrics" doc:"Heartline's own lines of /metrics"`
	Sample    Sample             `json:"sample" doc:"The newest sample of the history"`
	Events    []wire.StreamEvent `json:"events,omitempty" doc:"Events since the last message, at most 20"`
	Skipped   uint64             `json:"skipped,omitempty" doc:"How many events since the last message were left out"`
}

// Sample is the present of each series.
type Sample struct {
	Time   int64              `json:"time" doc:"Unix time; 0 before the first sample"`
	Values map[string]float64 `json:"values" doc:"By name, as in the history"`
}

// History holds one value per sample. Counters are as they stood, and are 0 again
// after a restart.
type History struct {
	Interval float64              `json:"interval" doc:"Seconds between two samples"`
	Time     []int64              `json:"time" doc:"Unix time of each sample"`
	Series   map[string][]float64 `json:"series" doc:"By name: events by kind, clients, outstanding, push_queue; ack_p50 and ack_p99 are -1 where nothing was acknowledged"`
}

// Page is what the dashboard begins with.
type Page struct {
	Now
	History History `json:"history"`
}

// Options say where the figures come from. All are required.
type Options struct {
	Gatherer prometheus.Gatherer
	Version  string
	// Node returns the name of this node; "" means that it is alone.
	Node func() string
	// Ready is the answer of /readyz.
	Ready func() Readiness
	// ID returns the ID of a notification.
	ID     func(delivery.Seq) (string, error)
	Logger *slog.Logger
}

// Overview samples. It is a delivery.Observer. Its methods are safe for concurrent use.
type Overview struct {
	opts    Options
	started time.Time

	viewing atomic.Int32 // viewers, without the mutex

	mu      sync.Mutex
	viewers map[chan []byte]struct{}
	events  []delivery.AccountEvent
	skipped uint64
	times   []int64
	series  map[string][]float64
	newest  Sample   // its map is not written to any more
	before  []bucket // of the acks, at the last sample
	cancel  context.CancelFunc
	done    chan struct{} // of the goroutine
	stopped bool
}

var _ delivery.Observer = (*Overview)(nil)

// New returns an Overview that does not sample yet.
func New(o Options) *Overview {
	return &Overview{opts: o, started: time.Now(), viewers: map[chan []byte]struct{}{}, series: map[string][]float64{}, newest: Sample{Values: map[string]float64{}}}
}

// Start starts sampling. It does nothing after Stop, or when it was called before.
func (o *Overview) Start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped || o.done != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel, o.done = cancel, make(chan struct{})
	go o.run(ctx, o.done)
}

// Stop ends the sampling and the streams, and returns when the goroutine has ended. It
// is safe before Start, twice, and twice at once.
func (o *Overview) Stop() {
	o.mu.Lock()
	o.stopped = true
	done, cancel := o.done, o.cancel
	for v := range o.viewers {
		delete(o.viewers, v)
		close(v)
	}
	o.viewing.Store(0)
	o.mu.Unlock()
	if done != nil {
		cancel()
		<-done
	}
}

func (o *Overview) run(ctx context.Context, done chan struct{}) {
	defer close(done)
	o.sample()
	t := time.NewTicker(tick)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if n%sampleTicks == 0 {
			o.sample()
		}
		if o.viewing.Load() > 0 {
			o.broadcast()
		}
	}
}

// Observe implements delivery.Observer. It costs one atomic read while nobody looks.
func (o *Overview) Observe(account string, e delivery.Event) {
	if o.viewing.Load() == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.events) == eventsPerTick {
		o.skipped++
		return
	}
	o.events = append(o.events, delivery.AccountEvent{Account: account, Event: e})
}

// View opens a stream of the present: a JSON text of Now per tick. A viewer that does
// not read misses ticks. end closes the stream; the channel is closed by it or by Stop.
func (o *Overview) View() (texts <-chan []byte, end func()) {
	c := make(chan []byte, 1)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		close(c)
		return c, func() {}
	}
	o.viewers[c] = struct{}{}
	o.viewing.Add(1)
	return c, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if _, open := o.viewers[c]; open {
			delete(o.viewers, c)
			o.viewing.Add(-1)
			close(c)
		}
	}
}

// Page returns the present and the last hour.
func (o *Overview) Page() Page {
	p := Page{Now: o.now()}
	o.mu.Lock()
	defer o.mu.Unlock()
	p.History = History{Interval: (tick * sampleTicks).Seconds(), Time: append([]int64{}, o.times...), Series: make(map[string][]float64, len(o.series))}
	for name, values := range o.series {
		p.History.Series[name] = append([]float64{}, values...)
	}
	return p
}

func (o *Overview) broadcast() {
	n := o.now()
	o.mu.Lock()
	events, skipped := o.events, o.skipped
	o.events, o.skipped = nil, 0
	o.mu.Unlock()
	n.Skipped = skipped
	for _, e := range events {
		id, err := o.opts.ID(e.Seq)
		if err != nil {
			id = "" // it may be erased already
		}
		n.Events = append(n.Events, wire.NewStreamEvent(e, id))
	}
	text, err := json.Marshal(n)
	if err != nil {
		o.opts.Logger.Error("dashboard not updated", "error", err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for v := range o.viewers {
		select {
		case v <- text:
		default: // it has not read the last one yet
		}
	}
}

func (o *Overview) now() Now {
	ready := o.opts.Ready()
	n := Now{
		Time: wire.FormatTime(time.Now()), StartedAt: wire.FormatTime(o.started),
		Node: o.opts.Node(), Version: o.opts.Version, Ready: ready.Err == nil, Checks: ready.Checks, Faults: ready.Faults, Metrics: []Metric{},
	}
	o.mu.Lock()
	n.Sample = o.newest
	o.mu.Unlock()
	for _, f := range o.gather() {
		for _, m := range f.GetMetric() {
			n.Metrics = append(n.Metrics, newMetric(f, m))
		}
	}
	return n
}

// gather reads Heartline's own metrics.
func (o *Overview) gather() []*dto.MetricFamily {
	all, err := o.opts.Gatherer.Gather()
	if err != nil {
		o.opts.Logger.Warn("some metrics could not be read", "error", err) // the others are there
	}
	ours := all[:0]
	for _, f := range all {
		if strings.HasPrefix(f.GetName(), "heartline_") {
			ours = append(ours, f)
		}
	}
	return ours
}

func newMetric(f *dto.MetricFamily, m *dto.Metric) Metric {
	x := Metric{Name: f.GetName()}
	for _, l := range m.GetLabel() {
		if x.Labels == nil {
			x.Labels = map[string]string{}
		}
		x.Labels[l.GetName()] = l.GetValue()
	}
	switch {
	case m.GetHistogram() != nil:
		x.Value = float64(m.GetHistogram().GetSampleCount())
		b := buckets(m.GetHistogram())
		x.P50, x.P95, x.P99 = quantile(b, nil, .5), quantile(b, nil, .95), quantile(b, nil, .99)
	case m.GetCounter() != nil:
		x.Value = m.GetCounter().GetValue()
	case m.GetGauge() != nil:
		x.Value = m.GetGauge().GetValue()
	}
	return x
}

// sample adds one value to each series.
func (o *Overview) sample() {
	values := map[string]float64{}
	var acks []bucket
	for _, f := range o.gather() {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "heartline_events_total":
				values[label(m, "event")] = m.GetCounter().GetValue()
			case "heartline_mqtt_clients":
				values["clients"] += m.GetGauge().GetValue()
			case "heartline_deliveries_outstanding":
				values["outstanding"] += m.GetGauge().GetValue()
			case "heartline_push_queue":
				values["push_queue"] += m.GetGauge().GetValue()
			case "heartline_ack_seconds":
				acks = add(acks, buckets(m.GetHistogram()))
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, q := range map[string]float64{"ack_p50": .5, "ack_p99": .99} {
		values[name] = -1
		if v := quantile(acks, o.before, q); v != nil {
			values[name] = *v
		}
	}
	o.before = acks
	o.newest = Sample{Time: time.Now().Unix(), Values: values}
	o.times = last(append(o.times, o.newest.Time))
	for name, v := range values {
		o.series[name] = append(o.series[name], v)
	}
	for name, s := range o.series {
		if _, here := values[name]; !here { // such as an app that has been removed
			values[name] = s[len(s)-1]
			s = append(s, values[name])
		}
		for len(s) < len(o.times) { // it is new
			s = append([]float64{0}, s...)
		}
		o.series[name] = last(s)
	}
}

// last keeps the newest samples.
func last[T any](s []T) []T {
	if len(s) > kept {
		return append(s[:0], s[len(s)-kept:]...)
	}
	return s
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

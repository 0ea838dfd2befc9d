package overview

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	*Overview
	events *prometheus.CounterVec
	acks   *prometheus.HistogramVec

	outstanding prometheus.Gauge
}

func newFixture() fixture {
	r := prometheus.NewRegistry()
	f := fixture{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "heartline_events_total", Help: "events"}, []string{"event"}),
		acks:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "heartline_ack_seconds", Help: "acks", Buckets: []float64{.1, 1, 10}}, []string{"ack"}),
	}
	f.outstanding = prometheus.NewGauge(prometheus.GaugeOpts{Name: "heartline_deliveries_outstanding", Help: "now"})
	other := prometheus.NewCounter(prometheus.CounterOpts{Name: "go_threads_total", Help: "another's"})
	r.MustRegister(f.events, f.acks, f.outstanding, other)
	f.Overview = New(Options{
		Gatherer: r, Version: "1.2.3", Logger: slog.New(slog.DiscardHandler),
		Node: func() string { return "a" },
		Ready: func() (r Readiness) {
			r.Add("store", "up")
			r.Fault("auth", "failed")
			return r
		},
		ID: func(s delivery.Seq) (string, error) {
			if s == 7 {
				return "seven", nil
			}
			return "", errors.New("gone")
		},
	})
	return f
}

func TestHistory(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		f := newFixture()
		f.Start()
		defer f.Stop()
		synctest.Wait() // for the first sample
		f.events.WithLabelValues("accepted").Add(3)
		time.Sleep(tick*sampleTicks + time.Second)
		f.events.WithLabelValues("accepted").Add(2)
		f.outstanding.Set(2)
		f.events.WithLabelValues("pushed").Inc() // this series begins late
		for range 99 {
			f.acks.WithLabelValues("received").Observe(.05)
		}
		f.acks.WithLabelValues("displayed").Observe(5)
		time.Sleep(tick * sampleTicks)
		h := f.Page().History
		if len(h.Time) != 3 || h.Time[2]-h.Time[1] != int64(h.Interval) {
			t.Fatalf("times %v, interval %v", h.Time, h.Interval)
		}
		for name, want := range map[string][]float64{"accepted": {0, 3, 5}, "pushed": {0, 0, 1}, "outstanding": {0, 0, 2}} {
			got := h.Series[name]
			if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		newest := f.Page().Sample
		for name, s := range h.Series {
			if v, ok := newest.Values[name]; !ok || v != s[len(s)-1] || len(newest.Values) != len(h.Series) || newest.Time != h.Time[2] {
				t.Errorf("%s: the newest sample is %+v, the history ends with %v", name, newest, s)
			}
		}
		if p := h.Series["ack_p50"]; p[1] != -1 || p[2] <= 0 || p[2] > .1 {
			t.Errorf("ack_p50: %v", p)
		}
		time.Sleep(2 * time.Hour)
		h = f.Page().History
		if len(h.Time) != kept || len(h.Series["pushed"]) != kept || h.Series["accepted"][0] != 5 {
			t.Errorf("after two hours: %d times, %d values, the first %v", len(h.Time), len(h.Series["pushed"]), h.Series["accepted"][0])
		}
	})
}

func TestStream(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		f := newFixture()
		f.Start()
		defer f.Stop()
		f.Observe("alice", delivery.Event{Seq: 7, Kind: delivery.EventAccepted}) // nobody looks
		texts, end := f.View()
		other, _ := f.View()
		f.Observe("alice", delivery.Event{Seq: 7, Kind: delivery.EventPushed, Device: "phone"})
		for range eventsPerTick + 4 {
			f.Observe("bob", delivery.Event{Seq: 8, Kind: delivery.EventExpired})
		}
		f.events.WithLabelValues("pushed").Inc()
		var n Now
		if err := json.Unmarshal(<-texts, &n); err != nil {
			t.Fatal(err)
		}
		if len(n.Events) != eventsPerTick || n.Skipped != 5 || n.Events[0].ID != "seven" || n.Events[0].Event != "pushed" || n.Events[1].ID != "" {
			t.Errorf("%d events, %d skipped, the first %+v", len(n.Events), n.Skipped, n.Events[0])
		}
		if !n.Ready || n.Checks["store"] != "up" || n.Checks["auth"] != "failed" || !slices.Equal(n.Faults, []string{"auth"}) || n.Version != "1.2.3" || n.Node != "a" {
			t.Errorf("%+v", n)
		}
		seen := map[string]bool{}
		for _, m := range n.Metrics {
			seen[m.Name] = true
			if m.Name == "heartline_events_total" && (m.Value != 1 || m.Labels["event"] != "pushed") {
				t.Errorf("%+v", m)
			}
		}
		if !seen["heartline_events_total"] || seen["go_threads_total"] {
			t.Errorf("metrics: %v", seen)
		}
		time.Sleep(10 * tick) // nobody reads: the sampler goes on
		if len(f.Page().History.Time) != 3 {
			t.Error("a viewer that does not read stops the sampling")
		}
		end()
		end()
		<-other
		f.Stop()
		for range other { // Stop closes it
		}
		if _, open := <-texts; open {
			<-texts
		}
	})
}

// TestStop: never started, twice, and twice at once.
func TestStop(t *testing.T) {
	f := newFixture()
	f.Stop()
	f.Start() // does nothing
	f.Stop()
	if c, end := f.View(); c != nil {
		if _, open := <-c; open {
			t.Error("a stream of a stopped overview is open")
		}
		end()
	}
	g := newFixture()
	g.Start()
	g.Start()
	var both sync.WaitGroup
	both.Go(g.Stop)
	both.Go(g.Stop)
	both.Wait()
}

func TestQuantile(t *testing.T) {
	b := []bucket{{1, 10}, {2, 20}, {3, 20}}
	if v := quantile(b, nil, .5); v == nil || *v != 1 {
		t.Errorf("p50 %v", v)
	}
	if v := quantile(b, nil, .75); v == nil || *v != 1.5 {
		t.Errorf("p75 %v", v)
	}
	if v := quantile(b, b, .5); v != nil {
		t.Errorf("of no observation: %v", *v)
	}
}

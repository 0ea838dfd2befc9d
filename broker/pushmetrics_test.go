package broker

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/fallback"
)

type pushCollector []fallback.AppStatus

func (c pushCollector) Describe(chan<- *prometheus.Desc)    {}
func (c pushCollector) Collect(ch chan<- prometheus.Metric) { pushFigures(scrape{ch}, c) }

// The push metrics name the server, the app and the environment apart, and an app with
// several push services has one series.
func TestPushMetrics(t *testing.T) {
	t.Parallel()
	counts := func(n uint64) map[fallback.Count]uint64 {
		return map[fallback.Count]uint64{{Outcome: "accepted", Reason: "201"}: n}
	}
	web := fallback.App{Server: "webpush", Name: "BG12"}
	registry := prometheus.NewRegistry()
	registry.MustRegister(pushCollector{
		{App: fallback.App{Server: "apns", Name: "com.example.app", Environment: "production"}, State: "ok"},
		{App: web, Origin: "mozilla", State: "open", Queue: 2, InFlight: 1, Counts: counts(3)},
		{App: web, Origin: "google", State: "ok", Queue: 5, InFlight: 4, Counts: counts(7)},
	})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() != "outcome" && l.GetName() != "reason" {
					key += " " + l.GetName() + "=" + l.GetValue()
				}
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for key, want := range map[string]float64{
		"heartline_push_ready app=com.example.app environment=production server=apns": 1,
		"heartline_push_ready app=BG12 environment= server=webpush":                   0,
		"heartline_push_queue app=BG12 environment= server=webpush":                   7,
		"heartline_push_in_flight app=BG12 environment= server=webpush":               5,
		"heartline_pushes_total app=BG12 environment= server=webpush":                 10,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s: got %v (present: %v), want %v; all: %v", key, v, ok, want, got)
		}
	}
}

type clusterCollector struct{}

func (clusterCollector) Describe(chan<- *prometheus.Desc) {}
func (clusterCollector) Collect(ch chan<- prometheus.Metric) {
	clusterFigures(scrape{ch}, cluster.Status{}, 0)
}

// A node that was never fenced off says so: an alert asks for the increase from 0.
func TestClusterCountersAtTheStart(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(clusterCollector{})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "heartline_cluster_fenced_total" {
			return
		}
	}
	t.Errorf("no heartline_cluster_fenced_total in %v", families)
}

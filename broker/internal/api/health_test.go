package api_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/delivery"
)

func TestHealth(t *testing.T) {
	var notReady error
	s := serve(t, func(o *api.Options, _ *delivery.Options) {
		o.Ready = func() overview.Readiness {
			return overview.Readiness{Checks: map[string]string{"store": "recovering", "lease": "renewed"}, Faults: []string{"store"}, Err: notReady}
		}
	})
	if r := s.do("GET", "/healthz", ""); r.StatusCode != 200 || r.text != `{"status":"ok","version":"1.2.3"}`+"\n" {
		t.Error(r.text)
	}
	if r := s.do("GET", "/readyz", ""); r.StatusCode != 200 || r.text != `{"status":"ok","checks":{"lease":"renewed","store":"recovering"},"faults":["store"]}`+"\n" {
		t.Error(r.text)
	}
	notReady = errors.New("the store is recovering")
	r := s.do("GET", "/readyz", "")
	s.wantProblem(r, 503, "not ready: the store is recovering")
	if !strings.Contains(r.text, `"checks":{"lease":"renewed","store":"recovering"},"faults":["store"]`) {
		t.Error(r.text)
	}
}

func TestMetrics(t *testing.T) {
	s := serve(t)
	s.metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "heartline_other_part", Help: "x"}, func() float64 { return 7 }))
	if got := s.metric(`heartline_events_total{event="superseded"}`); got != "0" {
		t.Errorf("a kind that has not been seen yet: %q", got)
	}
	s.online("alice", "phone")
	e := s.stream("")
	body := `{"account":"alice","title":"x","id":"one"}`
	s.want(s.do("POST", "/v1/notifications", body), 202, nil)
	s.want(s.do("POST", "/v1/notifications", body), 200, nil)
	s.wantProblem(s.do("POST", "/v1/notifications", "{"), 422, "")
	e.want("one alice accepted", "one alice published phone", "one alice received phone")
	for name, want := range map[string]string{
		`heartline_events_total{event="accepted"}`:                                            "1",
		`heartline_events_total{event="received"}`:                                            "1",
		`heartline_ack_seconds_count{ack="received"}`:                                         "1",
		`heartline_ack_seconds_bucket{ack="received",le="10"}`:                                "1",
		`heartline_http_accept_seconds_count`:                                                 "1",
		`heartline_http_repeats_total`:                                                        "1",
		`heartline_http_requests_total{method="POST",route="/v1/notifications",status="202"}`: "1",
		`heartline_http_requests_total{method="POST",route="/v1/notifications",status="422"}`: "1",
		`heartline_http_request_seconds_count{method="POST",route="/v1/notifications"}`:       "3",
		`heartline_other_part`:                                                                "7",
	} {
		if got := s.metric(name); got != want {
			t.Errorf("%s: %q, want %s", name, got, want)
		}
	}
	if n, err := strconv.Atoi(s.metric("go_goroutines")); err != nil || n < 1 {
		t.Error(n, err)
	}
	// A path that anyone may make up is no label.
	s.do("GET", "/v1/notifications/made-up", "")
	s.do("GET", "/nothing-here", "")
	if r := s.do("GET", "/metrics", ""); strings.Contains(r.text, "made-up") || strings.Contains(r.text, "nothing-here") {
		t.Error("a path in a label")
	}
}

package api_test

import (
	"bufio"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/delivery"
)

func withOverview(t *testing.T) (*service, *overview.Overview) {
	t.Helper()
	var o *overview.Overview
	s := serve(t, func(opts *api.Options, _ *delivery.Options) {
		o = overview.New(overview.Options{
			Gatherer: opts.Metrics.Gatherer(), Version: "1.2.3", Logger: slog.New(slog.DiscardHandler),
			Node:  func() string { return "" },
			Ready: func() overview.Readiness { return overview.Readiness{Checks: map[string]string{"store": "up"}} },
			ID:    func(delivery.Seq) (string, error) { return "n1", nil },
		})
		opts.Overview = o
	})
	t.Cleanup(o.Stop)
	o.Start()
	return s, o
}

// TestOverviewIsForAll: a service for some accounts does not see the others' events.
func TestOverviewIsForAll(t *testing.T) {
	s := serve(t, withTokens, func(o *api.Options, _ *delivery.Options) { o.Overview = overview.New(overview.Options{}) })
	for _, path := range []string{"/v1/overview", "/v1/overview/stream"} {
		s.wantProblem(s.do("GET", path, "", "Authorization", "Bearer shop"), 403, "these credentials are for some accounts only; this call is of all")
	}
	s.device("alice", "phone")
	if r := s.do("GET", "/v1/search?q=phone", "", "Authorization", "Bearer shop"); r.text != "{}\n" {
		t.Error(r.text)
	}
}

// TestOverview: its numbers are those of /metrics.
func TestOverview(t *testing.T) {
	s, _ := withOverview(t)
	s.device("alice", "phone")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"n1"}`), 202, nil)
	var p overview.Page
	s.want(s.do("GET", "/v1/overview", ""), 200, &p)
	accepted := -1.0
	for _, m := range p.Metrics {
		if m.Name == "heartline_events_total" && m.Labels["event"] == "accepted" {
			accepted = m.Value
		}
	}
	if accepted != 1 || !strings.Contains(s.do("GET", "/metrics", "").text, "heartline_events_total{event=\"accepted\"} 1\n") {
		t.Errorf("accepted: %v", accepted)
	}
	if p.Version != "1.2.3" || !p.Ready || len(p.History.Series["accepted"]) != len(p.History.Time) {
		t.Errorf("%+v", p)
	}
}

func TestOverviewStream(t *testing.T) {
	s, o := withOverview(t)
	r, err := http.Get(s.server.URL + "/v1/overview/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	if r.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(r.Header)
	}
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 1<<20)
	next := func() (n overview.Page, open bool) {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &n); err != nil {
					t.Fatal(err)
				}
				return n, true
			}
		}
		return n, false
	}
	if n, open := next(); !open || n.Version != "1.2.3" || n.History.Interval != 10 {
		t.Fatalf("the stream begins with %+v, open: %v", n, open)
	}
	if n, open := next(); !open || n.Version != "1.2.3" || n.History.Interval != 0 {
		t.Fatalf("the stream goes on with %+v, open: %v", n, open)
	}
	o.Observe("alice", delivery.Event{Kind: delivery.EventAccepted})
	for {
		n, open := next()
		if !open {
			t.Fatal("the stream ended")
		}
		if len(n.Events) > 0 {
			if n.Events[0].ID != "n1" || n.Events[0].Account != "alice" || n.Events[0].Event != "accepted" {
				t.Errorf("%+v", n.Events[0])
			}
			break
		}
	}
	o.Stop()
	for open := true; open; {
		_, open = next()
	}
}

func TestSearch(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	s.device("phone", "alice") // an account with the name of a device, and the reverse
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"n1"}`), 202, nil)
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"alice"}`), 202, nil)
	for q, want := range map[string]string{
		"n1":      `{"notification":"n1"}`,
		"alice":   `{"notification":"alice","device":{"account":"phone","device":"alice"},"account":"alice"}`,
		"phone":   `{"device":{"account":"alice","device":"phone"},"account":"phone"}`,
		"nothing": `{}`,
		"%2B%2F":  `{}`,
	} {
		if r := s.do("GET", "/v1/search?q="+q, ""); r.StatusCode != 200 || strings.TrimSpace(r.text) != want {
			t.Errorf("%s: %d %s, want %s", q, r.StatusCode, r.text, want)
		}
	}
	s.want(s.do("GET", "/v1/search", ""), 422, nil)
	s.want(s.do("GET", "/v1/search?q="+strings.Repeat("a", 129), ""), 422, nil)
}

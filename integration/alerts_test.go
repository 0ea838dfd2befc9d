package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestAlertRules: each rule asks for metrics that there are, and says what to do.
// promtool checks the expressions where it is installed.
func TestAlertRules(t *testing.T) {
	const file = "../deploy/prometheus/alerts.yaml"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	_, env := apple(t)
	s := serve(t, env...)
	s.register("alice", "phone", deviceToken(1))
	_, metrics := s.call(http.MethodGet, "/metrics", "")
	// These show themselves only when there is something to count.
	optional := []string{"heartline_push_certificate_expiry_timestamp_seconds", "heartline_tls_certificate_expiry_timestamp_seconds", "heartline_mqtt_panics_total", "heartline_xmpp_link_up",
		"heartline_cluster_lease_age_seconds", "heartline_cluster_fenced_total", "heartline_cluster_partitions_unserved", "heartline_cluster_relay_up"}
	var code strings.Builder
	sources(t, func(path, text string) {
		if !strings.HasSuffix(path, "_test.go") {
			code.WriteString(text)
		}
	})
	n := 0
	for _, r := range rules.Groups[0].Rules {
		n++
		if r.Annotations["summary"] == "" || r.Annotations["action"] == "" {
			t.Errorf("%s: no summary or no action", r.Alert)
		}
		for _, name := range regexp.MustCompile(`heartline_\w+`).FindAllString(r.Expr, -1) {
			source := string(metrics)
			for _, o := range optional {
				if name == o {
					source = code.String()
				}
			}
			if source != string(metrics) {
				name = strings.TrimPrefix(name, "heartline_") // as the code has it
			}
			if !strings.Contains(source, name) {
				t.Errorf("%s: there is no metric %s", r.Alert, name)
			}
		}
	}
	if n < 8 {
		t.Errorf("only %d rules", n)
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	}
}

// TestGrafanaDashboard: its queries are valid and name metrics that exist.
func TestGrafanaDashboard(t *testing.T) {
	text, err := os.ReadFile("../deploy/grafana/heartline.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []rule
	ids := map[int]bool{}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".+", "$instance", ".+")
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("%s: a second panel has the ID %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type == "timeseries" && len(p.Targets) == 0 {
			t.Errorf("%s has no query", p.Title)
		}
		for _, q := range p.Targets {
			rules = append(rules, rule{"q" + strconv.Itoa(len(rules)), variables.Replace(q.Expr)})
			for _, name := range regexp.MustCompile(`heartline_\w+`).FindAllString(q.Expr, -1) {
				if !strings.Contains(string(page), "`"+strings.TrimSuffix(name, "_bucket")+"`") {
					t.Errorf("%s: docs/metrics.md has no metric %s", p.Title, name)
				}
			}
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		return
	}
	out, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

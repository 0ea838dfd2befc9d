package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

const alertFile = "../deploy/prometheus/alerts.yaml"

type alertRule struct {
	Alert, Expr string
	Annotations map[string]string
}

func alertRules(t *testing.T) []alertRule {
	t.Helper()
	text, err := os.ReadFile(alertFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []alertRule }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var rules []alertRule
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

// TestAlertRules: each rule asks for metrics that there are, and says what to do.
func TestAlertRules(t *testing.T) {
	_, env := apple(t)
	s := serve(t, env...)
	s.register("alice", "phone", deviceToken(1))
	_, metrics := s.call(http.MethodGet, "/metrics", "")
	// These show themselves only when there is something to count.
	optional := []string{"heartline_push_certificate_expiry_timestamp_seconds", "heartline_tls_certificate_expiry_timestamp_seconds", "heartline_tls_revocations_expiry_timestamp_seconds", "heartline_xmpp_link_up",
		"heartline_cluster_lease_age_seconds", "heartline_cluster_lease_seconds", "heartline_cluster_fenced_total", "heartline_cluster_partitions_unserved", "heartline_cluster_relay_up"}
	var code strings.Builder
	sources(t, func(path, text string) {
		if !strings.HasSuffix(path, "_test.go") {
			code.WriteString(text)
		}
	})
	n := 0
	for _, r := range alertRules(t) {
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
	runPromtool(t, "check", alertFile)
}

// TestAlertsAtTheFirst: an alert that asks for an increase fires for the first event of a
// server. Each series that it reads is therefore in the first scrape, at 0.
func TestAlertsAtTheFirst(t *testing.T) {
	_, metrics := serve(t).call(http.MethodGet, "/metrics", "")
	// A node has its own series once it has joined: a test of the broker asks for it.
	first := string(metrics) + "heartline_cluster_fenced_total 0\n"
	var tests []any
	for _, r := range alertRules(t) {
		counter := regexp.MustCompile(`^increase\((\w+)\[\w+\]\) > 0$`).FindStringSubmatch(r.Expr)
		if counter == nil {
			if strings.Contains(r.Expr, "increase(") {
				t.Errorf("%s: this test does not understand %s", r.Alert, r.Expr)
			}
			continue
		}
		series := regexp.MustCompile(`(?m)^`+counter[1]+`(?:\{(.*)\})? 0$`).FindAllStringSubmatch(first, -1)
		if len(series) == 0 {
			t.Errorf("%s: the first scrape has no %s at 0", r.Alert, counter[1])
		}
		for _, s := range series {
			labels := map[string]string{}
			for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(s[1], -1) {
				labels[l[1]] = l[2]
			}
			tests = append(tests, map[string]any{
				"interval":     "1m",
				"input_series": []any{map[string]any{"series": strings.TrimSuffix(s[0], " 0"), "values": "0x5 1x30"}},
				"alert_rule_test": []any{
					map[string]any{"alertname": r.Alert, "eval_time": "5m"},
					map[string]any{"alertname": r.Alert, "eval_time": "7m", "exp_alerts": []any{map[string]any{"exp_labels": labels, "exp_annotations": r.Annotations}}},
				},
			})
		}
	}
	if len(tests) < 3 {
		t.Errorf("only %d series were found", len(tests))
	}
	path, err := filepath.Abs(alertFile)
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, "test", map[string]any{"rule_files": []string{path}, "evaluation_interval": "1m", "tests": tests})
}

// TestAlertsFire: the alerts fire for a server that is down, a disk that is full to the last byte
// and a lease that is not renewed, but not for a longer lease or for another program's target.
func TestAlertsFire(t *testing.T) {
	type m = map[string]any
	annotations := map[string]map[string]string{}
	for _, r := range alertRules(t) {
		annotations[r.Alert] = r.Annotations
	}
	series := func(name, values string) m { return m{"series": name, "values": values} }
	fires := func(name, instance string) m {
		texts := map[string]string{}
		for key, text := range annotations[name] {
			texts[key] = strings.ReplaceAll(text, "{{ $labels.instance }}", instance)
		}
		return m{"exp_labels": m{"job": "h", "instance": instance}, "exp_annotations": texts}
	}
	at := func(name, time string, expected ...m) m {
		return m{"alertname": name, "eval_time": time, "exp_alerts": expected}
	}
	const where = `{job="h",instance="a:8080"}`
	path, err := filepath.Abs(alertFile)
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, "test", m{"rule_files": []string{path}, "evaluation_interval": "15s", "tests": []m{
		{"interval": "15s", "input_series": []m{
			series("up"+where, "1x4 0x20"),
			series(`heartline_build_info{job="h",instance="a:8080",version="0.1.0",go="go1.26"}`, "1x4 stale"),
			series(`up{job="h",instance="other:9100"}`, "0x30"),
		}, "alert_rule_test": []m{at("HeartlineDown", "1m"), at("HeartlineDown", "4m", fires("HeartlineDown", "a:8080"))}},
		{"interval": "1m", "input_series": []m{
			series("heartline_store_free_bytes"+where, "9000000000x2 1000000x2 0x30"),
			series(`heartline_store_free_bytes{job="h",instance="database:8080"}`, "0x40"),
		}, "alert_rule_test": []m{at("HeartlineDiskFillsUp", "2m"), at("HeartlineDiskFillsUp", "30m", fires("HeartlineDiskFillsUp", "a:8080"))}},
		{"interval": "15s", "input_series": []m{
			series("heartline_cluster_lease_seconds"+where, "5x60"),
			series("heartline_cluster_lease_age_seconds"+where, "0.4x8 3x8"),
			series(`heartline_cluster_lease_seconds{job="h",instance="b:8080"}`, "60x60"), // renewed every 6 s
			series(`heartline_cluster_lease_age_seconds{job="h",instance="b:8080"}`, "5.5x60"),
		}, "alert_rule_test": []m{at("HeartlineLeaseNotRenewed", "2m"), at("HeartlineLeaseNotRenewed", "3m30s", fires("HeartlineLeaseNotRenewed", "a:8080"))}},
	}})
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
	type sample struct {
		Labels string  `yaml:"labels"`
		Value  float64 `yaml:"value"`
	}
	type query struct {
		Expr    string   `yaml:"expr"`
		Samples []sample `yaml:"exp_samples"`
	}
	var nodes []any
	for _, name := range wholeStore {
		for _, node := range []string{"a", "b", "c"} {
			nodes = append(nodes, map[string]any{"series": name + `{job="heartline",instance="` + node + `"}`, "values": "5"})
		}
	}
	var whole []query
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
			expr := variables.Replace(q.Expr)
			rules = append(rules, rule{"q" + strconv.Itoa(len(rules)), expr})
			for _, name := range regexp.MustCompile(`heartline_\w+`).FindAllString(q.Expr, -1) {
				if slices.Contains(wholeStore, name) {
					whole = append(whole, query{expr, []sample{{"{}", 5}}})
					if !strings.Contains(q.Expr, "max") {
						t.Errorf("%s: each node reports %s for the whole database: %s", p.Title, name, q.Expr)
					}
				}
				if !strings.Contains(string(page), "`"+strings.TrimSuffix(name, "_bucket")+"`") {
					t.Errorf("%s: docs/metrics.md has no metric %s", p.Title, name)
				}
			}
		}
	}
	if len(whole) < 4 {
		t.Errorf("only %d queries of the whole database", len(whole))
	}
	promtool(t, "check", map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	// Three nodes that report 5 for one database are shown as 5.
	promtool(t, "test", map[string]any{"tests": []any{map[string]any{"interval": "1m", "input_series": nodes, "promql_expr_test": whole}}})
}

// promtool has it check rules, or play a test of rules, where it is installed.
func promtool(t *testing.T, act string, rules any) {
	t.Helper()
	text, err := yaml.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), act+".yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	runPromtool(t, act, file)
}

// runPromtool is a test of its own: all else is checked without promtool, too.
func runPromtool(t *testing.T, act, file string) {
	t.Helper()
	t.Run("promtool "+act, func(t *testing.T) {
		program, err := exec.LookPath("promtool")
		if err != nil {
			testtool.LeaveOut(t, "promtool is missing", "apt-get install prometheus")
		}
		if out, err := exec.Command(program, act, "rules", file).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

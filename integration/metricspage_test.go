package integration

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var updateMetrics = flag.Bool("update", false, "write docs/metrics.md again")

// wholeStore are the metrics that each node over a PostgreSQL reports for the whole
// database: their sum over the nodes has no meaning.
var wholeStore = []string{
	"heartline_deliveries_outstanding", "heartline_deliveries_waiting", "heartline_oldest_waiting_seconds", "heartline_devices_known",
	"heartline_unaccounted", "heartline_deliveries_accepted_total", "heartline_deliveries_finished_total", "heartline_deliveries_unfinished",
	"heartline_store_standby_away", "heartline_store_standbys_attached", "heartline_store_standbys_wanted",
	"heartline_mqtt_retained", "heartline_mqtt_retained_bytes",
}

// TestMetricsPage: docs/metrics.md lists every metric of the code, with the alert that
// says what to do. -update writes it again.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	const file = "../docs/metrics.md"
	actions := alertActions(t)
	collected := regexp.MustCompile(`\b(gauge|counter)\(\s*"([a-z0-9_]+)",\s*("(?:[^"\\]|\\.)*")`)
	made := regexp.MustCompile(`prometheus\.(Counter|Gauge|Histogram)Opts\{\s*Name:\s*"heartline_([a-z0-9_]+)",\s*Help:\s*("(?:[^"\\]|\\.)*")`)
	lines := map[string]string{}
	sources(t, func(path, text string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, found := range append(collected.FindAllStringSubmatch(text, -1), made.FindAllStringSubmatch(text, -1)...) {
			help, err := strconv.Unquote(found[3])
			if err != nil || !strings.HasSuffix(help, ".") {
				t.Errorf("%s: the help is no sentence: %s", found[2], found[3])
			}
			name := "heartline_" + found[2]
			lines[name] = fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", name, strings.ToLower(found[1]), unit(name), strings.ReplaceAll(help, "|", `\|`), actions[name])
		}
	})
	if len(lines) < 60 {
		t.Errorf("only %d metrics were found", len(lines))
	}
	var page strings.Builder
	page.WriteString("# Metrics\n\nMade from the code: `go test ./integration -run TestMetricsPage -update`. No label holds an\n" +
		"account or a device. Each action is that of an alert in\n[deploy/prometheus/alerts.yaml](../deploy/prometheus/alerts.yaml). The metrics of the Go\nruntime and the process are there, too.\n\n" +
		"Several nodes over one PostgreSQL have the metrics of the whole database in common. Scrape the\nnodes as one job, and take the maximum over them, not the sum: `max by (job) (…)`. One node\naudits: the figures of an audit are 0 at the others, or those of their own last one. These metrics are:\n\n")
	for _, name := range wholeStore {
		if lines[name] == "" {
			t.Errorf("there is no metric %s", name)
		}
		page.WriteString("- `" + name + "`\n")
	}
	page.WriteString("\n" +
		"| metric | type | unit | meaning | alert: action |\n| --- | --- | --- | --- | --- |\n")
	names := make([]string, 0, len(lines))
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		page.WriteString(lines[name])
	}
	if *updateMetrics {
		if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != page.String() {
		t.Errorf("%s does not say what the code does (error %v): -update writes it again", file, err)
	}
}

func unit(name string) string {
	for _, u := range []string{"timestamp_seconds", "seconds", "bytes"} {
		if strings.HasSuffix(strings.TrimSuffix(name, "_total"), u) {
			return map[string]string{"timestamp_seconds": "Unix time in s", "seconds": "s", "bytes": "bytes"}[u]
		}
	}
	return "number"
}

// alertActions are the actions of the alerts, by metric.
func alertActions(t *testing.T) map[string]string {
	t.Helper()
	actions := map[string]string{}
	for _, r := range alertRules(t) {
		for _, name := range regexp.MustCompile(`heartline_\w+`).FindAllString(r.Expr, -1) {
			actions[name] = r.Alert + ": " + strings.TrimSpace(r.Annotations["action"])
		}
	}
	return actions
}

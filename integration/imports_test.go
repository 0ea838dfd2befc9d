package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/heartline-mqtt/heartline"

// arrows are the layout, a line a package: the packages of ours that it may import. A line with
// /... speaks for everything below it that has no line of its own. They point down
// only; a package that is not here is to be given its place first.
func arrows() [][]string {
	return [][]string{
		{".", "cmd"},
		{"cmd", "auth", "bench", "broker", "config", "demo", "fallback/apnssim", "fallback/fcmsim", "fallback/webpushsim", "internal/credentials", "internal/pgkit", "internal/simkit", "terminal", "wire", "xmpp"},
		{"bench", "internal/procstat"},
		{"bench/outstanding", "delivery", "internal/rawmqtt", "store", "store/pebblestore"},
		{"bench/nodes", "bench", "broker", "cluster", "config", "internal/pgkit", "internal/procstat"},
		{"bench/dashboard", "bench", "delivery", "store/pebblestore"},
		{"bench/services", "broker", "config", "delivery", "fallback/webpushsim", "internal/credentials"},
		{"bench/receipts", "broker", "config", "delivery", "internal/rawmqtt"},
		{"bench/storm", "broker", "config", "delivery", "fallback/apnssim", "internal/rawmqtt"},
		{"bench/xmpp", "broker", "config", "delivery", "internal/rawmqtt", "xmpp", "xmpp/xmppkit"},
		{"demo", "broker", "config", "delivery", "fallback/apnssim", "fallback/fcmsim", "fallback/webpushsim", "internal/child", "internal/credentials", "internal/pgkit", "internal/rawmqtt", "wire", "xmpp", "xmpp/xmppkit"},
		{"examples/fleet", "wire"},
		{"examples/plugin", "broker", "delivery"},
		{"terminal", "delivery", "internal/backoff", "wire"},
		{"broker", "auth", "broker/internal/...", "cluster", "cluster/relay", "config", "delivery", "fallback", "fallback/apns", "fallback/fcm", "fallback/webpush", "hooks", "hooks/ordinary", "hooks/persist", "hooks/strict", "internal/filewatch", "internal/credentials", "internal/newcomers", "internal/rlimit", "internal/seldom", "internal/text", "receipts", "store", "store/memory", "store/pebblestore", "store/pgstore", "xmpp"},
		{"broker/internal/api", "auth", "broker/internal/metrics", "broker/internal/overview", "delivery", "internal/loopback", "internal/seldom", "internal/text", "receipts", "wire"},
		{"broker/internal/metrics", "delivery"},
		{"broker/internal/overview", "delivery", "wire"},
		{"broker/internal/listener", "hooks/strict", "internal/hosts", "internal/rlimit", "internal/seldom", "internal/workers"},
		{"broker/internal/web"},
		{"hooks", "auth", "delivery", "hooks/ordinary", "internal/newcomers", "internal/seldom", "internal/text", "internal/workers", "wire"},
		{"hooks/strict"},
		{"hooks/ordinary"},
		{"hooks/persist", "hooks/ordinary", "internal/seldom", "store"},
		{"fallback", "delivery", "internal/backoff"},
		{"fallback/apns", "delivery", "fallback", "fallback/payload", "internal/backoff", "internal/h2pool"},
		{"fallback/payload", "delivery", "fallback"},
		{"fallback/fcm", "delivery", "fallback", "fallback/payload", "internal/backoff", "internal/credentials", "internal/h2pool"},
		{"fallback/webpush", "delivery", "fallback", "fallback/payload", "internal/backoff", "internal/credentials", "internal/h2pool", "internal/hosts"},
		{"fallback/apnssim", "internal/simkit"},
		{"fallback/fcmsim", "internal/simkit"},
		{"fallback/webpushsim", "internal/simkit"},
		{"fallback/fallbacktest", "delivery", "fallback"},
		{"wire", "delivery", "internal/text"},
		{"xmpp", "delivery", "internal/backoff", "internal/newcomers", "internal/seldom", "internal/text", "wire"},
		{"xmpp/xmpptest"},
		{"xmpp/xmppkit"},
		{"auth", "config", "internal/filewatch", "internal/h2pool"},
		{"cluster", "cluster/relay", "delivery", "internal/seldom", "store"},
		{"cluster/relay", "delivery", "internal/backoff", "store/codec"},
		{"delivery"},
		{"store", "delivery"},
		{"store/...", "delivery", "store"},
		{"store/pebblestore", "delivery", "store", "store/codec", "store/journal"},
		{"store/journal", "delivery", "store", "store/codec"},
		{"store/pgstore", "delivery", "store", "store/codec"},
		{"store/codec", "delivery"},
		{"receipts", "delivery", "internal/backoff", "internal/h2pool", "internal/seldom", "internal/text", "store", "wire"},
		{"config", "internal/credentials", "internal/hosts", "internal/loopback"},
		{"internal/..."},
		{"internal/h2pool", "internal/backoff"},
		{"internal/pgkit", "internal/child", "internal/procstat"},
		{"internal/testtool", "internal/pgkit"},
		{"internal/newcomers", "delivery"},
		{"integration", "..."},
		{"integration/faults", "delivery", "store/pebblestore", "fallback/apnssim", "fallback/fcmsim", "fallback/webpushsim", "internal/credentials", "internal/rawmqtt", "internal/smalldisk", "wire"},
		{"integration/...", "..."},
	}
}

// owners are who may import what of others: the parts that surprise are kept where
// their surprises are known. A line with ! forbids.
func owners() [][]string {
	return [][]string{
		{"github.com/mochi-mqtt/server", "hooks", "hooks/strict", "broker", "broker/internal/listener", "bench/...", "demo", "examples/plugin", "internal/rawmqtt", "integration", "integration/..."},
		{"github.com/sideshow/apns2", "fallback/apns", "bench/storm"},
		{"software.sslmate.com/src/go-pkcs12", "fallback/apns"},
		{"github.com/cockroachdb/pebble", "store/journal", "store/pebblestore"},
		{"github.com/jackc/pgx", "config", "store/pgstore"},
		{"github.com/fxamacker/cbor", "cluster/relay"},
		{"github.com/spf13/viper", "config"},
		{"github.com/spf13/cobra", "cmd"},
		{"github.com/danielgtaylor/huma", "broker/internal/api"},
		// The core knows no packet, no HTTP and no disk.
		{"net", "!delivery"},
		{"os", "!delivery"},
		{"io/fs", "!delivery"},
	}
}

// listed is a package as `go list` tells of it.
type listed struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// short is a path without the module; "." is its top.
func short(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

// covers reports whether a pattern of the tables means a package.
func covers(pattern, pkg string) bool {
	prefix, tree := strings.CutSuffix(pattern, "...")
	if !tree {
		return pkg == pattern
	}
	return strings.HasPrefix(pkg+"/", prefix)
}

// line finds the line of a package: its own, or the nearest above it.
func line(table [][]string, pkg string) []string {
	var best []string
	for _, l := range table {
		if l[0] == pkg {
			return l
		}
		if covers(l[0], pkg) && (best == nil || len(l[0]) > len(best[0])) {
			best = l
		}
	}
	return best
}

// TestImports looks at the packages themselves, not at their tests: those may use
// what their subject may not.
func TestImports(t *testing.T) {
	all := packages(t)
	if len(all) < 10 {
		t.Fatalf("only %d packages found", len(all))
	}
	for _, p := range all {
		pkg, _ := short(p.ImportPath)
		l := line(arrows(), pkg)
		if l == nil {
			t.Errorf("%s has no line in the layout: give it one, with what it may import", pkg)
			continue
		}
		for _, imported := range p.Imports {
			ours, ok := short(imported)
			if !ok {
				checkOwner(t, pkg, imported)
				continue
			}
			if !slices.ContainsFunc(l[1:], func(pattern string) bool { return covers(pattern, ours) }) {
				t.Errorf("%s may not import %s", pkg, ours)
			}
		}
	}
}

func checkOwner(t *testing.T, pkg, imported string) {
	t.Helper()
	for _, o := range owners() {
		if imported != o[0] && !strings.HasPrefix(imported, o[0]+"/") {
			continue
		}
		allowed := strings.HasPrefix(o[1], "!")
		for _, pattern := range o[1:] {
			if forbidden, isNot := strings.CutPrefix(pattern, "!"); isNot && covers(forbidden, pkg) {
				t.Errorf("%s may not import %s", pkg, imported)
			}
			allowed = allowed || covers(pattern, pkg)
		}
		if !allowed {
			t.Errorf("%s may not import %s, which is for %s", pkg, imported, strings.Join(o[1:], ", "))
		}
	}
}

// TestLayoutIsOneOfThePackages: a line that speaks for nothing hides a mistake in
// its name. Folders that are still to come are named here.
func TestLayoutIsOneOfThePackages(t *testing.T) {
	all := packages(t)
	for _, l := range arrows() {
		if slices.Contains([]string{"broker/internal/web", "integration"}, l[0]) {
			continue
		}
		if !slices.ContainsFunc(all, func(p listed) bool { pkg, _ := short(p.ImportPath); return covers(l[0], pkg) }) {
			t.Errorf("no package is %s", l[0])
		}
	}
}

// TestLayoutHasNoSpareArrow: an arrow that nobody uses invites an import that the
// layout does not want.
func TestLayoutHasNoSpareArrow(t *testing.T) {
	all := packages(t)
	for _, l := range arrows() {
		if strings.HasPrefix(l[0], "integration") {
			continue // tests may use everything
		}
		for _, pattern := range l[1:] {
			if !slices.ContainsFunc(all, func(p listed) bool {
				pkg, _ := short(p.ImportPath)
				return line(arrows(), pkg)[0] == l[0] && slices.ContainsFunc(p.Imports, func(imported string) bool {
					ours, ok := short(imported)
					return ok && covers(pattern, ours)
				})
			}) {
				t.Errorf("%s may import %s, which it does not: take the arrow out", l[0], pattern)
			}
		}
	}
}

// TestRulesWork: the rules find the faults they are for.
func TestRulesWork(t *testing.T) {
	for _, tt := range []struct {
		pattern, pkg string
		want         bool
	}{
		{"hooks", "hooks", true},
		{"hooks", "hooks/strict", false},
		{"hooks/...", "hooks", true},
		{"hooks/...", "hooks/strict", true},
		{"hooks/...", "hooksaw", false},
		{"...", "anything/at/all", true},
	} {
		if got := covers(tt.pattern, tt.pkg); got != tt.want {
			t.Errorf("%s covers %s: %v", tt.pattern, tt.pkg, got)
		}
	}
	for _, pair := range [][2]string{{"hooks", "fallback"}, {"fallback", "hooks"}, {"xmpp", "hooks"}, {"xmpp", "fallback"}, {"hooks", "xmpp"}, {"delivery", "hooks"}, {"delivery", "wire"}, {"config", "delivery"}, {"broker/internal/api", "hooks"}, {"cmd", "delivery"}} {
		l := line(arrows(), pair[0])
		if slices.ContainsFunc(l[1:], func(pattern string) bool { return covers(pattern, pair[1]) }) {
			t.Errorf("%s may import %s", pair[0], pair[1])
		}
	}
}

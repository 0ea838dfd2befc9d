package integration

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// noExample are the public packages without a runnable example, each with the reason.
var noExample = map[string]string{
	"cluster":               "joins several Cores, which package store makes no example of",
	"cluster/relay":         "joins Routers of package cluster",
	"cmd":                   "the commands of the program",
	"delivery":              "shown by the example of store, which it cannot import",
	"demo":                  "the command demo",
	"fallback/apnssim":      "shown by the example of fallback/apns",
	"fallback/fallbacktest": "tests for implementations of fallback.Pusher",
	"fallback/payload":      "parts for the packages of the notification servers",
	"hooks":                 "assembled by broker.Attach",
	"hooks/ordinary":        "assembled by broker.Attach",
	"hooks/persist":         "assembled by broker.Attach",
	"store/codec":           "the format of the engines",
	"store/journal":         "the log of an engine",
	"store/memory":          "shown by the example of store",
	"store/storetest":       "tests for implementations of store.Engine",
	"xmpp/xmppkit":          "shared by the tests and the simulators of XMPP",
	"xmpp/xmpptest":         "an XMPP client for tests",
}

// TestLayoutExamples: each public package has a runnable example, or a line above.
func TestLayoutExamples(t *testing.T) {
	example := regexp.MustCompile(`(?m)^func Example`)
	library := regexp.MustCompile(`(?m)^package (\w+)`)
	packages, shown := map[string]bool{}, map[string]bool{}
	sources(t, func(name, text string) {
		dir := path.Dir(name)
		m := library.FindStringSubmatch(text)
		switch {
		case m == nil, dir == ".", strings.Contains(dir, "internal"), strings.Contains(dir, "testdata"), strings.HasPrefix(dir, "integration"):
		case strings.HasSuffix(name, "_test.go"):
			shown[dir] = shown[dir] || example.MatchString(text)
		case m[1] != "main":
			packages[dir] = true
		}
	})
	for dir := range packages {
		switch {
		case !shown[dir] && noExample[dir] == "":
			t.Errorf("%s has no runnable example: write one, or give the reason in noExample", dir)
		case shown[dir] && noExample[dir] != "":
			t.Errorf("%s has an example: remove its line from noExample", dir)
		}
	}
	for dir := range noExample {
		if !packages[dir] {
			t.Errorf("noExample names %s, which is no public package", dir)
		}
	}
	if len(packages) < 20 {
		t.Errorf("only %d packages found", len(packages))
	}
}

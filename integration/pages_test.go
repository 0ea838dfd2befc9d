package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/broker"
)

// TestArchitecturePage: the files that docs/architecture.md names exist.
func TestArchitecturePage(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`([a-z/]+/[a-z_]+(?:\\.go)?)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 15 {
		t.Fatalf("only %d names found", len(names))
	}
	for _, m := range names {
		if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
			t.Errorf("%v", err)
		}
	}
}

// TestDocsIndex: docs/README.md links to each page of docs.
func TestDocsIndex(t *testing.T) {
	index, err := os.ReadFile("../docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for page := range documents(t) {
		if name, is := strings.CutPrefix(page, "docs/"); is && name != "README.md" && !strings.HasPrefix(name, "adr/") && !strings.Contains(string(index), "]("+name+")") {
			t.Errorf("docs/README.md has no link to %s", name)
		}
	}
}

// TestChangelogVersion: the program and the JavaScript client have the newest version of
// CHANGELOG.md. Changes after it are under Unreleased.
func TestChangelogVersion(t *testing.T) {
	page, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(strings.Replace(string(page), "\n## [Unreleased]\n", "\n", 1), "\n## [")
	if version, _, _ := strings.Cut(rest, "]"); version != broker.Version() {
		t.Errorf("the newest version of CHANGELOG.md is %q, the program is %q", version, broker.Version())
	}
	// Go writes +dirty behind a tag if the tree has changes.
	r := heartline(t, nil, "version")
	if first, _, _ := strings.Cut(r.out, "\n"); strings.TrimSuffix(strings.Fields(first + " -")[1], "+dirty") != broker.Version() {
		t.Errorf("heartline version says %q", r.out)
	}
	manifest, err := os.ReadFile(filepath.Join(clientPackage, "package.json"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `"version": "` + broker.Version() + `"`; !strings.Contains(string(manifest), want) {
		t.Errorf("the package.json of the JavaScript client has no %s", want)
	}
}

package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// bannedBound is how many comment lines may have one of the banned forms. Lower it
// when you mend some; never raise it.
const bannedBound = 0

// banned are the forms that comments do without: nominal clauses and words that say
// less than the name of the thing.
var banned = regexp.MustCompile(`\b[Ww](hat|ho) (is|was|are|has|have|comes|came|waits|goes|follows|it|they|he)\b|\banew\b|\bbeside\b|\btold of\b|\bsees to it\b|\bgives? way\b`)

// sources calls fn for each Go file of the tree, with its path from the root.
func sources(t *testing.T, fn func(path, text string)) {
	t.Helper()
	root := ".."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "build" || d.Name() == ".git"): // another test may remove build meanwhile
			return filepath.SkipDir
		case filepath.Ext(path) != ".go":
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil {
			fn(strings.TrimPrefix(filepath.ToSlash(path), "../"), string(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLayoutEnglish counts the comment lines with a banned form.
func TestLayoutEnglish(t *testing.T) {
	var found []string
	sources(t, func(path, text string) {
		for line := range strings.Lines(text) {
			if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "//") && banned.MatchString(trimmed) {
				found = append(found, path+": "+trimmed)
			}
		}
	})
	if len(found) > bannedBound {
		t.Errorf("%d comment lines have a form that CONTRIBUTING.md bans, the bound is %d:\n%s", len(found), bannedBound, strings.Join(found, "\n"))
	}
	t.Logf("%d comment lines of at most %d", len(found), bannedBound)
}

// pages are the pages that no banned form is left in.
var pages = []string{
	"../README.md", "../docs/README.md", "../docs/architecture.md", "../docs/backend.md", "../docs/comparison.md",
	"../docs/contract.md", "../docs/install.md", "../docs/operating.md", "../docs/performance.md",
	"../docs/push-content.md", "../docs/siege.md", "../docs/state-machine.md",
}

// message finds the texts of errors and log records.
var message = regexp.MustCompile(`\b(?:Debug|Info|Warn|Error|Errorf|New)\("((?:[^"\\]|\\.)*)"`)

// help finds the descriptions of metrics, of the HTTP API's fields and calls, and of
// commands.
var help = regexp.MustCompile(`(?:\b(?:gauge|counter)\("[a-z_0-9]+", |\b(?:Help|Summary|Short): +|\bdoc:)"((?:[^"\\]|\\.)*)"`)

// TestLayoutEnglishOfUsers: no text that a user reads has a banned form: messages,
// descriptions and pages.
func TestLayoutEnglishOfUsers(t *testing.T) {
	texts := 0
	sources(t, func(path, text string) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "integration/") {
			return
		}
		for _, kind := range []*regexp.Regexp{message, help} {
			for _, m := range kind.FindAllStringSubmatch(text, -1) {
				texts++
				if banned.MatchString(m[1]) {
					t.Errorf("%s: %q has a form that CONTRIBUTING.md bans", path, m[1])
				}
			}
		}
	})
	if texts < 500 {
		t.Errorf("only %d texts found", texts)
	}
	for _, name := range append(pages, adrs(t)...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if banned.MatchString(line) {
				t.Errorf("%s: %q has a form that CONTRIBUTING.md bans", name, strings.TrimSpace(line))
			}
		}
	}
}

func adrs(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("../docs/adr/*.md")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d decisions found: %v", len(names), err)
	}
	return names
}

// cited finds the sections that a text cites: "contract §3", "contract §3 and §5",
// "docs/contract.md §4".
var cited = regexp.MustCompile(`[Cc]ontract(?:\.md)?,? §(\d+)(?:(?:,| and|, and) §(\d+))*`)

var section = regexp.MustCompile(`§(\d+)`)

// TestLayoutContractSections: every section of the contract that the code cites exists.
func TestLayoutContractSections(t *testing.T) {
	page, err := os.ReadFile("../docs/contract.md")
	if err != nil {
		t.Fatal(err)
	}
	exists := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^## (\d+)\. `).FindAllStringSubmatch(string(page), -1) {
		exists[m[1]] = true
	}
	citations := 0
	sources(t, func(path, text string) {
		// A citation may go over the end of a comment line.
		text = regexp.MustCompile(`\n\s*//\s*`).ReplaceAllString(text, " ")
		for _, citation := range cited.FindAllString(text, -1) {
			for _, m := range section.FindAllStringSubmatch(citation, -1) {
				citations++
				if !exists[m[1]] {
					t.Errorf("%s cites §%s, which docs/contract.md does not have", path, m[1])
				}
			}
		}
	})
	if citations < 30 || len(exists) < 8 {
		t.Errorf("%d citations found, and %d sections", citations, len(exists))
	}
}

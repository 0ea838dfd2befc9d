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
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git"):
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

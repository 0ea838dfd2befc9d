package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
	"go.uber.org/goleak"
)

// full asks for a million notifications: `make faults`.
var full = os.Getenv("HEARTLINE_FAULTS") == "full"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFaults is the table: every row, short unless HEARTLINE_FAULTS is full.
func TestFaults(t *testing.T) {
	dir := t.TempDir()
	binary, err := Build(dir, raceEnabled)
	if err != nil {
		t.Fatal(err)
	}
	faulty := sync.OnceValues(func() (string, error) { return BuildFaulty(dir, raceEnabled, full) })

	rows := Rows()
	lines := make([]*Line, len(rows))
	began := time.Now()
	t.Cleanup(func() {
		var ran []Line
		for _, l := range lines {
			if l != nil {
				ran = append(ran, *l)
			}
		}
		var table strings.Builder
		if err := Print(&table, ran); err != nil {
			t.Error(err)
		}
		if full {
			origin, err := Origin(binary, time.Since(began))
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintln(&table, "\n"+origin)
		}
		fmt.Print(table.String())
		if full && len(ran) == len(rows) {
			if err := WritePage("../../docs/faults.md", table.String()); err != nil {
				t.Error(err)
			}
		}
	})
	for i, row := range rows {
		t.Run(row.Name, func(t *testing.T) {
			if !full || !row.Timed {
				t.Parallel()
			}
			if row.Clock && !full {
				t.Skip("all is to be compiled anew for another clock: in the full run (HEARTLINE_FAULTS=full)")
			}
			program := binary
			if row.Faulty {
				var err error
				if program, err = faulty(); err != nil {
					t.Fatal(err)
				}
			}
			line, err := row.Go(t.Context(), program, full, t.Logf)
			if err != nil {
				t.Fatal(err)
			}
			lines[i] = &line
			if line.Skipped != "" {
				testtool.LeaveOut(t, line.Skipped, "root on Linux 5.2 or newer")
			}
			fmt.Printf("%s: %d runs, %d accepted, %d acked, %d wrong, at most %d copies of one notification without an event, in %s\n", line.Name, line.Runs, line.Accepted, line.Acked, line.Bad(), line.MostLost, line.Took.Round(100_000_000))
			for _, n := range line.Notes {
				fmt.Printf("%s: %s\n", line.Name, n)
			}
			slices.Sort(line.Problems)
			for _, p := range line.Problems {
				t.Log(p)
			}
			if n := line.Bad(); n > 0 {
				t.Errorf("%d things are wrong", n)
			}
			if line.Accepted == 0 || row.Shows != nil && row.Shows(line.Result) == 0 {
				t.Error("what the row is about has not happened: it shows nothing")
			}
		})
	}
}

// TestWritePage: the table is put where the page has one, and nothing else changes.
func TestWritePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	if err := Print(&table, []Line{{Row: Row{Name: "a fault"}, Runs: 2, Result: Result{Accepted: 3, Acked: 3}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time instead of the first
		if err := WritePage(file, table.String()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(page), pageBegin)
	_, after, _ := strings.Cut(string(page), pageEnd)
	if want := before + pageBegin + table.String() + pageEnd + after; string(got) != want {
		t.Errorf("the page is now\n%s\nwant\n%s", got, want)
	}
	if !strings.Contains(table.String(), "| a fault | 2 | 3 | 3 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |\n| all | 2 | 3 |") {
		t.Errorf("the table is\n%s", table.String())
	}
	if WritePage(filepath.Join("..", "..", "go.mod"), "") == nil {
		t.Error("a page without a place for the table was written to")
	}
}

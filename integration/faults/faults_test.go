package faults

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// full asks for a million notifications: `make faults`.
var full = os.Getenv("HEARTLINE_FAULTS") == "full"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFaults is the table: every row, short unless HEARTLINE_FAULTS is full.
func TestFaults(t *testing.T) { //nolint:tparallel // nothing else of the package is to run beside the rows
	dir := t.TempDir()
	binary, err := Build(dir, raceEnabled)
	if err != nil {
		t.Fatal(err)
	}
	faulty := sync.OnceValues(func() (string, error) { return BuildFaulty(dir, raceEnabled, full) })

	rows := Rows()
	lines := make([]*Line, len(rows))
	t.Cleanup(func() {
		var ran []Line
		for _, l := range lines {
			if l != nil {
				ran = append(ran, *l)
			}
		}
		if err := Print(os.Stdout, ran); err != nil {
			t.Error(err)
		}
	})
	for i, row := range rows {
		t.Run(row.Name, func(t *testing.T) {
			t.Parallel()
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
				t.Skip(line.Skipped)
			}
			fmt.Printf("%s: %d runs, %d accepted, %d acked, %d wrong, in %s\n", line.Name, line.Runs, line.Accepted, line.Acked, line.Bad(), line.Took.Round(100_000_000))
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

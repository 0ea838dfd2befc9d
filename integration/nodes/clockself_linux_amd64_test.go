package nodes

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// setClock sets the clock of a process by an hour, while it runs too, and leaves the clock
// alone that durations are measured by.
func TestSetClock(t *testing.T) {
	if file := os.Getenv("CLOCK_OF"); file != "" {
		began := time.Now()
		if err := setClock(file); err != nil {
			t.Fatal(err)
		}
		if step := time.Since(began); step > time.Minute {
			t.Errorf("the monotonic clock went on by %v", step)
		}
		t.Log("it is", time.Now().UTC().Format(time.RFC3339))
		if err := os.WriteFile(file, []byte("-1h"), 0o600); err != nil {
			t.Fatal(err)
		}
		for time.Now().Round(0).After(began.Round(0)) {
			time.Sleep(time.Millisecond)
		}
		t.Log("it is", time.Now().UTC().Format(time.RFC3339))
		return
	}
	file := filepath.Join(t.TempDir(), "offset")
	if err := os.WriteFile(file, []byte("1h"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestSetClock$", "-test.v")
	cmd.Env = append(os.Environ(), "CLOCK_OF="+file)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var told []time.Duration
	for line := range strings.Lines(string(out)) {
		if _, at, ok := strings.Cut(line, "it is "); ok {
			v, err := time.Parse(time.RFC3339, strings.TrimSpace(at))
			if err != nil {
				t.Fatal(err)
			}
			told = append(told, v.Sub(began).Round(time.Hour))
		}
	}
	if len(told) != 2 || told[0] != time.Hour || told[1] != -time.Hour {
		t.Errorf("the process's clock was off by %v\n%s", told, out)
	}
}

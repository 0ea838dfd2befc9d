package testtool

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLeaveOut: a missing program skips the test and leaves a line with its name.
func TestLeaveOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "left-out")
	t.Setenv(variable, file)
	reached := false
	t.Run("without", func(t *testing.T) {
		Path(t, "no-such-program", "no-such-package")
		reached = true
	})
	if reached {
		t.Error("the test ran without its program")
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := "TestLeaveOut/without\tno-such-program is missing\tapt-get install no-such-package\n"; string(got) != want {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

// TestPath: a program that is there is found, and nothing is recorded.
func TestPath(t *testing.T) {
	file := filepath.Join(t.TempDir(), "left-out")
	t.Setenv(variable, file)
	if path := Path(t, "go", "golang-go"); path == "" {
		t.Error("no path")
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("something was recorded: %v", err)
	}
}

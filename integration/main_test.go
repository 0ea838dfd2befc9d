// Package integration holds the whole-program tests: the real binary in a process
// of its own, clients that nobody here wrote, kill -9 and mistakes of every kind.
//
// Read main_test.go (the binary), server_test.go (a server in its process, and how
// a test talks to it), tools_test.go (clients of other people), then the tests, a
// file a subject. What takes long has a heavier variant behind HEARTLINE_TEST_HEAVY.
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the program under test. TestMain alone writes it.
var binary string

// heavy asks for the variants that take minutes: `make test-heavy`.
var heavy = os.Getenv("HEARTLINE_TEST_HEAVY") != ""

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "heartline-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // another user runs it, too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(dir, "heartline")
	args := []string{"build", "-o", binary}
	if raceFlag != "" {
		args = append(args, raceFlag)
	}
	build := exec.Command("go", append(args, "..")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

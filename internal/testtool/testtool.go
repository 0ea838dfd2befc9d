// Package testtool finds the programs that tests use beyond Go: other people's clients,
// a browser, Node.js.
//
// A test whose program is missing has shown nothing, so it fails. `make test` is the
// exception: it must pass on a machine with Go, git and make only. It sets
// TESTS_LEFT_OUT to a file; then the test is skipped, and its name, the reason
// and the remedy go into that file, which `make test` prints at its end.
//
// Only tests import this package.
package testtool

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// variable names the file that lists the tests left out.
const variable = "TESTS_LEFT_OUT"

// Path returns the path of a program, or leaves the test out.
func Path(t testing.TB, name, debianPackages string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		LeaveOut(t, name+" is missing", "apt-get install "+debianPackages)
	}
	return path
}

// LeaveOut skips the test and records it where `make test` collects such tests;
// elsewhere the test fails.
func LeaveOut(t testing.TB, why, remedy string) {
	t.Helper()
	file := os.Getenv(variable)
	if file == "" {
		t.Fatalf("%s: %s (make test leaves this test out instead)", why, remedy)
	}
	// The file is inside the module on purpose: go test then never caches the result
	// of a test that was left out.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // other users may read it
	if err == nil {
		_, err = fmt.Fprintf(f, "%s\t%s\t%s\n", t.Name(), why, remedy)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}
	if err != nil {
		t.Fatalf("%s, and recording that failed: %v", why, err)
	}
	t.Skipf("left out: %s: %s", why, remedy)
}

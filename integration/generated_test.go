package integration

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestGeneratedClients generates API clients from /openapi.json of a server without
// authentication, checks their types against programs that use them, and runs those
// against a server with tokens.
func TestGeneratedClients(t *testing.T) {
	t.Parallel()
	npm := tool(t, "npm", "nodejs npm")
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/generated")); err != nil {
		t.Fatal(err)
	}
	trial := serve(t)
	_, document := trial.call(http.MethodGet, "/openapi.json", "")
	if err := os.WriteFile(filepath.Join(dir, "openapi.json"), document, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	run := func(env []string, name string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(nil, npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"); err != nil {
		if strings.Contains(out, "in sync") { // package-lock.json is not package.json's
			t.Fatal(out)
		}
		testtool.LeaveOut(t, "npm ci failed: "+strings.TrimSpace(strings.SplitN(out, "\n", 2)[0]), "access to the npm registry")
	}
	if out, err := run(nil, "node", "--version"); err == nil && regexp.MustCompile(`^v1?[0-9]\.`).MatchString(out) {
		testtool.LeaveOut(t, "Node.js "+strings.TrimSpace(out)+" is too old for hey-api", "Node.js 20 or newer")
	}
	for _, command := range [][]string{
		{"node_modules/.bin/openapi-typescript", "openapi.json", "-o", "schema.d.ts"},
		{"node_modules/.bin/openapi-ts", "-i", "openapi.json", "-o", "hey"},
		{"node_modules/.bin/tsc", "-p", "."},
	} {
		if out, err := run(nil, filepath.Join(dir, command[0]), command[1:]...); err != nil {
			t.Fatalf("%s: %v\n%s", command[0], err, out)
		}
	}
	env := withToken(t)
	node := tool(t, "node", "nodejs")
	// fetch makes the device that hey notifies.
	for _, program := range []struct{ name, want string }{{"fetch", "f-1 phone\n202\n"}, {"hey", "h-1 phone\n202\n"}} {
		if out, err := run(env, node, "out/"+program.name+".js"); err != nil || out != program.want {
			t.Errorf("%s: %v: %q, want %q", program.name, err, out, program.want)
		}
	}
}

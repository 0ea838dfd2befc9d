package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/credentials"
)

// backendPage reads the code blocks of docs/backend.md: those of one language, with what
// follows the language on its line.
func backendPage(t *testing.T) (blocks []struct{ language, mark, text string }) {
	t.Helper()
	page, err := os.ReadFile("../docs/backend.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]+)([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		blocks = append(blocks, struct{ language, mark, text string }{m[1], strings.TrimSpace(m[2]), m[3]})
	}
	return blocks
}

// withToken serves with users, and returns the environment that the page speaks of.
func withToken(t *testing.T) []string {
	t.Helper()
	users := filepath.Join(t.TempDir(), "users.yaml")
	r := heartline(t, nil, "token", "create", "--file", users, "backend")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	s := serve(t, "HEARTLINE_AUTH_MODE=file", "HEARTLINE_AUTH_FILE_PATH="+users)
	return environ(t, "HEARTLINE_SERVER="+s.http, "HEARTLINE_TOKEN="+strings.TrimSpace(r.out))
}

// TestBackendPageCurl runs the page's commands in one shell and compares each answer that
// the page shows.
func TestBackendPageCurl(t *testing.T) {
	t.Parallel()
	tool(t, "curl", "curl")
	env := withToken(t)
	const mark = "@@@@"
	script, events := "", ""
	var want []string
	for _, b := range backendPage(t) {
		switch {
		case b.language == "sh" && b.mark == "terminal=events":
			events = b.text
		case b.language == "sh":
			script += "echo; echo " + mark + "\n" + b.text
			want = append(want, "")
		case b.language == "json":
			want[len(want)-1] = b.text
		}
	}
	follow := exec.Command("bash", "-c", "exec "+events)
	follow.Env = env
	stream := launch(t, follow)
	stream.stdout.until(t, "retry: 2000")

	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-e", "-u", "-o", "pipefail", "-c", script)
	cmd.Env, cmd.Dir = env, t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := strings.Split(string(out), mark)[1:]
	if len(got) != len(want) {
		t.Fatalf("%d answers to %d blocks:\n%s", len(got), len(want), out)
	}
	for i := range want {
		if want[i] != "" && normal(got[i]) != normal(want[i]) {
			t.Errorf("it shows\n%s\nwant\n%s", got[i], want[i])
		}
	}
	stream.stdout.until(t, `"event":"accepted"`)
	numbers := regexp.MustCompile(`(?m)^id: [A-Za-z0-9_-]+$`)
	for _, b := range backendPage(t) {
		if b.mark == "terminal=events" && b.language == "text" {
			begin := numbers.ReplaceAllString(normal(stream.stdout.String()), "id: N")
			if !strings.HasPrefix(begin, numbers.ReplaceAllString(normal(b.text), "id: N")) {
				t.Errorf("the stream begins\n%s\nwant\n%s", begin, b.text)
			}
		}
	}
}

// backendLanguages are those of the page's programs, and what runs them.
func backendLanguages() map[string]struct{ file, command, packages string } {
	return map[string]struct{ file, command, packages string }{
		"js":     {"backend.mjs", "node", "nodejs"},
		"python": {"backend.py", "python3", "python3"},
		"go":     {"main.go", "go run", "golang-go"},
		"php":    {"backend.php", "php", "php-cli php-curl"},
	}
}

// TestBackendPageWebhooks runs the page's verification of webhooks in each language on
// messages of a server: genuine ones, one under two secrets, a changed one, an old one.
func TestBackendPageWebhooks(t *testing.T) { //nolint:tparallel // the turn of a case could come when the webhook is too old
	t.Parallel()
	programs := map[string]string{}
	for _, b := range backendPage(t) {
		if b.mark == "webhook" && b.language != "text" {
			programs[b.language] = b.text
		}
	}
	type request struct {
		header http.Header
		body   []byte
	}
	requests := make(chan request, 16)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		requests <- request{r.Header, body}
	}))
	t.Cleanup(backend.Close)
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "secret"), credentials.NewWebhookSecret()
	if err := os.WriteFile(file, []byte(credentials.NewWebhookSecret()+"\n"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, fmt.Sprintf(`HEARTLINE_RECEIPTS_WEBHOOKS=[{"url":%q,"secret_file":%q,"events":["accepted"]}]`, backend.URL, file))
	s.register("alice", "phone", deviceToken(1))
	s.notify(`{"account":"alice","title":"hello","id":"order-9"}`)
	var genuine request
	select {
	case genuine = <-requests:
	case <-time.After(patience):
		t.Fatal("no webhook came")
	}
	id, at, signature := genuine.header.Get("Webhook-Id"), genuine.header.Get("Webhook-Timestamp"), genuine.header.Get("Webhook-Signature")
	changed := bytes.Replace(genuine.body, []byte("order-9"), []byte("order-8"), 1)
	for language, run := range backendLanguages() {
		t.Run(language, func(t *testing.T) {
			command := strings.Fields(run.command)
			command[0] = tool(t, command[0], run.packages)
			program := filepath.Join(t.TempDir(), run.file)
			if err := os.WriteFile(program, []byte(programs[language]), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				at, signature string
				body          []byte
				want          string
			}{
				{at, signature, genuine.body, "accepted order-9"},
				{at, strings.Fields(signature)[1], genuine.body, "accepted order-9"},
				{at, strings.Fields(signature)[0], genuine.body, "refused"},
				{at, signature, changed, "refused"},
				{"1700000000", signature, genuine.body, "refused"},
			} {
				ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, command[0], append(command[1:], program)...)
				cmd.Env = environ(t, "WEBHOOK_ID="+id, "WEBHOOK_TIMESTAMP="+c.at, "WEBHOOK_SIGNATURE="+c.signature, "SECRET="+secret)
				if home, err := os.UserHomeDir(); err == nil { // where go keeps its cache
					cmd.Env = append(cmd.Env, "HOME="+home)
				}
				cmd.Stdin = bytes.NewReader(c.body)
				out, err := cmd.CombinedOutput()
				if err != nil || strings.TrimSpace(string(out)) != c.want {
					t.Errorf("%s %s: %v, it prints %s, want %s", c.at, c.body, err, out, c.want)
				}
			}
		})
	}
}

// TestBackendPagePrograms runs the page's program in each language, each on a server of its
// own. All print the same.
func TestBackendPagePrograms(t *testing.T) {
	t.Parallel()
	want, programs := "", map[string]string{}
	for _, b := range backendPage(t) {
		switch {
		case b.mark == "output":
			want = b.text
		case b.language != "sh" && b.language != "json" && b.mark == "":
			programs[b.language] = b.text
		}
	}
	for language, run := range backendLanguages() {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			command := strings.Fields(run.command)
			command[0] = tool(t, command[0], run.packages)
			if programs[language] == "" {
				t.Fatal("the page has no such program")
			}
			file := filepath.Join(t.TempDir(), run.file)
			if err := os.WriteFile(file, []byte(programs[language]), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*patience) // a program that only retries never ends
			defer cancel()
			cmd := exec.CommandContext(ctx, command[0], append(command[1:], file)...)
			cmd.WaitDelay = time.Second
			cmd.Env = withToken(t)
			if home, err := os.UserHomeDir(); err == nil { // where go keeps its cache
				cmd.Env = append(cmd.Env, "HOME="+home)
			}
			out, err := cmd.CombinedOutput()
			if err != nil || string(out) != want {
				t.Errorf("%v: it prints\n%s\nwant\n%s", err, out, want)
			}
		})
	}
}

package cmd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
)

// TestUsersAndTokens makes a users file from nothing, logs in with its entries, and
// removes them.
func TestUsersAndTokens(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users.yaml")
	do := func(want int, stdin string, args ...string) string {
		t.Helper()
		out := command(t, nil, stdin, append(args, "--file", path)...)
		if out.code != want {
			t.Fatalf("%v: exit code %d\n%s", args, out.code, out.stderr)
		}
		return out.stdout + out.stderr
	}
	do(0, "wonder\n", "user", "add", "alice")
	do(0, "buy", "user", "add", "shop", "--role", "service", "--accounts", "acme-*,bob")
	do(1, "x", "user", "add", "alice")
	do(1, "", "user", "add", "empty")
	do(1, "x", "user", "add", "eve", "--role", "root")
	do(1, "x", "user", "add", "eve", "--accounts", "a")
	do(2, "x", "user", "add", "eve", "--role", "service", "--accounts", "")
	do(2, "", "token", "create", "eve", "--accounts", "")
	do(1, "", "token", "create", "eve", "--role", "admin", "--accounts", "a*")
	token := strings.TrimSpace(do(0, "", "token", "create", "ci", "--valid-for", "1h"))
	content, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(content), token) || strings.Contains(string(content), "wonder") || !strings.Contains(string(content), "$argon2id$v=19$m=65536,t=3,p=1$") {
		t.Fatalf("%s %v", content, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if err := os.WriteFile(path, append([]byte("# kept\n"), content...), 0o600); err != nil {
		t.Fatal(err)
	}
	login := func(name, password string) (auth.Identity, error) {
		a, err := auth.New(config.Auth{Mode: config.AuthFile, File: config.AuthFromFile{Path: path}}, auth.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		if name == "" {
			return a.Bearer(context.Background(), password, "")
		}
		return a.Connect(context.Background(), auth.Credentials{Username: name, Password: []byte(password)})
	}
	if id, err := login("alice", "wonder"); err != nil || id.Service {
		t.Error(id, err)
	}
	if id, err := login("shop", "buy"); err != nil || !id.MayActFor("acme-1") || id.MayActFor("alice") {
		t.Error(id, err)
	}
	if id, err := login("", token); err != nil || !id.AllAccounts() || id.Expires.IsZero() {
		t.Error(id, err)
	}
	do(0, "new", "user", "add", "alice", "--replace")
	if _, err := login("alice", "wonder"); err == nil {
		t.Error("the old password is good")
	}
	list := do(0, "", "user", "list") + do(0, "", "token", "list", "--json")
	for _, want := range []string{"alice  device", "shop   service  acme-*,bob", `"name": "ci"`} {
		if !strings.Contains(list, want) {
			t.Errorf("%q is not in\n%s", want, list)
		}
	}
	if strings.Contains(list, "$argon2") || strings.Contains(list, "sha256") {
		t.Errorf("hashes are shown:\n%s", list)
	}
	do(0, "", "user", "remove", "alice")
	do(1, "", "user", "remove", "alice")
	do(0, "", "token", "revoke", "ci")
	do(1, "", "token", "revoke", "ci")
	if _, err := login("", token); err == nil {
		t.Error("the revoked token is good")
	}
	if content, _ := os.ReadFile(path); !strings.HasPrefix(string(content), "# kept\n") {
		t.Errorf("the comment is gone:\n%s", content)
	}
}

// TestConfigCheckReadsUsers: all mistakes of the file are reported.
func TestConfigCheckReadsUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(path, []byte("users: [{name: a, password_hash: x}, {name: b, password_hash: y, role: root}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := command(t, []string{"HEARTLINE_AUTH_MODE=file", "HEARTLINE_AUTH_FILE_PATH=" + path}, "", "config", "check")
	if out.code != 2 || strings.Count(out.stderr, "password_hash: must be a hash") != 2 || !strings.Contains(out.stderr, "users[1].role: must be device") {
		t.Errorf("%d\n%s", out.code, out.stderr)
	}
}

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

// TestReplacedUserKeepsItsRole: a new password takes no rights away, and gives none.
func TestReplacedUserKeepsItsRole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	add := func(want string, flags ...string) {
		t.Helper()
		if out := command(t, nil, "x", append([]string{"user", "add", "shop", "--file", path}, flags...)...); out.code != 0 {
			t.Fatal(out.stderr)
		}
		if out := command(t, nil, "", "user", "list", "--file", path); !strings.Contains(out.stdout, want) {
			t.Errorf("%v: no %q in\n%s", flags, want, out.stdout)
		}
	}
	add("shop  service  acme-*", "--role", "service", "--accounts", "acme-*")
	add("shop  service  acme-*", "--replace")
	add("shop  service  bob", "--replace", "--accounts", "bob")
	add("shop  admin", "--replace", "--role", "admin")
	add("shop  admin", "--replace")
}

// TestTokenOfADevice: an account makes it a device's token, and nothing else has one.
func TestTokenOfADevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	create := func(flags ...string) outcome {
		t.Helper()
		return command(t, nil, "", append([]string{"token", "create", "phone", "--file", path}, flags...)...)
	}
	for _, flags := range [][]string{{"--account", "alice", "--role", "service"}, {"--account", "alice", "--role", "admin"}, {"--role", "device"}} {
		if out := create(flags...); out.code != 1 || !strings.Contains(out.stderr, "tokens[0].account: must") {
			t.Errorf("%v: %d %s", flags, out.code, out.stderr)
		}
	}
	token := strings.TrimSpace(create("--account", "alice").stdout)
	a, err := auth.New(config.Auth{Mode: config.AuthFile, File: config.AuthFromFile{Path: path}}, auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	if id, err := a.Bearer(context.Background(), token, ""); err != nil || id.Service || id.Account != "alice" {
		t.Errorf("%+v %v", id, err)
	}
}

// TestRevokeInAFileWithAMistake: the entry goes, and the command says that no server sees it.
func TestRevokeInAFileWithAMistake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(path, []byte("users: [{name: a, password_hash: x}]\ntokens: [{name: shop, sha256: y}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := command(t, nil, "", "token", "revoke", "shop", "--file", path)
	if out.code != 1 || !strings.Contains(out.stderr, "users[0].password_hash: must") || !strings.Contains(out.stderr, "removed, but") {
		t.Errorf("%d\n%s%s", out.code, out.stdout, out.stderr)
	}
	if content, _ := os.ReadFile(path); strings.Contains(string(content), "shop") {
		t.Errorf("the token is still there:\n%s", content)
	}
}

// TestUsersFileOfAConfiguration: the file's name is all that is taken from the configuration.
func TestUsersFileOfAConfiguration(t *testing.T) {
	dir := t.TempDir()
	path, conf := filepath.Join(dir, "users.yaml"), filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(conf, []byte("auth: {mode: file, file: {path: "+path+"}}\nmqtt: {tls: {address: ':8883', key_file: missing}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := command(t, nil, "x", "user", "add", "alice", "--config", conf); out.code != 0 {
		t.Errorf("%d\n%s", out.code, out.stderr)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	for _, text := range []string{"auth: {mode: file", "auth: 5", "auth: {file: {path: [a]}}"} {
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := command(t, nil, "", "user", "list", "--config", conf); out.code != 2 || strings.Contains(out.stderr, "say which file") {
			t.Errorf("%s: %d\n%s", text, out.code, out.stderr)
		}
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

package auth_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newAuth(t *testing.T, cfg config.Auth) *auth.Auth {
	t.Helper()
	a, err := auth.New(cfg, auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// said returns an error's kind and the end of its message.
func said(err error) string {
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, auth.ErrDenied):
		return "denied" + strings.TrimPrefix(err.Error(), auth.ErrDenied.Error())
	case errors.Is(err, auth.ErrUnavailable):
		return "unavailable" + strings.TrimPrefix(err.Error(), auth.ErrUnavailable.Error())
	}
	return "other: " + err.Error()
}

func TestModeNoneTakesEveryoneForWhatTheySay(t *testing.T) {
	a := newAuth(t, config.Auth{Mode: config.AuthNone})
	if !a.Open() {
		t.Error("not open")
	}
	for _, c := range []struct{ client, username, account string }{{"phone", "alice", "alice"}, {"phone", "", "phone"}} {
		id, err := a.Connect(context.Background(), auth.Credentials{ClientID: c.client, Username: c.username})
		if err != nil || id.Account != c.account || !id.Service {
			t.Errorf("%+v: %+v %v", c, id, err)
		}
	}
	if id, err := a.Bearer(context.Background(), "", ""); err != nil || !id.Service {
		t.Errorf("%+v %v", id, err)
	}
}

func TestUnknownModeIsAnError(t *testing.T) {
	if _, err := auth.New(config.Auth{Mode: "open"}, auth.Options{}); err == nil || !strings.HasPrefix(err.Error(), "auth.mode: ") {
		t.Error(err)
	}
}

func TestNoSecretIsEverShown(t *testing.T) {
	const secret = "s3cr3t-that-nobody-may-read-anywhere-at-all"
	ctx := context.Background()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	var shown []string
	modes := map[string]config.Auth{
		"file": {Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, "users: [{name: alice, password_hash: "+bcryptOf(t, "right")+"}]")}},
		"jwt":  {Mode: config.AuthJWT, JWT: config.AuthFromJWT{SecretFile: file(t, strings.Repeat("k", 32))}},
		"http": {Mode: config.AuthHTTP, HTTP: config.AuthFromHTTP{URL: "http://127.0.0.1:1/?key=" + secret, Timeout: 1e9}},
	}
	for name, cfg := range modes {
		a, err := auth.New(cfg, auth.Options{Logger: logger})
		if err != nil {
			t.Fatal(name, err)
		}
		for _, presented := range []string{secret, secret + "." + secret + "." + secret, strings.Repeat(secret, 500)} {
			_, err1 := a.Connect(ctx, auth.Credentials{ClientID: "c", Username: "alice", Password: []byte(presented)})
			_, err2 := a.Bearer(ctx, presented, "")
			if err1 == nil || err2 == nil {
				t.Fatal(name, "let in")
			}
			shown = append(shown, err1.Error(), err2.Error())
		}
		_ = a.Close()
	}
	for name, cfg := range map[string]config.Auth{
		"hash":       {Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, "users: [{name: alice, password_hash: "+secret+"}]")}},
		"bcrypt":     {Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, "users: [{name: alice, password_hash: $2y$10$"+secret+"}]")}},
		"argon":      {Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, "users: [{name: alice, password_hash: $argon2id$v=19$m=1,t=1,p=1$"+secret+"$"+secret+"}]")}},
		"token":      {Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, "tokens: [{name: shop, sha256: "+secret+"}]")}},
		"wrong kind": {Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, "users: "+secret)}},
		"broken":     {Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, "users: [{name: alice, password_hash: '"+secret)}},
		"secret":     {Mode: config.AuthJWT, JWT: config.AuthFromJWT{SecretFile: file(t, secret[:20])}},
		"public key": {Mode: config.AuthJWT, JWT: config.AuthFromJWT{PublicKeyFile: file(t, secret)}},
		"jwks":       {Mode: config.AuthJWT, JWT: config.AuthFromJWT{JWKSFile: file(t, `{"keys":[{"kty":"oct","k":"`+secret+`!"}]}`)}},
	} {
		_, err := auth.New(cfg, auth.Options{Logger: logger})
		if err == nil {
			t.Fatal(name, "taken")
		}
		shown = append(shown, err.Error())
	}
	shown = append(shown, log.String())
	for _, text := range shown {
		if strings.Contains(text, secret[:12]) {
			t.Errorf("shown: %s", text)
		}
	}
}

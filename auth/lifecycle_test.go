package auth_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
)

// TestLifecycle: Close is safe twice and at once, and leaves nothing running in any mode,
// also where New fails.
func TestLifecycle(t *testing.T) {
	users := "users:\n  - {name: ann, password_hash: \"" + bcryptOf(t, "secret") + "\"}\n"
	missing := filepath.Join(t.TempDir(), "missing")
	key := file(t, "a secret of at least thirty-two bytes")
	nobody := "http://127.0.0.1:1/keys" // no server: fetching it is retried
	for name, c := range map[string]struct {
		cfg   config.Auth
		fails bool
	}{
		"none":           {cfg: config.Auth{Mode: config.AuthNone}},
		"unknown":        {cfg: config.Auth{Mode: "magic"}, fails: true},
		"file":           {cfg: fileAuth(file(t, users))},
		"file missing":   {cfg: fileAuth(missing), fails: true},
		"file verifiers": {cfg: config.Auth{Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, users), VerifierKeyFile: filepath.Join(t.TempDir(), "key")}}},
		"file bad key":   {cfg: config.Auth{Mode: config.AuthFile, File: config.AuthFromFile{Path: file(t, users), VerifierKeyFile: file(t, "short")}}, fails: true},
		"jwt file":       {cfg: config.Auth{Mode: config.AuthJWT, JWT: config.AuthFromJWT{SecretFile: key}}},
		"jwt url":        {cfg: config.Auth{Mode: config.AuthJWT, JWT: config.AuthFromJWT{JWKSURL: nobody}}},
		"jwt twice":      {cfg: config.Auth{Mode: config.AuthJWT, JWT: config.AuthFromJWT{SecretFile: key, JWKSURL: nobody}}, fails: true},
		"http":           {cfg: config.Auth{Mode: config.AuthHTTP, HTTP: config.AuthFromHTTP{URL: nobody, Timeout: time.Second}}},
		"http no url":    {cfg: config.Auth{Mode: config.AuthHTTP}, fails: true},
		"tls":            {cfg: config.Auth{Mode: config.AuthTLS, TLS: config.AuthFromTLS{Account: "cn"}, File: config.AuthFromFile{Path: file(t, users)}}},
		"tls missing":    {cfg: config.Auth{Mode: config.AuthTLS, TLS: config.AuthFromTLS{Account: "cn"}, File: config.AuthFromFile{Path: missing}}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			a, err := auth.New(c.cfg, auth.Options{StateDir: t.TempDir()})
			if c.fails {
				if err == nil {
					t.Error("no error")
				}
				_ = a.Close() // it may be nil
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					if err := a.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

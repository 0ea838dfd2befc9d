package auth_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// bcryptOf uses a cheap hash: these tests do not test bcrypt.
func bcryptOf(t testing.TB, password string) string { return bcryptCost(t, password, bcrypt.MinCost) }

func bcryptCost(t testing.TB, password string, cost int) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func argon2Of(password string) string {
	salt := []byte("0123456789abcdef")
	key := argon2.IDKey([]byte(password), salt, 1, 64, 2, 32)
	e := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=19$m=64,t=1,p=2$%s$%s", e(salt), e(key))
}

func fileAuth(path string) config.Auth {
	return config.Auth{Mode: config.AuthFile, File: config.AuthFromFile{Path: path}}
}

func TestFileUsersAndTokens(t *testing.T) {
	a := newAuth(t, fileAuth(file(t, `
users:
  - {name: alice, password_hash: "`+bcryptOf(t, "wonder")+`"}
  - {name: bob, password_hash: "`+argon2Of("builder")+`", role: device}
  - {name: shop, password_hash: "`+strings.Replace(bcryptOf(t, "buy"), "$2a$", "$2y$", 1)+`", role: service}
tokens:
  - {name: shop, sha256: `+tokenHash("shop-token")+`}
  - {name: gadget, sha256: `+tokenHash("gadget-token")+`, role: device, account: alice}
  - {name: old, sha256: `+tokenHash("old-token")+`, expires: 2020-01-01T00:00:00Z}
  - {name: new, sha256: `+tokenHash("new-token")+`, expires: 2999-01-01T00:00:00Z}
`)))
	ctx := context.Background()
	for _, c := range []struct {
		user, password, want string
		service              bool
	}{
		{"alice", "wonder", "yes", false},
		{"alice", "wonder", "yes", false}, // from the seal
		{"alice", "wander", `denied: wrong password or unknown user "alice"`, false},
		{"alice", "", `denied: wrong password or unknown user "alice"`, false},
		{"bob", "builder", "yes", false},
		{"bob", "wonder", `denied: wrong password or unknown user "bob"`, false},
		{"shop", "buy", "yes", true},
		{"Alice", "wonder", `denied: wrong password or unknown user "Alice"`, false},
		{"", "wonder", `denied: wrong password or unknown user ""`, false},
		{"nobody", "wonder", `denied: wrong password or unknown user "nobody"`, false},
		{"alice", strings.Repeat("x", 2000), "denied: a password of 2000 bytes", false},
	} {
		id, err := a.Connect(ctx, auth.Credentials{ClientID: "phone", Username: c.user, Password: []byte(c.password)})
		if said(err) != c.want {
			t.Errorf("%s %s: %s, want %s", c.user, c.password, said(err), c.want)
		}
		if want := (auth.Identity{Account: c.user, Service: c.service}); err == nil && !same(id, want) {
			t.Errorf("%s: %+v", c.user, id)
		} else if err != nil && !same(id, auth.Identity{}) {
			t.Errorf("%s: refused, and yet %+v", c.user, id)
		}
	}
	for _, c := range []struct {
		token, want string
		service     bool
	}{
		{"shop-token", "yes", true},
		{"gadget-token", "yes", false},
		{"new-token", "yes", true},
		{"old-token", `denied: token "old" expired at 2020-01-01T00:00:00Z`, false},
		{"shop-token ", "denied: unknown token", false},
		{"", "denied: unknown token", false},
		{tokenHash("shop-token"), "denied: unknown token", false},
		{strings.Repeat("x", 20_000), "denied: a token of 20000 bytes", false},
	} {
		id, err := a.Bearer(ctx, c.token, "127.0.0.1:1")
		if said(err) != c.want || id.Service != c.service {
			t.Errorf("%.20s: %s %+v, want %s", c.token, said(err), id, c.want)
		}
	}
}

func TestFileErrorsAreAllTold(t *testing.T) {
	good := bcryptOf(t, "x")
	for _, c := range []struct{ content, want string }{
		{"", "must have users or tokens: nobody could connect"},
		{"users: []", "must have users or tokens: nobody could connect"},
		{"{}\n---\n{}", "must be one YAML document"},
		{"users: [{nme: alice}]\ntoken: []", "line 1: there is no field nme\nline 2: there is no field token"},
		{"users: 7", "line 1: is not of the kind that is expected here"},
		{"users: [", "yaml: line 1: did not find expected node content"},
		{"users:\n  - {name: shop, role: service, password_hash: x, accounts: &none }\ntokens:\n  - {name: a, expires: ~}\n  - {name: b, role: null, accounts: *none}\n", `users[0].accounts: must have a value: leave it out for its default
tokens[0].expires: must have a value: leave it out for its default
tokens[1].accounts: must have a value: leave it out for its default
tokens[1].role: must have a value: leave it out for its default`},
		{`
users:
  - {name: "", password_hash: plain}
  - {name: alice, password_hash: "` + good + `"}
  - {name: alice, password_hash: "` + good + `", role: root}
  - {name: bob, password_hash: "` + good[:40] + `"}
  - {name: carl, password_hash: "$2y$31$` + good[7:] + `"}
  - {name: dora, password_hash: "$2y$05$` + good[7:59] + `!"}
  - {name: emil, password_hash: "$argon2id$v=19$m=99999999,t=1,p=1$` + `c2FsdHNhbHQ$a2V5a2V5a2V5a2V5a2V5"}
  - {name: fred, password_hash: "$argon2id$v=16$m=64,t=1,p=1$c2FsdHNhbHQ$a2V5a2V5a2V5a2V5a2V5"}
  - {name: gina, password_hash: "$argon2id$v=19$m=64,t=1,p=1$c2FsdA$a2V5a2V5a2V5a2V5a2V5"}
tokens:
  - {name: a, sha256: abc, accounts: []}
  - {name: b, sha256: ` + tokenHash("b") + `, role: root}
  - {name: c, sha256: ` + tokenHash("b") + `}
  - {name: "d\n", sha256: ` + tokenHash("d") + `}
`, `users[0].name: must be 1 to 256 bytes without control characters, got ""
users[0].password_hash: must be a hash by bcrypt ($2y$...) or argon2id ($argon2id$...); heartline user add makes one, and so do htpasswd -nB and argon2 -id -e
users[2].name: "alice" is there twice
users[2].role: must be device, service or admin, got "root"
users[3].password_hash: is not a whole bcrypt hash, which has 60 characters
users[4].password_hash: must have a bcrypt cost of at most 16, has 31
users[5].password_hash: is not a bcrypt hash: its salt and key are of the characters ./A-Za-z0-9
users[6].password_hash: must have an argon2id parameter m from 1 to 262144
users[7].password_hash: must be of argon2 version 19
users[8].password_hash: must have an argon2id salt of 8 to 64 and a key of 16 to 128 bytes, in base64 without padding
tokens[0].accounts: must not be empty: leave it out for all accounts
tokens[0].sha256: must be the SHA-256 of the token, 64 hexadecimal digits
tokens[1].role: must be device, service or admin, got "root"
tokens[2].sha256: is that of the token "b", too
tokens[3].name: must be 1 to 256 bytes without control characters, got "d\n"`},
	} {
		path := file(t, c.content)
		_, err := auth.New(fileAuth(path), auth.Options{})
		if want := "auth.file.path: " + path + ": " + c.want; err == nil || err.Error() != want {
			t.Errorf("%s\n got %v\nwant %s", c.content, err, want)
		}
	}
	if _, err := auth.New(fileAuth(filepath.Join(t.TempDir(), "none")), auth.Options{}); err == nil || !strings.HasPrefix(err.Error(), "auth.file.path: open ") {
		t.Error(err)
	}
}

// TestFileIsReadAgain runs in a bubble, where time passes when everyone waits.
func TestFileIsReadAgain(t *testing.T) {
	users := func(password string) string {
		return `users: [{name: alice, password_hash: "` + bcryptOf(t, password) + `"}]`
	}
	var log bytes.Buffer
	path := file(t, users("one"))
	testtool.Bubble(t, func(t *testing.T) {
		a, err := auth.New(fileAuth(path), auth.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		right := ""
		check := func(what string) {
			t.Helper()
			for _, password := range []string{"one", "two"} {
				_, err := a.Connect(t.Context(), auth.Credentials{Username: "alice", Password: []byte(password)})
				if (err == nil) != (password == right) {
					t.Errorf("%s: with %s: %v", what, password, err)
				}
			}
		}
		write := func(content string) {
			t.Helper()
			// By rename, as editors do; a file written in place has a new time.
			if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
		right = "one"
		check("at first")
		write(users("two"))
		check("before it is looked at")
		time.Sleep(3 * time.Second)
		right = "two"
		check("after a change")
		write("users: [")
		time.Sleep(3 * time.Second)
		check("after a broken change")
		time.Sleep(3 * time.Second)
		check("still")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		check("without the file")
		time.Sleep(3 * time.Second)
		check("still")
		write(users("one"))
		time.Sleep(3 * time.Second)
		right = "one"
		check("with a good file")
	})
	for text, times := range map[string]int{"file reloaded": 2, "reload failed, keeping the previous version": 2} {
		if n := strings.Count(log.String(), text); n != times {
			t.Errorf("%q: %d times in the log, want %d:\n%s", text, n, times, &log)
		}
	}
}

// TestStormOfReconnects: a password that was verified once costs no hash again.
func TestStormOfReconnects(t *testing.T) {
	const cost = 10 // some 50 ms each; two thousand would take a minute and a half of two cores
	path := file(t, `users: [{name: fleet, password_hash: "`+bcryptCost(t, "pw", cost)+`"}, {name: other, password_hash: "`+bcryptOf(t, "x")+`"}]`)
	a := newAuth(t, fileAuth(path))
	connect := func(password string) error {
		_, err := a.Connect(context.Background(), auth.Credentials{Username: "fleet", Password: []byte(password)})
		return err
	}
	begun := time.Now()
	if err := connect("pw"); err != nil {
		t.Fatal(err)
	}
	first := time.Since(begun)
	begun = time.Now()
	var storm sync.WaitGroup
	for range 2000 {
		storm.Go(func() {
			if err := connect("pw"); err != nil {
				t.Error(err)
			}
		})
	}
	storm.Wait()
	if took := time.Since(begun); took > 100*first {
		t.Errorf("one took %s, two thousand more took %s", first, took)
	}
	if connect("pv") == nil {
		t.Error("a wrong password after a right one")
	}
}

// same compares what a client may do, and not how its rights are watched.
func same(a, b auth.Identity) bool {
	return a.Account == b.Account && a.Service == b.Service && a.Admin == b.Admin && a.Device == b.Device &&
		slices.Equal(a.Accounts, b.Accounts) && a.Expires.Equal(b.Expires)
}

// TestALoginFloodRefusesNobodyElse: while attackers guess from an address of their own,
// nobody who logs in from another is refused. TestAddressesTakeTurns holds that none of
// them waits for long.
func TestALoginFloodRefusesNobodyElse(t *testing.T) {
	var users strings.Builder
	users.WriteString("users:\n")
	for i := range 20 {
		fmt.Fprintf(&users, "  - {name: user%d, password_hash: %q}\n", i, bcryptCost(t, "right", 8))
	}
	a := newAuth(t, fileAuth(file(t, users.String())))
	ctx, stop := context.WithCancel(context.Background())
	var attackers, clients sync.WaitGroup
	failures := make(chan struct{}, 8)
	for i := range 40 {
		attackers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_, err := a.Connect(ctx, auth.Credentials{Username: fmt.Sprintf("user%d", n%20), Password: []byte("wrong"), Remote: fmt.Sprintf("198.51.100.1:%d", i)})
				if err == nil {
					t.Error("a wrong password was accepted")
				}
				select {
				case failures <- struct{}{}:
				default: // the flood runs
				}
			}
		})
	}
	for range cap(failures) {
		<-failures
	}
	for i := range 20 {
		clients.Go(func() {
			if _, err := a.Connect(ctx, auth.Credentials{Username: fmt.Sprintf("user%d", i), Password: []byte("right"), Remote: fmt.Sprintf("203.0.113.%d:1", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	stop()
	attackers.Wait()
}

// TestEveryoneWaitsAndNobodyIsRefused: far more first logins than slots, all good.
func TestEveryoneWaitsAndNobodyIsRefused(t *testing.T) {
	a := newAuth(t, fileAuth(file(t, `users: [{name: alice, password_hash: "`+bcryptOf(t, "pw")+`"}, {name: bob, password_hash: "`+bcryptOf(t, "pw")+`"}]`)))
	var all sync.WaitGroup
	for i := range 3000 {
		all.Go(func() {
			if _, err := a.Connect(context.Background(), auth.Credentials{Username: "alice", Password: []byte("pw"), Remote: fmt.Sprintf("10.0.0.%d:1", i%200), Open: func() bool { return true }}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestNoHashForAClosedConnection: a client that has gone costs no hash.
func TestNoHashForAClosedConnection(t *testing.T) {
	a := newAuth(t, fileAuth(file(t, `users: [{name: alice, password_hash: "`+bcryptCost(t, "pw", 10)+`"}]`)))
	begun := time.Now()
	if _, err := a.Connect(context.Background(), auth.Credentials{Username: "alice", Password: []byte("wrong"), Open: func() bool { return true }}); err == nil {
		t.Fatal("a wrong password was accepted")
	}
	one := time.Since(begun)
	begun = time.Now()
	for range 1000 { // each would cost a hash
		_, err := a.Connect(context.Background(), auth.Credentials{Username: "alice", Password: []byte("pw"), Open: func() bool { return false }})
		if !errors.Is(err, auth.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > 100*one {
		t.Errorf("1,000 closed connections took %s, one login %s", took, one)
	}
}

// TestVerifiersSurviveARestart: with the key in a file of its own a device that has
// been in before needs no hash after a restart; with another key, another password, a
// new hash or too late it does.
func TestVerifiersSurviveARestart(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		dir, keys := t.TempDir(), t.TempDir()
		hash, other := bcryptCost(t, "pw", 9), bcryptCost(t, "pw", 9)
		path := file(t, `users: [{name: alice, password_hash: "`+hash+`"}]`)
		cfg := fileAuth(path)
		cfg.File.VerifierKeyFile, cfg.File.VerifierTTL = filepath.Join(keys, "key"), time.Hour
		cost := 0
		login := func(what string, hashes int, password string) {
			t.Helper()
			a, err := auth.New(cfg, auth.Options{StateDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			// Open is asked once a hash is about to be computed, and never else.
			before := cost
			_, err = a.Connect(t.Context(), auth.Credentials{Username: "alice", Password: []byte(password), Open: func() bool { cost++; return true }})
			if (err == nil) != (password == "pw") || cost-before != hashes {
				t.Errorf("%s: %v, %d hashes, want %d", what, err, cost-before, hashes)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
		}
		login("first", 1, "pw")
		login("again", 0, "pw")
		login("wrong password", 1, "pq")
		login("again", 0, "pw")
		if err := os.WriteFile(path, []byte(`users: [{name: alice, password_hash: "`+other+`"}]`), 0o600); err != nil {
			t.Fatal(err)
		}
		login("another hash", 1, "pw")
		login("again", 0, "pw")
		time.Sleep(2 * time.Hour)
		login("expired", 1, "pw")
		if err := os.Remove(cfg.File.VerifierKeyFile); err != nil {
			t.Fatal(err)
		}
		login("another key", 1, "pw")
		for name, want := range map[string]fs.FileMode{filepath.Join(dir, "auth-verifiers"): 0o600, cfg.File.VerifierKeyFile: 0o600} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v %v", name, info, err)
			}
		}
		if err := os.Chmod(cfg.File.VerifierKeyFile, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := auth.New(cfg, auth.Options{StateDir: dir}); err == nil {
			t.Error("a key that everybody can read was taken")
		}
	})
}

// TestRemovedUserLosesItsConnection: Check says so after the file has changed.
func TestRemovedUserLosesItsConnection(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		hash := bcryptOf(t, "pw")
		path := file(t, "")
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		line := func(name, role string) string {
			return fmt.Sprintf("  - {name: %s, password_hash: %q, role: %s}\n", name, hash, role)
		}
		token := "tokens:\n  - {name: shop, sha256: " + tokenHash("t") + "}\n"
		write("users:\n" + line("alice", "device") + line("bob", "service") + token)
		a, err := auth.New(fileAuth(path), auth.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		login := func(name string) auth.Identity {
			id, err := a.Connect(t.Context(), auth.Credentials{Username: name, Password: []byte("pw")})
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		alice, bob := login("alice"), login("bob")
		shop, err := a.Bearer(t.Context(), "t", "")
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, want ...bool) {
			t.Helper()
			time.Sleep(2 * time.Second)
			for i, id := range []auth.Identity{alice, bob, shop} {
				if err := id.Check(time.Now()); (err == nil) != want[i] {
					t.Errorf("%s: identity %d: %v", what, i, err)
				}
			}
		}
		check("unchanged", true, true, true)
		write("users:\n" + line("alice", "device") + line("bob", "device") + line("new", "device") + token)
		check("bob is no service any more", true, false, true)
		if err := bob.Check(time.Now()); !errors.Is(err, auth.ErrRemoved) {
			t.Errorf("bob's role was changed: %v", err)
		}
		write("users:\n" + line("bob", "device"))
		check("alice and the token are gone", false, false, false)
	})
}

// TestLastEntryRevoked: whoever had the last entry of the file is locked out like any other, also
// where two tokens have one name, and half a write locks nobody out.
func TestLastEntryRevoked(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		path := file(t, "tokens:\n  - {name: shop, sha256: "+tokenHash("old")+"}\n  - {name: shop, sha256: "+tokenHash("new")+"}\n")
		a, err := auth.New(fileAuth(path), auth.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		shop, err := a.Bearer(t.Context(), "old", "")
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil { // as a program that goes on to write
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := shop.Check(time.Now()); err != nil {
			t.Errorf("locked out by half a write: %v", err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := auth.RemoveToken(path, "shop"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := shop.Check(time.Now()); err == nil {
			t.Error("a connection outlives its token")
		}
		for _, token := range []string{"old", "new"} {
			if _, err := a.Bearer(t.Context(), token, ""); !errors.Is(err, auth.ErrDenied) {
				t.Errorf("the token %q after its revocation: %v", token, err)
			}
		}
	})
}

// TestLongUsername: a username that no users file can hold is refused without a hash.
func TestLongUsername(t *testing.T) {
	longest := strings.Repeat("n", 256)
	a := newAuth(t, fileAuth(file(t, `users: [{name: `+longest+`, password_hash: "`+bcryptOf(t, "pw")+`"}]`)))
	connect := func(name string) error {
		_, err := a.Connect(t.Context(), auth.Credentials{Username: name, Password: []byte("pw")})
		return err
	}
	if err := connect(longest); err != nil {
		t.Error(err)
	}
	if err := connect(longest + "n"); !errors.Is(err, auth.ErrDenied) || !strings.Contains(err.Error(), "a username of 257 bytes") {
		t.Error(err)
	}
}

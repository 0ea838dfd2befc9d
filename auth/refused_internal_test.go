package auth

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/heartline-mqtt/heartline/config"
)

// countedHash is a hash that counts how often it is computed.
type countedHash struct {
	password string
	computed atomic.Int64
}

func (h *countedHash) matches(password []byte) bool {
	h.computed.Add(1)
	return string(password) == h.password
}

func (h *countedHash) cost() float64 { return 1 }

// withCountedHash is mode file with the user alice, whose password is pw.
func withCountedHash(t *testing.T) (a *Auth, m *fileMode, hash *countedHash) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(path, []byte(`users: [{name: alice, password_hash: `+nobody+`}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := New(config.Auth{Mode: config.AuthFile, File: config.AuthFromFile{Path: path}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() }) // there is nothing to write
	m = a.mode.(*fileMode)
	hash = &countedHash{password: "pw"}
	m.file.get().users["alice"].hash, m.file.get().decoy.hash = hash, hash
	return a, m, hash
}

// TestUnknownUserCostsAHash: an answer without one would come at once, and tell who
// exists.
func TestUnknownUserCostsAHash(t *testing.T) {
	a, _, hash := withCountedHash(t)
	for _, user := range []string{"alice", "nobody"} {
		hash.computed.Store(0)
		if _, err := a.Connect(context.Background(), Credentials{Username: user, Password: []byte("wrong")}); err == nil {
			t.Errorf("%s was let in", user)
		}
		if n := hash.computed.Load(); n != 1 {
			t.Errorf("%s: %d hashes were computed", user, n)
		}
	}
}

// TestEqualCredentialsCostOneHash: a password that was wrong is not hashed again, for a
// user or for a name that nobody has, and devices that wait with one password share a
// hash.
func TestEqualCredentialsCostOneHash(t *testing.T) {
	_, m, hash := withCountedHash(t)
	alice, decoy := m.file.get().users["alice"], m.file.get().decoy
	check := func(u *user, known bool, name, password string, want bool) {
		t.Helper()
		hash.computed.Store(0)
		var all sync.WaitGroup
		for i := range 500 {
			all.Go(func() {
				c := Credentials{Username: name, Password: []byte(password), Remote: fmt.Sprintf("10.0.%d.%d:1", i>>8, i&255)}
				if right, err := m.check(context.Background(), u, known, c); err != nil || right != want {
					t.Errorf("%s with %q: %v %v", name, password, right, err)
				}
			})
		}
		all.Wait()
		// As many as there are slots can be computed at once, before the first is known.
		if n := hash.computed.Load(); n < 1 || n > int64(m.queue.maxAddress) {
			t.Errorf("%s with %q, 500 times: %d hashes", name, password, n)
		}
	}
	check(alice, true, "alice", "old", false)
	check(decoy, false, "nobody", "old", false)
	check(decoy, false, "nobody", "pw", false) // the decoy's own password lets nobody in
	check(alice, true, "alice", "pw", true)
	alice.text = "another hash" // as after a change of the password
	check(alice, true, "alice", "pw", true)
}

package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
)

// maxRefused bounds the memory of wrong passwords. Over it the older half goes.
const maxRefused = 1 << 14

// refused remembers passwords that were wrong, so that a device with an old password,
// or a guesser without a list, costs one hash and not one a second. A hash and a
// password never become right later, so that nothing expires: a changed hash makes
// another key. Memory holds HMACs under a key of this process, no passwords.
type refused struct {
	secret []byte

	mu            sync.Mutex
	now, previous map[refusedKey]struct{}
}

type refusedKey [sha256.Size]byte

func newRefused() *refused {
	r := &refused{secret: make([]byte, sha256.Size), now: map[refusedKey]struct{}{}}
	_, _ = rand.Read(r.secret) // it never fails
	return r
}

// key is of a username, known to the users file or not, with the hash that it was
// compared with.
func (r *refused) key(username, hash string, known bool, password []byte) (k refusedKey) {
	m := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(m, "%t:%d:%s%d:%s", known, len(username), username, len(hash), hash)
	m.Write(password)
	m.Sum(k[:0])
	return k
}

func (r *refused) has(k refusedKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.now[k]; ok {
		return true
	}
	_, ok := r.previous[k]
	return ok
}

func (r *refused) put(k refusedKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.now) >= maxRefused/2 {
		r.previous, r.now = r.now, map[refusedKey]struct{}{}
	}
	r.now[k] = struct{}{}
}

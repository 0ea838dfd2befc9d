package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// passwordHash is a password as a file holds it.
type passwordHash interface {
	// matches costs the same whatever the password is.
	matches(password []byte) bool
	// cost is about how many microseconds matches takes.
	cost() float64
}

// What a hash may cost: one that takes minutes, or all memory, would be an attack
// on the server by its own file.
const (
	maxBcryptCost   = 16
	maxArgon2Memory = 256 << 10 // KiB
	maxArgon2Time   = 64
	maxArgon2Lanes  = 64
)

var errNoHash = errors.New("must be a hash by bcrypt ($2y$...) or argon2id ($argon2id$...); heartline user add makes one, and so do htpasswd -nB and argon2 -id -e")

func parseHash(text string) (passwordHash, error) {
	switch {
	case strings.HasPrefix(text, "$2a$"), strings.HasPrefix(text, "$2b$"), strings.HasPrefix(text, "$2y$"):
		return parseBcrypt(text)
	case strings.HasPrefix(text, "$argon2id$"):
		return parseArgon2(text)
	}
	return nil, errNoHash
}

type bcryptHash struct {
	text  []byte
	level int
}

func parseBcrypt(text string) (passwordHash, error) {
	level, err := bcrypt.Cost([]byte(text))
	if err != nil || len(text) != 60 {
		return nil, errors.New("is not a whole bcrypt hash, which has 60 characters")
	}
	if level > maxBcryptCost {
		return nil, fmt.Errorf("must have a bcrypt cost of at most %d, has %d", maxBcryptCost, level)
	}
	// What cannot be compared with anything must not look like a user without a
	// right password.
	if strings.Trim(text[7:], bcryptAlphabet) != "" {
		return nil, errors.New("is not a bcrypt hash: its salt and key are of the characters ./A-Za-z0-9")
	}
	return bcryptHash{[]byte(text), level}, nil
}

const bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

func (h bcryptHash) matches(password []byte) bool {
	return bcrypt.CompareHashAndPassword(h.text, password) == nil
}

func (h bcryptHash) cost() float64 { return 50 * float64(uint64(1)<<h.level) }

type argon2Hash struct {
	memory, time uint32
	lanes        uint8
	salt, key    []byte
}

// parseArgon2 reads the encoded form of the reference implementation:
// $argon2id$v=19$m=65536,t=3,p=4$salt$key.
func parseArgon2(text string) (passwordHash, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 6 {
		return nil, errors.New("is not a whole argon2id hash, which has the form $argon2id$v=19$m=...,t=...,p=...$salt$key")
	}
	if parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, fmt.Errorf("must be of argon2 version %d", argon2.Version)
	}
	var h argon2Hash
	for i, p := range []struct {
		name string
		most uint64
		put  func(uint64)
	}{
		{"m=", maxArgon2Memory, func(v uint64) { h.memory = uint32(v) }},
		{"t=", maxArgon2Time, func(v uint64) { h.time = uint32(v) }},
		{"p=", maxArgon2Lanes, func(v uint64) { h.lanes = uint8(v) }},
	} {
		fields := strings.Split(parts[3], ",")
		if len(fields) != 3 || !strings.HasPrefix(fields[i], p.name) {
			return nil, errors.New("must have the argon2id parameters m=...,t=...,p=...")
		}
		v, err := strconv.ParseUint(fields[i][2:], 10, 32)
		if err != nil || v < 1 || v > p.most {
			return nil, fmt.Errorf("must have an argon2id parameter %s from 1 to %d", p.name[:1], p.most)
		}
		p.put(v)
	}
	var err, err2 error
	h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	h.key, err2 = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err != nil || err2 != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.key) < 16 || len(h.key) > 128 {
		return nil, errors.New("must have an argon2id salt of 8 to 64 and a key of 16 to 128 bytes, in base64 without padding")
	}
	return h, nil
}

func (h argon2Hash) matches(password []byte) bool {
	key := argon2.IDKey(password, h.salt, h.time, h.memory, h.lanes, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(key, h.key) == 1
}

func (h argon2Hash) cost() float64 { return 0.5 * float64(h.memory) * float64(h.time) }

// Cost of the hashes that Heartline makes: RFC 9106 §4 recommends 64 MiB, 3 passes and
// 4 lanes; one lane costs the server the same and leaves its other cores alone.
const (
	argon2Memory = 64 << 10 // KiB
	argon2Time   = 3
	argon2Lanes  = 1
)

// HashPassword returns the argon2id hash of a password in the form that users files
// hold.
func HashPassword(password []byte) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // it never fails
	key := argon2.IDKey(password, salt, argon2Time, argon2Memory, argon2Lanes, 32)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argon2Memory, argon2Time, argon2Lanes, b64(salt), b64(key))
}

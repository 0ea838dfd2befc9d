package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"github.com/heartline-mqtt/heartline/config"
)

// fileText is the file of auth.file.path.
type fileText struct {
	Users []struct {
		Name     string `yaml:"name"`
		Password string `yaml:"password_hash"`
		Role     string `yaml:"role"`
	} `yaml:"users"`
	Tokens []struct {
		Name    string    `yaml:"name"`
		SHA256  string    `yaml:"sha256"`
		Role    string    `yaml:"role"`
		Account string    `yaml:"account"`
		Expires time.Time `yaml:"expires"`
	} `yaml:"tokens"`
}

// people is that file, read.
type people struct {
	users  map[string]*user
	tokens map[[sha256.Size]byte]apiToken
	// decoy is compared with where there is no such user, so that the answer takes
	// as long as for most users.
	decoy passwordHash
}

type user struct {
	text    string // of hash
	hash    passwordHash
	service bool

	mu sync.Mutex
	// seal is that of the last right password: see fileMode.seal.
	seal []byte
}

type apiToken struct {
	name    string
	id      Identity
	expires time.Time
}

// parsePeople reads the file. All that is wrong with it is in the error, a line
// each; none of it quotes a hash.
func parsePeople(content []byte) (people, error) {
	p := people{users: map[string]*user{}, tokens: map[[sha256.Size]byte]apiToken{}}
	var text fileText
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&text); err != nil && !errors.Is(err, io.EOF) {
		return p, withoutValues(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return p, errors.New("must be one YAML document")
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	costs := map[string]int{}
	for i, u := range text.Users {
		at := fmt.Sprintf("users[%d].", i)
		if err := validName(u.Name); err != nil {
			wrong("%sname: %w", at, err)
		} else if p.users[u.Name] != nil {
			wrong("%sname: %q is there twice", at, u.Name)
		}
		hash, err := parseHash(u.Password)
		if err != nil {
			wrong("%spassword_hash: %w", at, err)
		} else if costs[hash.cost()]++; p.decoy == nil || costs[hash.cost()] > costs[p.decoy.cost()] {
			p.decoy = hash
		}
		service, err := parseRole(u.Role, roleDevice)
		if err != nil {
			wrong("%srole: %w", at, err)
		}
		p.users[u.Name] = &user{text: u.Password, hash: hash, service: service}
	}
	for i, t := range text.Tokens {
		at := fmt.Sprintf("tokens[%d].", i)
		if err := validName(t.Name); err != nil {
			wrong("%sname: %w", at, err)
		}
		sum, err := hex.DecodeString(t.SHA256)
		if err != nil || len(sum) != sha256.Size {
			wrong("%ssha256: must be the SHA-256 of the token, 64 hexadecimal digits", at)
			continue
		}
		service, err := parseRole(t.Role, roleService)
		if err != nil {
			wrong("%srole: %w", at, err)
		}
		key := [sha256.Size]byte(sum)
		if other, twice := p.tokens[key]; twice {
			wrong("%ssha256: is that of the token %q, too", at, other.name)
		}
		p.tokens[key] = apiToken{name: t.Name, id: Identity{Account: t.Account, Service: service, Expires: t.Expires}, expires: t.Expires}
	}
	if len(text.Users)+len(text.Tokens) == 0 {
		wrong("must have users or tokens: nobody could connect")
	}
	if p.decoy == nil { // no users: there is nothing to find out either
		p.decoy = bcryptHash{[]byte(nobody), bcrypt.DefaultCost}
	}
	return p, errors.Join(errs...)
}

// nobody is a bcrypt hash of no known password.
const nobody = "$2a$10$cpOu1Q9aipLHnfossm.b5.TJEkMGB5AIXqNq1Ki.oHDbCnlIVmSii"

func parseRole(name, absent string) (service bool, err error) {
	switch name {
	case "":
		return absent == roleService, nil
	case roleDevice, roleService:
		return name == roleService, nil
	}
	return false, fmt.Errorf("must be device or service, got %q", clip(name))
}

func validName(name string) error {
	if name == "" || len(name) > 256 || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return fmt.Errorf("must be 1 to 256 bytes without control characters, got %q", clip(name))
	}
	return nil
}

// withoutValues tells a YAML error without what the file holds at that place: it
// may be a password that was put into the wrong field.
func withoutValues(err error) error {
	types, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return errors.New(first)
	}
	var errs []error
	for _, e := range types.Errors {
		line, what, _ := strings.Cut(e, ": ")
		if field, ok := strings.CutPrefix(what, "field "); ok {
			name, _, _ := strings.Cut(field, " not found in type ")
			if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" || len(name) > 32 {
				name = "of that name" // it may be a hash without quotes
			}
			what = "there is no field " + name
		}
		if strings.HasPrefix(what, "cannot unmarshal") {
			what = "is not of the kind that is expected here"
		}
		errs = append(errs, fmt.Errorf("%s: %s", line, what))
	}
	return errors.Join(errs...)
}

// fileMode is auth.mode file.
type fileMode struct {
	file *watched[people]
	key  [32]byte // of the seals; of this process

	slots chan struct{} // password hashes being computed
	queue chan struct{} // and waiting for that
}

// hashQueue is how many may wait for a slot. With a bcrypt of 50 ms on two cores
// that is half a minute's work; a client has given up by then.
const hashQueue = 1024

// hashPatience is how long one waits for a slot.
const hashPatience = 20 * time.Second

func newFileMode(cfg config.AuthFromFile, log *slog.Logger) (*fileMode, error) {
	m := &fileMode{slots: make(chan struct{}, runtime.GOMAXPROCS(0)), queue: make(chan struct{}, hashQueue)}
	if _, err := rand.Read(m.key[:]); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	var err error
	m.file, err = watch("auth.file.path", cfg.Path, log, m.parse)
	return m, err
}

// parse reads the file anew, and takes over what is remembered of the users whose
// password is as it was.
func (m *fileMode) parse(content []byte) (people, error) {
	p, err := parsePeople(content)
	if err != nil || m.file == nil { // nil: the first time
		return p, err
	}
	for name, old := range m.file.current.Load().users {
		if u := p.users[name]; u != nil && u.text == old.text {
			old.mu.Lock()
			u.seal = old.seal
			old.mu.Unlock()
		}
	}
	return p, nil
}

func (m *fileMode) close() {}

func (m *fileMode) connect(ctx context.Context, c Credentials) (Identity, error) {
	if len(c.Password) > maxPassword {
		return Identity{}, denied("a password of %d bytes", len(c.Password))
	}
	all := m.file.get()
	u, known := all.users[c.Username]
	if !known {
		u = &user{hash: all.decoy}
	}
	right, err := m.check(ctx, u, c)
	if err != nil {
		return Identity{}, err
	}
	if !known || !right {
		return Identity{}, denied("wrong password or unknown user %q", clip(c.Username))
	}
	return Identity{Account: c.Username, Service: u.service}, nil
}

// check compares a password with a user's. A password that was right before is
// known again without the hash's cost: ten thousand devices that come back at once
// would otherwise keep all cores busy for minutes.
func (m *fileMode) check(ctx context.Context, u *user, c Credentials) (bool, error) {
	seal := m.seal(c)
	u.mu.Lock()
	before := u.seal
	u.mu.Unlock()
	if hmac.Equal(before, seal) { // unequal length for nil
		return true, nil
	}
	select {
	case m.queue <- struct{}{}:
		defer func() { <-m.queue }()
	default:
		return false, unavailable("%d passwords are waiting to be checked", hashQueue)
	}
	ctx, cancel := context.WithTimeout(ctx, hashPatience)
	defer cancel()
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return false, unavailable("no time to check a password: %w", ctx.Err())
	}
	if !u.hash.matches(c.Password) {
		return false, nil
	}
	u.mu.Lock()
	u.seal = seal
	u.mu.Unlock()
	return true, nil
}

// seal is what is remembered of a right password: a MAC under a key that never
// leaves this process. It is good for as long as the user's entry in the file.
func (m *fileMode) seal(c Credentials) []byte {
	mac := hmac.New(sha256.New, m.key[:])
	fmt.Fprintf(mac, "%d:%s", len(c.Username), c.Username)
	mac.Write(c.Password)
	return mac.Sum(nil)
}

// bearer finds a token by its hash. Tokens are long and random, so that a fast
// hash keeps them safe, and a look-up by it tells nothing of its neighbours.
func (m *fileMode) bearer(_ context.Context, token, _ string) (Identity, error) {
	t, ok := m.file.get().tokens[sha256.Sum256([]byte(token))]
	if !ok {
		return Identity{}, denied("unknown token")
	}
	if !t.expires.IsZero() && !time.Now().Before(t.expires) {
		return Identity{}, denied("token %q expired at %s", t.name, t.expires.UTC().Format(time.RFC3339))
	}
	return t.id, nil
}

// clip keeps what is quoted short.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

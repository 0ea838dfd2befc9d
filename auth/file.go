package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"github.com/heartline-mqtt/heartline/config"
)

// fileText is the file of auth.file.path.
type fileText struct {
	Users  []userText  `yaml:"users,omitempty"`
	Tokens []tokenText `yaml:"tokens,omitempty"`
}

type userText struct {
	Name     string   `yaml:"name"`
	Password string   `yaml:"password_hash"`
	Role     string   `yaml:"role,omitempty"`
	Accounts []string `yaml:"accounts,omitempty"`
}

type tokenText struct {
	Name     string    `yaml:"name"`
	SHA256   string    `yaml:"sha256"`
	Role     string    `yaml:"role,omitempty"`
	Account  string    `yaml:"account,omitempty"`
	Accounts []string  `yaml:"accounts,omitempty"`
	Expires  time.Time `yaml:"expires,omitempty"`
}

// people is that file, parsed.
type people struct {
	users  map[string]*user
	tokens map[[sha256.Size]byte]*apiToken
	// decoy is checked where there is no such user: the dearest hash of the file, so
	// that the answer takes as long as a user's.
	decoy *user
	// uneven reports that some hash is much cheaper than the decoy: its user can be
	// told from an unknown name by the time of the answer.
	uneven bool
}

type user struct {
	text string // of hash
	hash passwordHash
	role role
}

type apiToken struct {
	name    string
	account string
	role    role
	expires time.Time
}

// role is what a user or token may do.
type role struct {
	service, admin bool
	accounts       []string
}

func (r role) same(o role) bool {
	return r.service == o.service && r.admin == o.admin && slices.Equal(r.accounts, o.accounts)
}

func (r role) identity(account string) Identity {
	return Identity{Account: account, Service: r.service, Admin: r.admin, Accounts: r.accounts}
}

// CheckFile returns everything that is wrong with the content of a users file, a line
// each. It quotes no hash.
func CheckFile(content []byte) error {
	p, err := parsePeople(content)
	if err == nil && p.none() {
		err = errNobody
	}
	return err
}

// errNobody is a mistake in mode file at the start. In a server that runs somebody has removed the
// last entry, and in mode tls clients have certificates.
var errNobody = errors.New("must have users or tokens: nobody could connect")

func (p *people) none() bool { return len(p.users)+len(p.tokens) == 0 }

func readFileText(content []byte) (text fileText, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&text); err != nil && !errors.Is(err, io.EOF) {
		return text, withoutValues(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return text, errors.New("must be one YAML document")
	}
	return text, noNulls(content)
}

// noNulls refuses keys without a value. YAML takes them for keys that are left out, so that a service
// whose last pattern of accounts is removed would act for all of them.
func noNulls(content []byte) error {
	var text struct{ Users, Tokens []map[string]yaml.Node }
	if err := yaml.Unmarshal(content, &text); err != nil {
		return withoutValues(err)
	}
	var errs []error
	refuse := func(list string, entries []map[string]yaml.Node) {
		for i, e := range entries {
			for _, key := range slices.Sorted(maps.Keys(e)) {
				if value := e[key]; value.ShortTag() == "!!null" {
					errs = append(errs, fmt.Errorf("%s[%d].%s: must have a value: leave it out for its default", list, i, key))
				}
			}
		}
	}
	refuse("users", text.Users)
	refuse("tokens", text.Tokens)
	return errors.Join(errs...)
}

// parsePeople parses the file. Its error holds all mistakes, a line each; none of it
// quotes a hash.
func parsePeople(content []byte) (people, error) {
	p := people{users: map[string]*user{}, tokens: map[[sha256.Size]byte]*apiToken{}}
	text, err := readFileText(content)
	if err != nil {
		return p, err
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	cheapest := math.Inf(1)
	for i, u := range text.Users {
		at := fmt.Sprintf("users[%d].", i)
		if err := validName(u.Name); err != nil {
			wrong("%sname: %w", at, err)
		} else if p.users[u.Name] != nil {
			wrong("%sname: %q is there twice", at, u.Name)
		}
		r, err := parseRole(u.Role, roleDevice, u.Accounts)
		if err != nil {
			wrong("%s%w", at, err)
		}
		hash, err := parseHash(u.Password)
		one := &user{text: u.Password, hash: hash, role: r}
		p.users[u.Name] = one
		if err != nil {
			wrong("%spassword_hash: %w", at, err)
			continue
		}
		cheapest = min(cheapest, hash.cost())
		if p.decoy == nil || hash.cost() > p.decoy.hash.cost() {
			p.decoy = &user{text: u.Password, hash: hash}
		}
	}
	for i, t := range text.Tokens {
		at := fmt.Sprintf("tokens[%d].", i)
		if err := validName(t.Name); err != nil {
			wrong("%sname: %w", at, err)
		}
		r, err := parseRole(t.Role, roleService, t.Accounts)
		if err != nil {
			wrong("%s%w", at, err)
		}
		switch device := or(t.Role, roleService) == roleDevice; {
		case device && t.Account == "":
			wrong("%saccount: must be set for the token of a device", at)
		case !device && t.Account != "":
			wrong("%saccount: must not be set for a %s: accounts limits a service to some accounts", at, or(t.Role, roleService))
		}
		sum, err := hex.DecodeString(t.SHA256)
		if err != nil || len(sum) != sha256.Size {
			wrong("%ssha256: must be the SHA-256 of the token, 64 hexadecimal digits", at)
			continue
		}
		key := [sha256.Size]byte(sum)
		if other, twice := p.tokens[key]; twice {
			wrong("%ssha256: is that of the token %q, too", at, other.name)
		}
		p.tokens[key] = &apiToken{name: t.Name, account: t.Account, role: r, expires: t.Expires}
	}
	if text.Users == nil && text.Tokens == nil { // whoever removes the last entry leaves an empty list; this may be half a write
		errs = append(errs, errNobody)
	}
	if p.decoy == nil { // no users: there is nothing to find out either
		p.decoy = &user{text: nobody, hash: bcryptHash{[]byte(nobody), bcrypt.DefaultCost}}
	}
	p.uneven = cheapest < p.decoy.hash.cost()/1.5
	return p, errors.Join(errs...)
}

// nobody is a bcrypt hash of no known password.
const nobody = "$2a$10$cpOu1Q9aipLHnfossm.b5.TJEkMGB5AIXqNq1Ki.oHDbCnlIVmSii"

func parseRole(name, absent string, accounts []string) (r role, err error) {
	if name == "" {
		name = absent
	}
	switch name {
	case roleDevice:
		if len(accounts) > 0 {
			return r, errors.New("accounts: must not be set for a device, which acts for its own account only")
		}
	case roleService:
		r.service = true
	case roleAdmin:
		if accounts != nil {
			return r, errors.New("accounts: must not be set for an admin, whose calls are about all accounts: use the role service")
		}
		r.service, r.admin = true, true
	default:
		return r, fmt.Errorf("role: must be device, service or admin, got %q", clip(name))
	}
	if r.service && accounts != nil && len(accounts) == 0 {
		return r, errors.New("accounts: must not be empty: leave it out for all accounts")
	}
	for i, p := range accounts {
		if err := validPattern(p); err != nil {
			return r, fmt.Errorf("accounts[%d]: %w", i, err)
		}
	}
	r.accounts = accounts
	return r, nil
}

func validName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return fmt.Errorf("must be 1 to %d bytes without control characters, got %q", maxName, clip(name))
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
	file      *watched[people]
	verifiers *verifiers
	refused   *refused
	throttle  *throttle
	queue     *queue
}

// blindPatience is how long a client may wait for its turn if nobody can tell whether
// its connection is still open.
const blindPatience = time.Minute

func newFileMode(cfg config.AuthFromFile, files *watcher, o Options) (_ *fileMode, err error) {
	slots := min(runtime.GOMAXPROCS(0), runtime.NumCPU())
	m := &fileMode{refused: newRefused(), throttle: newThrottle(), queue: newQueue(slots, slots, true)}
	if m.file, err = watch(files, "auth.file.path", cfg.Path, true, parsePeople); err != nil {
		return nil, err
	}
	if m.verifiers, err = newVerifiers(cfg, o.StateDir, o.Logger); err != nil {
		return nil, err
	}
	m.file.onChange = func(p people) { m.verifiers.keep(p.users) }
	if m.file.get().uneven {
		o.Logger.Warn("some password hashes cost much less than others: their users can be told from unknown names by the time of the answer", "path", cfg.Path)
	}
	return m, nil
}

func (m *fileMode) close() error { return m.verifiers.close() }

func (m *fileMode) connect(ctx context.Context, c Credentials) (Identity, error) {
	if len(c.Password) > maxPassword {
		return Identity{}, denied("a password of %d bytes", len(c.Password))
	}
	if len(c.Username) > maxName {
		return Identity{}, denied("a username of %d bytes", len(c.Username))
	}
	all := m.file.get()
	u, known := all.users[c.Username]
	if !known {
		u = all.decoy
	}
	right, err := m.check(ctx, u, known, c)
	if err != nil {
		return Identity{}, err
	}
	if !known || !right {
		address := addressKey(c.Remote)
		pause(ctx, m.throttle.onFailure(address, c.Username, time.Now()), c.Open)
		return Identity{}, denied("wrong password or unknown user %q", clip(c.Username))
	}
	id := u.role.identity(c.Username)
	id.revoked = func() error {
		switch now := m.file.get().users[c.Username]; {
		case now == nil || !now.role.same(u.role):
			return ErrRemoved
		case now.text != u.text:
			return errChanged
		}
		return nil
	}
	return id, nil
}

// check compares a password with a user's hash. A password that was right before
// has a verifier: ten thousand devices that come back at once would otherwise keep
// all cores busy for minutes. One that was wrong before is not hashed again either.
func (m *fileMode) check(ctx context.Context, u *user, known bool, c Credentials) (bool, error) {
	wrong := m.refused.key(c.Username, u.text, known, c.Password)
	// decided reports whether the answer needs no hash. An unknown name takes the same
	// steps as a known one.
	decided := func() (right, ok bool) {
		verified := m.verifiers.knows(c.Username, u.text, c.Password, time.Now())
		return verified && known, verified || m.refused.has(wrong)
	}
	if right, ok := decided(); ok {
		return right, nil
	}
	if c.Open == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, blindPatience)
		defer cancel()
	}
	address := addressKey(c.Remote)
	release, err := m.queue.acquire(ctx, address, func() class { return m.throttle.class(address, c.Username, time.Now()) }, c.Open)
	if err != nil {
		return false, unavailable("the password was not checked: %w", err)
	}
	defer release()
	// Of an account's devices that wait together the first one is hashed for all.
	if right, ok := decided(); ok {
		return right, nil
	}
	if !u.hash.matches(c.Password) || !known {
		m.refused.put(wrong)
		return false, nil
	}
	m.verifiers.remember(c.Username, u.text, c.Password, time.Now())
	return true, nil
}

// bearer finds a token by its hash. Tokens are long and random, so that a fast
// hash keeps them safe, and a look-up by it tells nothing of its neighbours.
func (m *fileMode) bearer(_ context.Context, token, _ string) (Identity, error) {
	key := sha256.Sum256([]byte(token))
	t, ok := m.file.get().tokens[key]
	if !ok {
		return Identity{}, denied("unknown token")
	}
	if !t.expires.IsZero() && !time.Now().Before(t.expires) {
		return Identity{}, denied("token %q expired at %s", t.name, t.expires.UTC().Format(time.RFC3339))
	}
	id := t.role.identity(t.account)
	id.Expires = t.expires
	id.revoked = func() error {
		switch now := m.file.get().tokens[key]; {
		case now == nil || !now.role.same(t.role) || now.account != t.account:
			return ErrRemoved
		case !now.expires.Equal(t.expires):
			return errChanged
		}
		return nil
	}
	return id, nil
}

// clip shortens text for quoting in an error.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

package auth

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/config"
)

const (
	verifierFile   = "auth-verifiers"
	verifierHeader = "heartline verifiers 1"
	verifierFlush  = 5 * time.Second
	maxVerifiers   = 1 << 20
)

// verifiers remember passwords that were right, so that a device that comes back is
// recognized without the cost of its password's hash. A verifier is an HMAC over the
// username, the user's hash and the password. It is void when the hash changes or the
// user is removed, and expires.
//
// The key is in a file of its own or in the environment. Without the key the
// verifiers tell nothing; with it and the file of verifiers a password can be guessed
// at the speed of SHA-256 instead of that of the hash. docs/security.md says so.
type verifiers struct {
	key  []byte
	ttl  time.Duration
	path string // "": in memory only
	log  *slog.Logger

	mu    sync.Mutex
	known map[string]verifier
	dirty bool

	once    sync.Once
	done    chan struct{}
	running sync.WaitGroup
}

type verifier struct {
	mac     [sha256.Size]byte
	expires time.Time
}

func newVerifiers(cfg config.AuthFromFile, dir string, log *slog.Logger) (*verifiers, error) {
	v := &verifiers{ttl: cfg.VerifierTTL, log: log, known: map[string]verifier{}, done: make(chan struct{})}
	if v.ttl <= 0 {
		v.ttl = 720 * time.Hour
	}
	var err error
	switch {
	case cfg.VerifierKey != "":
		if v.key, err = verifierKey(cfg.VerifierKey.Reveal()); err != nil {
			return nil, fmt.Errorf("auth.file.verifier_key: %w", err)
		}
	case cfg.VerifierKeyFile != "":
		if v.key, err = verifierKeyFile(cfg.VerifierKeyFile); err != nil {
			return nil, fmt.Errorf("auth.file.verifier_key_file: %w", err)
		}
	default:
		v.key = make([]byte, sha256.Size)
		_, _ = rand.Read(v.key) // it never fails
		dir = ""                // nobody could read it after a restart
	}
	if dir == "" {
		return v, nil
	}
	v.path = filepath.Join(dir, verifierFile)
	v.load(time.Now())
	v.running.Go(v.run)
	return v, nil
}

func verifierKey(text string) ([]byte, error) {
	key, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) < sha256.Size {
		return nil, errors.New("must be at least 64 hexadecimal digits, as openssl rand -hex 32 makes them")
	}
	return key, nil
}

// verifierKeyFile reads the key, or makes one if there is no file. It refuses a file
// that others can read: the data that the key protects would be as good as public.
func verifierKeyFile(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, sha256.Size)
		_, _ = rand.Read(key) // it never fails
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		_, err = f.WriteString(hex.EncodeToString(key) + "\n")
		return key, errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: must be readable by its owner only; chmod 600 it, and replace the key if somebody may have read it", path, info.Mode().Perm())
	}
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return verifierKey(string(content))
}

func (v *verifiers) mac(username, hash string, password []byte) (sum [sha256.Size]byte) {
	m := hmac.New(sha256.New, v.key)
	fmt.Fprintf(m, "%d:%s%d:%s", len(username), username, len(hash), hash)
	m.Write(password)
	m.Sum(sum[:0])
	return sum
}

// knows reports whether the password was right lately.
func (v *verifiers) knows(username, hash string, password []byte, now time.Time) bool {
	v.mu.Lock()
	known, ok := v.known[username]
	v.mu.Unlock()
	// Always compute the MAC: its time must not tell which users have logged in.
	sum := v.mac(username, hash, password)
	return hmac.Equal(known.mac[:], sum[:]) && ok && now.Before(known.expires)
}

// remember stores a password that was right.
func (v *verifiers) remember(username, hash string, password []byte, now time.Time) {
	sum := v.mac(username, hash, password)
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, had := v.known[username]; !had && len(v.known) >= maxVerifiers {
		return
	}
	v.known[username] = verifier{sum, now.Add(v.ttl)}
	v.dirty = true
}

// keep drops the verifiers of users that are gone.
func (v *verifiers) keep(users map[string]*user) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name := range v.known {
		if users[name] == nil {
			delete(v.known, name)
			v.dirty = true
		}
	}
}

func (v *verifiers) run() {
	t := time.NewTicker(verifierFlush)
	defer t.Stop()
	for {
		select {
		case <-v.done:
			return
		case <-t.C:
			if err := v.flush(); err != nil {
				v.log.Warn("verifiers not written, devices will need their password's hash after a restart", "error", err)
			}
		}
	}
}

// load reads the file. A line that cannot be read costs its user one hash.
func (v *verifiers) load(now time.Time) {
	content, err := readFile(v.path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		v.log.Warn("verifiers not read, devices need their password's hash once", "error", err)
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	if !lines.Scan() || lines.Text() != verifierHeader {
		v.log.Warn("verifiers not read, devices need their password's hash once", "error", "unknown format")
		return
	}
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			continue
		}
		seconds, err := strconv.ParseInt(fields[0], 10, 64)
		name, err2 := base64.RawURLEncoding.DecodeString(fields[1])
		mac, err3 := base64.RawURLEncoding.DecodeString(fields[2])
		expires := time.Unix(seconds, 0)
		if errors.Join(err, err2, err3) != nil || len(mac) != sha256.Size || !now.Before(expires) || expires.After(now.Add(v.ttl+time.Hour)) {
			continue
		}
		v.known[string(name)] = verifier{[sha256.Size]byte(mac), expires}
	}
}

// flush writes the file if something has changed. A crash loses the last seconds,
// which costs a few hashes.
func (v *verifiers) flush() error {
	v.mu.Lock()
	if !v.dirty || v.path == "" {
		v.mu.Unlock()
		return nil
	}
	v.dirty = false
	var b bytes.Buffer
	b.WriteString(verifierHeader + "\n")
	now := time.Now()
	for name, k := range v.known {
		if !now.Before(k.expires) {
			delete(v.known, name)
			continue
		}
		fmt.Fprintf(&b, "%d %s %s\n", k.expires.Unix(), base64.RawURLEncoding.EncodeToString([]byte(name)), base64.RawURLEncoding.EncodeToString(k.mac[:]))
	}
	v.mu.Unlock()
	err := writeFile(v.path, b.Bytes(), 0o600, nil)
	if err != nil {
		v.mu.Lock()
		v.dirty = true
		v.mu.Unlock()
	}
	return err
}

func (v *verifiers) close() error {
	v.once.Do(func() { close(v.done) })
	v.running.Wait()
	return v.flush()
}

// writeFile replaces a file in one step. The new one has the owner of old, if that is given.
func writeFile(path string, content []byte, mode fs.FileMode, old fs.FileInfo) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	if old != nil {
		err = keepOwner(f, old)
	}
	if err == nil {
		_, err = f.Write(content)
	}
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

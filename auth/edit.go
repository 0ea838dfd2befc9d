package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/heartline-mqtt/heartline/config"
)

// Entry is a user or a token of a users file, as it is shown: without its hash.
type Entry struct {
	Name     string     `json:"name"`
	Role     string     `json:"role"`
	Account  string     `json:"account,omitempty"`
	Accounts []string   `json:"accounts,omitempty"`
	Expires  *time.Time `json:"expires,omitempty"`
}

// Errors of editing a users file.
var (
	ErrExists  = errors.New("is there already")
	ErrMissing = errors.New("is not there")
)

// NewToken returns a new bearer token: 256 random bits.
func NewToken() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// Users lists the users of a file, Tokens its API tokens.
func Users(path string) (out []Entry, err error) {
	text, err := readUsersFile(path)
	for _, u := range text.Users {
		out = append(out, Entry{Name: u.Name, Role: or(u.Role, roleDevice), Accounts: u.Accounts})
	}
	return out, err
}

// Tokens lists the API tokens of a file.
func Tokens(path string) (out []Entry, err error) {
	text, err := readUsersFile(path)
	for _, t := range text.Tokens {
		e := Entry{Name: t.Name, Role: or(t.Role, roleService), Account: t.Account, Accounts: t.Accounts}
		if !t.Expires.IsZero() {
			e.Expires = &t.Expires
		}
		out = append(out, e)
	}
	return out, err
}

func or(s, absent string) string {
	if s == "" {
		return absent
	}
	return s
}

func readUsersFile(path string) (text fileText, err error) {
	content, err := readFile(path)
	if err != nil {
		return text, err
	}
	if text, err = readFileText(content); err != nil {
		return text, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// AddUser adds a user, or replaces one where replace is set. Without a role, a user that
// is replaced keeps its role and, unless e has some, its accounts. A file that is not there is
// made. The comments of the file stay.
func AddUser(path string, e Entry, password []byte, replace bool) error {
	if len(password) == 0 || len(password) > maxPassword {
		return fmt.Errorf("the password must have 1 to %d bytes, has %d", maxPassword, len(password))
	}
	return edit(path, "users", e.Name, func(old *yaml.Node) (any, error) {
		if old != nil && !replace {
			return nil, fmt.Errorf("user %q %w", e.Name, ErrExists)
		}
		u := userText{Name: e.Name, Role: or(e.Role, roleDevice), Accounts: e.Accounts}
		if old != nil && e.Role == "" {
			var was userText
			if err := old.Decode(&was); err != nil {
				return nil, withoutValues(err)
			}
			if u.Role = or(was.Role, roleDevice); u.Accounts == nil {
				u.Accounts = was.Accounts
			}
		}
		u.Password = HashPassword(password)
		return u, nil
	})
}

// RemoveUser removes a user. Its connections end within seconds.
func RemoveUser(path, name string) error {
	return edit(path, "users", name, func(old *yaml.Node) (any, error) {
		if old == nil {
			return nil, fmt.Errorf("user %q %w", name, ErrMissing)
		}
		return nil, nil
	})
}

// AddToken adds the hash of an API token.
func AddToken(path string, e Entry, token string) error {
	return edit(path, "tokens", e.Name, func(old *yaml.Node) (any, error) {
		if old != nil {
			return nil, fmt.Errorf("token %q %w", e.Name, ErrExists)
		}
		sum := sha256.Sum256([]byte(token))
		t := tokenText{Name: e.Name, SHA256: hex.EncodeToString(sum[:]), Role: or(e.Role, roleService), Account: e.Account, Accounts: e.Accounts}
		if e.Expires != nil {
			t.Expires = e.Expires.UTC().Truncate(time.Second)
		}
		return t, nil
	})
}

// RemoveToken revokes an API token.
func RemoveToken(path, name string) error {
	return edit(path, "tokens", name, func(old *yaml.Node) (any, error) {
		if old == nil {
			return nil, fmt.Errorf("token %q %w", name, ErrMissing)
		}
		return nil, nil
	})
}

// edit replaces the entry of a list: change returns the new one, nil for none. The
// result is checked as the server would before the file is replaced, in one step, and is
// durable. An entry is removed from a file with other mistakes, too, and the error says that
// no server takes it. Edits by several processes follow each other; the file keeps its owner and its mode.
func edit(path, list, name string, change func(old *yaml.Node) (any, error)) (err error) {
	if err := validName(name); err != nil {
		return fmt.Errorf("the name %w", err)
	}
	path, err = followLink(path)
	if err != nil {
		return err
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	content, err := readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := readFileText(content); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(content, &doc); err != nil {
		return fmt.Errorf("%s: %w", path, withoutValues(err))
	}
	if doc.Kind == 0 {
		doc = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map"}}}
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		*root = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} // null
	}
	entries := listOf(root, list)
	named := func(n *yaml.Node) bool { return nameOf(n) == name }
	at := slices.IndexFunc(entries.Content, named)
	var entry *yaml.Node
	if at >= 0 {
		entry = entries.Content[at]
	}
	value, err := change(entry)
	if err != nil {
		return err
	}
	if value == nil {
		entries.Content = slices.DeleteFunc(entries.Content, named) // tokens may share a name
	} else {
		n := new(yaml.Node)
		if err := n.Encode(value); err != nil {
			return err
		}
		if entry != nil {
			n.HeadComment, n.LineComment, n.FootComment = entry.HeadComment, entry.LineComment, entry.FootComment
			entries.Content[at] = n
		} else {
			entries.Content = append(entries.Content, n)
		}
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(&doc), enc.Close()); err != nil {
		return err
	}
	_, wrong := parsePeople(out.Bytes()) // the last user may be removed: it is the file's owner who decides
	if wrong != nil && value != nil {
		return fmt.Errorf("%s: %w", path, wrong)
	}
	old, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = writeFile(path, out.Bytes(), 0o600, nil)
	case err == nil:
		err = writeFile(path, out.Bytes(), old.Mode().Perm(), old)
	}
	if err == nil && wrong != nil {
		err = fmt.Errorf("%q is removed, but a server goes on with the file's last version until this is mended: %s: %w", name, path, wrong)
	}
	return err
}

// followLink returns the file behind a symbolic link, which a rename would replace.
func followLink(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return path, err
	}
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is a symbolic link to a file that does not exist: make that file, or remove the link", path)
	}
	return target, err
}

func listOf(root *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == name {
			n := root.Content[i+1]
			if n.Kind != yaml.SequenceNode {
				*n = yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"} // null
			}
			return n
		}
	}
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, n)
	return n
}

func nameOf(n *yaml.Node) string {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "name" {
			return n.Content[i+1].Value
		}
	}
	return ""
}

// Check reads the files and the secrets of a section of the configuration, as New would,
// and returns all mistakes of their content, joined. It fetches nothing.
func Check(cfg config.Auth) error {
	var errs []error
	secret := func(key string, given config.Secret, parse func(string) error) {
		if given == "" {
			return
		}
		if err := parse(given.Reveal()); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	check := func(key, path string, parse func([]byte) error) {
		if path == "" {
			return
		}
		content, err := readFile(path)
		if err == nil {
			if err = parse(content); err != nil {
				err = fmt.Errorf("%s: %w", path, err)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	keys := func(parse func([]byte) ([]verifyKey, error)) func([]byte) error {
		return func(content []byte) error { _, err := parse(content); return err }
	}
	switch cfg.Mode {
	case config.AuthFile:
		check("auth.file.path", cfg.File.Path, CheckFile)
	case config.AuthTLS:
		check("auth.file.path", cfg.File.Path, func(content []byte) error { _, err := parsePeople(content); return err })
	case config.AuthJWT:
		check("auth.jwt.jwks_file", cfg.JWT.JWKSFile, keys(parseJWKS))
		check("auth.jwt.public_key_file", cfg.JWT.PublicKeyFile, keys(parsePublicKey))
		check("auth.jwt.secret_file", cfg.JWT.SecretFile, keys(parseSecret))
		secret("auth.jwt.secret", cfg.JWT.Secret, func(text string) error { _, err := parseSecret([]byte(text)); return err })
	}
	if cfg.Mode == config.AuthFile || cfg.Mode == config.AuthTLS && cfg.File.Path != "" {
		secret("auth.file.verifier_key", cfg.File.VerifierKey, func(text string) error { _, err := verifierKey(text); return err })
		if path := cfg.File.VerifierKeyFile; path != "" {
			if _, err := os.Stat(path); err == nil { // otherwise it will be made
				if _, err := verifierKeyFile(path); err != nil {
					errs = append(errs, fmt.Errorf("auth.file.verifier_key_file: %w", err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/viper"
)

// Source is where a configuration comes from. A flag wins over the environment,
// the environment over the file, the file over the default.
type Source struct {
	File    string   // .yaml, .yml, .toml or .json; "" reads none
	Environ []string // "NAME=value", as os.Environ returns it
	Flags   []Flag   // those that were given; of two for one key the later wins
}

// Flag is one value from the command line.
type Flag struct {
	Key   string // "mqtt.address"
	Name  string // "--mqtt-address", for findings
	Value string
}

// EnvPrefix is what the variables begin with: delivery.ack_window is
// HEARTLINE_DELIVERY_ACK_WINDOW.
const EnvPrefix = "HEARTLINE_"

// Load reads src, checks every value on its own and then all the rules, and
// returns either a configuration that may be run or an Errors with every finding.
func Load(src Source) (*Config, error) {
	c, l := read(src)
	for _, f := range append(c.check(l.broken), checkServes(c, l.broken)...) {
		f.From = l.from[f.Key]
		l.findings = append(l.findings, f)
	}
	if err := l.findings.orNil(); err != nil {
		return nil, err
	}
	return c, nil
}

// UsersFile returns auth.file.path of src, whatever its other keys say: a users file can be
// made, and a token in it revoked, where the configuration is not ready for a server.
func UsersFile(src Source) (string, error) {
	c, l := read(src)
	const key = "auth.file.path"
	l.findings = slices.DeleteFunc(l.findings, func(f Finding) bool {
		return !strings.HasPrefix(key, f.Key) && (src.File == "" || !strings.HasPrefix(f.Key, src.File))
	})
	return c.Auth.File.Path, l.findings.orNil()
}

// read reads src without the rules.
func read(src Source) (*Config, *loader) {
	c := Default()
	l := &loader{
		fields: fieldsOf(reflect.TypeFor[Config](), ""),
		viper:  viper.NewWithOptions(), // private: the package's own is one for the whole process
		broken: map[string]bool{},
		from:   map[string]string{},
	}
	if src.File != "" {
		l.readFile(src.File)
	}
	l.readEnviron(src.Environ)
	l.readFlags(src.Flags)
	l.decode(c)
	return c, l
}

// loader collects all findings instead of stopping at the first, so that a configuration
// can be corrected in one go.
type loader struct {
	fields   []field
	viper    *viper.Viper
	findings Errors
	broken   map[string]bool   // keys that already have a finding; rules that need them say nothing
	from     map[string]string // the flag or the variable that a key's value came from
}

func (l *loader) report(f Finding) {
	l.findings = append(l.findings, f)
	l.broken[f.Key] = true
}

// field is one key of the configuration.
type field struct {
	key    string // "delivery.ack_window"
	name   string // its last part
	goName string // its path in Go, "Delivery.AckWindow", which its comment is found by
	index  []int
	typ    reflect.Type
}

func (f field) env() string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(f.key, ".", "_"))
}

// secret keys exist in the environment only.
func (f field) secret() bool { return f.typ == reflect.TypeFor[Secret]() }

func (f field) list() bool { return f.typ.Kind() == reflect.Slice }

// fieldsOf lists the keys below a struct in the order in which it declares them.
func fieldsOf(t reflect.Type, prefix string) []field {
	var out []field
	for _, sf := range reflect.VisibleFields(t) {
		name := sf.Tag.Get("key")
		if sf.Type.Kind() != reflect.Struct {
			out = append(out, field{
				key: prefix + name, name: name, goName: t.Name() + "." + sf.Name,
				index: sf.Index, typ: sf.Type,
			})
			continue
		}
		for _, f := range fieldsOf(sf.Type, prefix+name+".") {
			f.index = append(slices.Clone(sf.Index), f.index...)
			out = append(out, f)
		}
	}
	return out
}

// given is a value from the environment or a flag, told apart from a file's by its
// type: a variable is always text, so "5" there may be a number; in a file it may
// not.
type given struct {
	text string
	from string
}

func (l *loader) readEnviron(environ []string) {
	byName := make(map[string]field, len(l.fields))
	names := make([]string, 0, len(l.fields))
	for _, f := range l.fields {
		byName[f.env()] = f
		names = append(names, f.env())
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, EnvPrefix) {
			continue
		}
		f, known := byName[name]
		if !known {
			if !foreign(name, value) {
				l.report(Finding{Key: name, Rule: "is no variable of Heartline" + didYouMean(name, names)})
			}
			continue
		}
		// Set, not viper.BindEnv, which reads the process environment: what a
		// configuration is made of must be in its Source, or no test can say so.
		l.viper.Set(f.key, given{value, name})
	}
}

// foreign reports variables that begin like ours and are not configuration: those
// of the client commands, and those that Kubernetes sets in every pod for a
// Service whose name begins with "heartline".
func foreign(name, value string) bool {
	switch name {
	case EnvConfig, EnvServer, EnvToken, EnvTokenFile:
		return true
	}
	return kubernetesURL.MatchString(name) && strings.Contains(value, "://") || kubernetesPart.MatchString(name)
}

// Variables that the commands read themselves.
const (
	EnvConfig    = "HEARTLINE_CONFIG"     // the configuration file, as --config
	EnvServer    = "HEARTLINE_SERVER"     // the server that client commands call, as --server
	EnvToken     = "HEARTLINE_TOKEN"      // the bearer token of client commands
	EnvTokenFile = "HEARTLINE_TOKEN_FILE" // as --token-file
)

var (
	kubernetesURL  = regexp.MustCompile(`^HEARTLINE_([A-Z0-9_]+_)?PORT(_[0-9]+_(TCP|UDP|SCTP))?$`)
	kubernetesPart = regexp.MustCompile(`^HEARTLINE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR))$`)
)

func (l *loader) readFlags(flags []Flag) {
	for _, f := range flags {
		l.viper.Set(f.Key, given{f.Value, f.Name})
	}
}

// decode puts what viper has layered into c, one key at a time, so that every
// value that does not fit is named and not only the first.
func (l *loader) decode(c *Config) {
	v := reflect.ValueOf(c).Elem()
	for _, f := range l.fields {
		raw := l.viper.Get(f.key)
		if raw == nil {
			continue // the default
		}
		dst := v.FieldByIndex(f.index)
		if f.list() {
			l.decodeList(f, raw, dst)
			continue
		}
		var err error
		shown, show := showRaw(raw)
		if g, ok := raw.(given); ok {
			l.from[f.key] = g.from
			shown, show = g.text, !f.secret()
			err = decodeText(g.text, dst)
		} else {
			err = decodeValue(raw, dst)
		}
		if err != nil {
			l.report(Finding{Key: f.key, Rule: err.Error(), Got: shown, HasGot: show, From: l.from[f.key]})
		}
	}
}

// decodeList decodes a list, of structs or of plain values. In a variable it is written as JSON.
func (l *loader) decodeList(f field, raw any, dst reflect.Value) {
	from := ""
	if g, ok := raw.(given); ok {
		from = g.from
		var list []any
		if err := json.Unmarshal([]byte(g.text), &list); err != nil {
			l.report(Finding{Key: f.key, Rule: "must be a list written as JSON: " + err.Error(), From: from})
			return
		}
		raw = list
	}
	list, ok := raw.([]any)
	if !ok {
		shown, show := showRaw(raw)
		l.report(Finding{Key: f.key, Rule: errList.Error(), Got: shown, HasGot: show, From: from})
		return
	}
	if f.typ.Elem().Kind() != reflect.Struct {
		l.decodeValues(f, list, from, dst)
		return
	}
	out := reflect.MakeSlice(f.typ, 0, len(list))
	fields := fieldsOf(f.typ.Elem(), "")
	for i, raw := range list {
		at := fmt.Sprintf("%s[%d]", f.key, i)
		elem := reflect.New(f.typ.Elem()).Elem()
		m, ok := section(raw)
		if !ok {
			l.report(Finding{Key: at, Rule: "must be a section with keys of its own", From: from})
			l.broken[f.key] = true
			continue
		}
		if from != "" { // a file has been through this before viper lower-cased its keys
			l.unknownKeys(m, f, at+".", from)
		}
		for _, ef := range fields {
			raw, ok := m[ef.name]
			if !ok {
				continue
			}
			if err := decodeValue(raw, elem.FieldByIndex(ef.index)); err != nil {
				shown, show := showRaw(raw)
				l.report(Finding{Key: at + "." + ef.key, Rule: err.Error(), Got: shown, HasGot: show, From: from})
				l.broken[f.key] = true
			}
		}
		out = reflect.Append(out, elem)
	}
	if out.Len() > 0 {
		dst.Set(out)
	}
}

// decodeValues decodes a list of plain values, such as names.
func (l *loader) decodeValues(f field, list []any, from string, dst reflect.Value) {
	out := reflect.MakeSlice(f.typ, len(list), len(list))
	for i, raw := range list {
		if err := decodeValue(raw, out.Index(i)); err != nil {
			shown, show := showRaw(raw)
			l.report(Finding{Key: fmt.Sprintf("%s[%d]", f.key, i), Rule: err.Error(), Got: shown, HasGot: show, From: from})
			l.broken[f.key] = true
		}
	}
	if out.Len() > 0 {
		dst.Set(out)
	}
}

// unknownKeys looks for them in one section of the list f.
func (l *loader) unknownKeys(m map[string]any, f field, at, from string) {
	if f.typ.Elem().Kind() != reflect.Struct {
		return // decodeValues reports a section where a plain value belongs
	}
	var names []string
	for _, ef := range fieldsOf(f.typ.Elem(), "") {
		names = append(names, ef.key)
	}
	for _, key := range sortedKeys(m) {
		if !slices.Contains(names, key) {
			l.report(Finding{Key: at + key, Rule: "is no key of Heartline" + didYouMean(key, names), From: from})
			l.broken[f.key] = true // what the key was meant for would be missed, too
		}
	}
}

// didYouMean proposes the nearest of names, where one is near.
func didYouMean(name string, names []string) string {
	best, distance := "", 1+len(name)/4
	for _, n := range names {
		if strings.Count(n, ".") != strings.Count(name, ".") {
			continue // a section is no answer to a key
		}
		if d := editDistance(name, n); d <= distance && (best == "" || d < distance) {
			best, distance = n, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Key describes one key, for documentation.
type Key struct {
	Name    string // "delivery.ack_window"
	Env     string // "HEARTLINE_DELIVERY_ACK_WINDOW"
	Default string // as a file writes it
	EnvOnly bool   // a secret that no file may hold
}

// Keys lists every key in the order of the example file.
func Keys() []Key {
	v := reflect.ValueOf(Default()).Elem()
	var keys []Key
	for _, f := range fieldsOf(v.Type(), "") {
		keys = append(keys, Key{Name: f.key, Env: f.env(), Default: scalar(v.FieldByIndex(f.index)), EnvOnly: f.secret()})
	}
	return keys
}

// formatDuration writes 5m for what time.Duration writes as 5m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

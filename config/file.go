package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// Sizes far above those of any configuration, and of any file that one names: users, key
// sets and revocation lists grow with the people. A larger file, named by mistake, is not read
// into memory.
const (
	maxFileSize      = 1 << 20
	maxNamedFileSize = 64 << 20
)

// readFile puts a file into viper, less the parts that have a finding.
func (l *loader) readFile(path string) {
	at := func(rule string) { l.report(Finding{Key: path, Rule: rule}) }
	format := strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")
	switch format {
	case "yaml", "yml", "toml", "json":
	default:
		at("is of no known format: its name must end in .yaml, .yml, .toml or .json")
		return
	}
	text, err := readAll(path, maxFileSize)
	if err != nil {
		at("cannot be read: " + reason(err))
		return
	}
	l.readText(path, format, text)
}

func readAll(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, errors.New("it is a directory")
	}
	if !info.Mode().IsRegular() { // a pipe would be waited for, and empty the second time
		return nil, errors.New("it is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("it is larger than %s", ByteSize(most))
	}
	return text, nil
}

// reason is an error without the path that its finding already names.
func reason(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

func (l *loader) readText(path, format string, text []byte) {
	// Windows editors begin a file with a UTF-8 byte order mark, which only YAML
	// skips.
	text = bytes.TrimPrefix(text, []byte("\xEF\xBB\xBF"))
	if i := invalidUTF8(text); i >= 0 {
		l.report(Finding{Key: fileLine(path, text, i), Rule: "is not UTF-8: save the file with that encoding"})
		return
	}
	d := &treeDecoder{loader: l, path: path, format: format}
	l.viper = viper.NewWithOptions(viper.WithDecoderRegistry(d))
	l.viper.SetConfigType(format)
	// The error is that of the decoder below, which has reported it.
	if err := l.viper.ReadConfig(bytes.NewReader(text)); err != nil && len(l.findings) == 0 {
		l.report(Finding{Key: path, Rule: "cannot be read: " + err.Error()})
	}
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

func fileLine(path string, text []byte, offset int) string {
	offset = min(offset, len(text))
	return fmt.Sprintf("%s:%d", path, 1+bytes.Count(text[:offset], []byte("\n")))
}

// treeDecoder decodes a file for viper and checks the tree first. Viper lower-cases
// keys, splits them at dots, drops null values and values of the wrong type, and keeps no
// order: after it, nobody can tell the mistakes of the file. treeDecoder is its own
// registry because it serves one file.
type treeDecoder struct {
	loader *loader
	path   string
	format string
}

// Decoder implements viper.DecoderRegistry.
func (d *treeDecoder) Decoder(string) (viper.Decoder, error) { return d, nil }

// Decode implements viper.Decoder.
func (d *treeDecoder) Decode(text []byte, into map[string]any) error {
	var tree map[string]any
	var err error
	switch d.format {
	case "json":
		tree, err = d.json(text)
	case "toml":
		tree, err = d.toml(text)
	default:
		tree, err = d.yaml(text)
	}
	if err != nil {
		return err
	}
	d.loader.prune(tree, "")
	maps.Copy(into, tree)
	return nil
}

// report takes line 0 where the decoder does not say.
func (d *treeDecoder) report(line int, rule string) error {
	f := Finding{Key: fmt.Sprintf("%s:%d", d.path, line), Rule: rule}
	if line == 0 {
		f.Key = d.path
	}
	d.loader.report(f)
	return Errors{f}
}

// yamlLine is how go.yaml.in/yaml says where.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:\S+ error: )?line (\d+): (.*)$`)

func (d *treeDecoder) yaml(text []byte) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var root yaml.Node
	err := dec.Decode(&root)
	if errors.Is(err, io.EOF) {
		return nil, nil // empty: all defaults
	}
	if err != nil {
		return nil, d.yamlError(err)
	}
	var another yaml.Node
	if err := dec.Decode(&another); !errors.Is(err, io.EOF) {
		return nil, d.report(max(another.Line, root.Line), "holds a second YAML document (---), and only one is read")
	}
	if len(root.Content) == 1 && root.Content[0].Tag == "!!null" {
		return nil, nil
	}
	if len(root.Content) == 1 && root.Content[0].Kind != yaml.MappingNode {
		return nil, d.report(root.Content[0].Line, "must hold keys and values")
	}
	var tree map[string]any
	if err := root.Decode(&tree); err != nil {
		return nil, d.yamlError(err)
	}
	return tree, nil
}

// yamlError reports each of the lines that the decoder found fault with: a key
// that is there twice is one of them.
func (d *treeDecoder) yamlError(err error) error {
	lines := []string{err.Error()}
	if te, ok := errors.AsType[*yaml.TypeError](err); ok {
		lines = te.Errors
	}
	for _, text := range lines {
		line, rule := 0, strings.TrimPrefix(text, "yaml: ")
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			_, _ = fmt.Sscan(m[1], &line)
			rule = m[2]
		}
		_ = d.report(line, oneLine(rule))
	}
	return err
}

func (d *treeDecoder) toml(text []byte) (map[string]any, error) {
	var tree map[string]any
	err := toml.Unmarshal(text, &tree)
	if err == nil {
		return tree, nil
	}
	line := 0
	if de, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ = de.Position()
	}
	return nil, d.report(line, oneLine(strings.TrimPrefix(err.Error(), "toml: ")))
}

func (d *treeDecoder) json(text []byte) (map[string]any, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	at := func(offset int64, rule string) error {
		_, line, _ := strings.Cut(fileLine("", text, int(offset)), ":")
		n := 1
		_, _ = fmt.Sscan(line, &n)
		return d.report(n, rule)
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		if se, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, at(se.Offset, se.Error())
		}
		return nil, at(0, "must hold an object: {...}")
	}
	// encoding/json lets the last of two equal keys win.
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := duplicateKeys(dec, "", func(key string) {
		_ = at(dec.InputOffset(), fmt.Sprintf("key %q is there twice", key))
	}); err != nil {
		return nil, err
	}
	return tree, nil
}

// duplicateKeys walks one value.
func duplicateKeys(dec *json.Decoder, at string, found func(key string)) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		seen := map[string]bool{}
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				return err
			}
			key := at + k.(string)
			if seen[key] {
				found(key)
			}
			seen[key] = true
			if err := duplicateKeys(dec, key+".", found); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	case json.Delim('['):
		for i := 0; dec.More(); i++ {
			if err := duplicateKeys(dec, fmt.Sprintf("%s[%d].", strings.TrimSuffix(at, "."), i), found); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// prune reports unknown keys, keys without a value, and sections in the place of values
// or the reverse, and removes them from the tree before viper sees it.
func (l *loader) prune(tree map[string]any, prefix string) {
	var keys, sections []string
	fields := map[string]field{}
	for _, f := range l.fields {
		keys = append(keys, f.key)
		fields[f.key] = f
		for i, r := range f.key {
			if s := f.key[:i]; r == '.' && !slices.Contains(sections, s) {
				sections = append(sections, s)
			}
		}
	}
	for _, name := range sortedKeys(tree) {
		key, value := prefix+name, tree[name]
		f, isKey := fields[key]
		dotted := strings.Contains(name, ".") // viper would take it for a path
		switch {
		case isKey && !dotted && f.secret():
			l.report(Finding{Key: key, Rule: "must not be in a file: name a file that holds it in " + secretFileKey(f.key) + ", or set " + f.env()})
		case isKey && !dotted && value == nil:
			l.report(Finding{Key: key, Rule: errEmpty.Error()})
		case isKey && !dotted && f.list():
			l.pruneList(f, value)
			continue
		case isKey && !dotted:
			continue
		case slices.Contains(sections, key) && !dotted:
			if value == nil {
				break // a section with all its keys commented out
			}
			if m, ok := section(value); ok {
				l.prune(m, key+".")
				tree[name] = m
				continue
			}
			shown, show := showRaw(value)
			l.report(Finding{Key: key, Rule: "must be a section with keys of its own", Got: shown, HasGot: show})
			l.breakSection(key)
		case isKey || slices.Contains(sections, key):
			l.report(Finding{Key: key, Rule: "must be written as a section and its keys, not with a dot"})
		default:
			l.report(Finding{Key: key, Rule: "is no key of Heartline" + didYouMean(key, append(sections, keys...))})
		}
		delete(tree, name)
	}
}

// section takes a value as a section; YAML keys that are no strings (1: x) come in
// a map of another type.
func section(value any) (map[string]any, bool) {
	switch m := value.(type) {
	case map[string]any:
		return m, true
	case map[any]any:
		out := make(map[string]any, len(m))
		for k, v := range m {
			out[fmt.Sprint(k)] = v
		}
		return out, true
	}
	return nil, false
}

// pruneList looks for unknown keys in the sections of a list.
func (l *loader) pruneList(f field, value any) {
	list, _ := value.([]any)
	for i, e := range list {
		if m, ok := section(e); ok {
			l.unknownKeys(m, f, fmt.Sprintf("%s[%d].", f.key, i), "")
		}
	}
}

// breakSection keeps the rules quiet about keys whose section could not be read.
func (l *loader) breakSection(section string) {
	for _, f := range l.fields {
		if strings.HasPrefix(f.key, section+".") {
			l.broken[f.key] = true
		}
	}
}

// secretFileKey is the key of the file that holds a secret.
func secretFileKey(key string) string { return key + "_file" }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

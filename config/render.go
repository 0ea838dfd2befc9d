package config

import (
	"bytes"
	_ "embed" // the comments of config.go are those of the example
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

//go:embed config.go
var source string

const exampleHead = `# Heartline's configuration: every key with its default and its meaning.
#
# A key can also be set in the environment as HEARTLINE_ and its path in capitals:
# delivery.ack_window is HEARTLINE_DELIVERY_ACK_WINDOW (a list, as auth.acl, is JSON
# there). A flag wins over the environment, the environment over this file, and this
# file over the default. TOML and JSON files hold the same keys.
#
# Durations have a unit (500ms, 5s, 10m, 24h), and so have sizes (512KiB, 1MiB).
# Secrets are never in this file: a key that ends in _file names the file that holds
# one. "heartline config check" reports everything that is wrong, all at once.

`

// Example renders heartline.example.yaml: the defaults, with the comments of the
// structs. There is no second place where a key is described.
func Example() []byte {
	var b bytes.Buffer
	b.WriteString(exampleHead)
	r := renderer{w: &b, docs: comments()}
	r.section(reflect.ValueOf(Default()).Elem(), "")
	return b.Bytes()
}

// YAML renders c as a file that loads to c again. Of a secret it says only that
// there is one, and of the query of a URL that may hold one.
func (c *Config) YAML() []byte {
	var b bytes.Buffer
	r := renderer{w: &b}
	r.section(reflect.ValueOf(c).Elem(), "")
	return b.Bytes()
}

// comments returns the comment of each field by "Type.Field".
func comments() map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		panic(err) // it has been compiled
	}
	docs := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		st, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, f := range st.Fields.List {
			for _, name := range f.Names {
				docs[spec.Name.Name+"."+name.Name] = f.Doc.Text()
			}
		}
		return true
	})
	return docs
}

type renderer struct {
	w    *bytes.Buffer
	docs map[string]string // nil: without comments
}

func (r renderer) section(v reflect.Value, prefix string) {
	indent := strings.Repeat("  ", strings.Count(prefix, "."))
	for i, sf := range reflect.VisibleFields(v.Type()) {
		name, fv := sf.Tag.Get("key"), v.Field(i)
		if prefix == "" && i > 0 && r.docs != nil {
			r.w.WriteByte('\n')
		}
		doc := r.docs[v.Type().Name()+"."+sf.Name]
		switch {
		case sf.Type == reflect.TypeFor[Secret]():
			if !fv.IsZero() {
				f := field{key: prefix + name}
				fmt.Fprintf(r.w, "%s# %s: %s, from %s\n", indent, name, redacted, f.env())
			}
			continue
		case sf.Type.Kind() == reflect.Struct:
			fmt.Fprintf(r.w, "%s%s:\n", indent, name)
			r.section(fv, prefix+name+".")
		case sf.Type.Kind() == reflect.Slice && fv.Len() == 0:
			r.comment(indent, doc)
			if r.docs != nil && sf.Type.Elem().Kind() == reflect.Struct {
				r.sample(indent, sf.Type.Elem())
			}
			fmt.Fprintf(r.w, "%s%s: []\n", indent, name)
		case sf.Type.Kind() == reflect.Slice:
			fmt.Fprintf(r.w, "%s%s:\n", indent, name)
			for j := range fv.Len() {
				r.element(indent+"  - ", indent+"    ", fv.Index(j))
			}
		default:
			r.comment(indent, doc)
			if prefix+name == "auth.http.url" || prefix+name == "auth.jwt.jwks_url" {
				fv = reflect.ValueOf(withoutQuery(fv.String()))
			}
			fmt.Fprintf(r.w, "%s%s: %s\n", indent, name, scalar(fv))
		}
	}
}

func (r renderer) element(first, rest string, v reflect.Value) {
	if v.Kind() != reflect.Struct {
		fmt.Fprintf(r.w, "%s%s\n", first, scalar(v))
		return
	}
	lead := first
	for i, sf := range reflect.VisibleFields(v.Type()) {
		fv := v.Field(i)
		if sf.Tag.Get("key") == "url" { // of a webhook: its query and its user may be secrets
			fv = reflect.ValueOf(withoutPassword(fv.String()))
		}
		fmt.Fprintf(r.w, "%s%s: %s\n", lead, sf.Tag.Get("key"), scalar(fv))
		lead = rest
	}
}

// sample shows what an entry of an empty list would look like, as a comment.
func (r renderer) sample(indent string, t reflect.Type) {
	lead := "- "
	for _, sf := range reflect.VisibleFields(t) {
		for line := range strings.Lines(r.docs[t.Name()+"."+sf.Name]) {
			fmt.Fprintf(r.w, "%s#     # %s\n", indent, strings.TrimSpace(line))
		}
		fmt.Fprintf(r.w, "%s#   %s%s: %s\n", indent, lead, sf.Tag.Get("key"), scalar(reflect.Zero(sf.Type)))
		lead = "  "
	}
}

func (r renderer) comment(indent, doc string) {
	for line := range strings.Lines(doc) {
		fmt.Fprintf(r.w, "%s# %s\n", indent, strings.TrimSpace(line))
	}
}

// scalar writes one value as YAML, so that it is read back as the same one.
func scalar(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return formatDuration(x)
	case ByteSize:
		return x.String()
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Slice:
		words := make([]string, v.Len())
		for i := range words {
			words[i] = scalar(v.Index(i))
		}
		return "[" + strings.Join(words, ", ") + "]"
	case reflect.String:
		return text(v.String())
	}
	panic("config: no way to write " + v.Type().String())
}

// text leaves the quotes to the encoder, which knows which words YAML takes for
// something else (no, null, 1e3).
func text(s string) string {
	n := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	b, err := yaml.Marshal(&n)
	if err != nil || bytes.Count(b, []byte("\n")) != 1 {
		return strconv.Quote(s) // only a Config made in Go can hold such text
	}
	return string(bytes.TrimSpace(b))
}

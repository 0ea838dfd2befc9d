package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Merge puts patch over base as RFC 7396 says: objects merge member by member, null
// removes, everything else replaces. field names the patch in errors; protected are
// the paths ("android.notification.tag") that a patch must not touch, because they
// carry the delivery's identity, its token or its credentials. The error is a
// *delivery.FieldError.
func Merge(base Object, patch json.RawMessage, field string, protected ...string) error {
	if len(patch) == 0 {
		return nil
	}
	p, err := Decode(patch)
	if err != nil || p == nil {
		return &delivery.FieldError{Field: field, Rule: "must be a JSON object"}
	}
	for _, path := range protected {
		if reaches(p, strings.Split(path, ".")) {
			return &delivery.FieldError{Field: field + "." + path, Rule: "cannot be set: Heartline identifies the delivery by it"}
		}
	}
	merge(base, p)
	return nil
}

// Decode reads a JSON object. Its numbers keep all their digits: as a float64 an ID of 64
// bits would become another one.
func Decode(text []byte) (o Object, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&o)
	return o, err
}

// reaches reports whether p names path, or replaces something above it.
func reaches(p Object, path []string) bool {
	v, there := p[path[0]]
	if !there {
		return false
	}
	if len(path) == 1 {
		return true
	}
	below, object := v.(Object)
	return !object || reaches(below, path[1:])
}

func merge(base, patch Object) {
	for _, k := range slices.Sorted(maps.Keys(patch)) {
		v := patch[k]
		if v == nil {
			delete(base, k)
			continue
		}
		above, over := base[k].(Object)
		below, object := v.(Object)
		switch {
		case object && over:
			merge(above, below)
		case object:
			fresh := Object{}
			merge(fresh, below) // without the nulls
			base[k] = fresh
		default:
			base[k] = v
		}
	}
}

// Headers reads a patch of header fields: an object of strings. It refuses the fields
// that allowed does not name. Names are case-insensitive (RFC 9110 §5.1): the result has
// those of allowed.
func Headers(patch json.RawMessage, field string, allowed ...string) (map[string]string, error) {
	if len(patch) == 0 {
		return nil, nil
	}
	var h map[string]string
	if err := json.Unmarshal(patch, &h); err != nil {
		return nil, &delivery.FieldError{Field: field, Rule: "must be an object of strings"}
	}
	named := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		i := slices.IndexFunc(allowed, func(a string) bool { return strings.EqualFold(a, name) })
		if i < 0 {
			return nil, &delivery.FieldError{Field: field, Rule: fmt.Sprintf("may set %s only", strings.Join(allowed, ", ")), Got: name}
		}
		if _, twice := named[allowed[i]]; twice {
			return nil, &delivery.FieldError{Field: field + "." + name, Rule: "must be given once"}
		}
		named[allowed[i]] = h[name]
		if strings.ContainsFunc(h[name], func(r rune) bool { return r < 0x20 || r > 0x7e }) || len(h[name]) > 256 {
			return nil, &delivery.FieldError{Field: field + "." + name, Rule: "must be at most 256 printable ASCII characters"}
		}
	}
	return named, nil
}

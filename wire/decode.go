package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/text"
)

// clipAt is how many bytes of a stranger's text an error repeats.
const clipAt = 64

func clip(s string) string { return text.Clip(s, clipAt) }

// Decode reads one JSON value and nothing else, without members that v lacks and
// without a member twice. Its error is a *delivery.FieldError.
func Decode(payload []byte, v any) error {
	if !utf8.Valid(payload) { // encoding/json would put U+FFFD in its place
		return &delivery.FieldError{Field: "body", Rule: "must be UTF-8"}
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return decodeError(err, dec.InputOffset())
	}
	// Token, not More: More takes a stray closing bracket for the end.
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &delivery.FieldError{Field: "body", Rule: "must be one JSON value, and more than one value follows"}
	}
	return CheckMembers(payload)
}

// decodeError describes the fault in the words of JSON: the errors of encoding/json
// name Go types.
func decodeError(err error, offset int64) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		fault := &delivery.FieldError{Field: e.Field, Rule: "must be " + typeName(e.Type), Got: e.Value}
		if fault.Field == "" {
			fault.Field = "body"
		}
		return fault
	}
	// encoding/json has no type for this one.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &delivery.FieldError{Field: clip(strings.Trim(name, `"`)), Rule: "is not a member that is known here"}
	}
	switch e, ok := errors.AsType[*json.SyntaxError](err); {
	case errors.Is(err, io.EOF):
		return &delivery.FieldError{Field: "body", Rule: "must be JSON, and is empty"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &delivery.FieldError{Field: "body", Rule: "must be JSON, and ends too early"}
	case ok:
		offset = e.Offset
	}
	return &delivery.FieldError{Field: "body", Rule: fmt.Sprintf("must be JSON, and is not at byte %d", offset)}
}

// typeName is what a JSON value must be to fit a Go type.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Int, reflect.Int64, reflect.Uint16, reflect.Uint32:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "an object"
}

// CheckMembers refuses a member that an object has twice: of two readers one may take
// the first and the other the last (RFC 8259 §4). encoding/json matches names in any
// case, so that two that differ in case are the same. The value of a top-level `data`
// is the app's own and not looked into.
func CheckMembers(payload []byte) error {
	type level struct {
		name string          // of the member whose value it is; "" in an array
		seen map[string]bool // nil: an array
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	var open []level
	// Only for a fault: the paths of all levels together grow with the square of the depth.
	path := func(name string) string {
		var b strings.Builder
		for _, o := range open {
			switch {
			case o.seen == nil:
				b.Reset()
			case o.name != "":
				b.WriteString(o.name + ".")
			}
		}
		return b.String() + name
	}
	name, named := "", false // of the member whose value is next
	for {
		token, err := dec.Token()
		if err != nil {
			return nil //nolint:nilerr // the end: the payload has been decoded before
		}
		inObject := len(open) > 0 && open[len(open)-1].seen != nil
		if key, ok := token.(string); ok && inObject && !named {
			seen, folded := open[len(open)-1].seen, strings.ToLower(key)
			if seen[folded] {
				return &delivery.FieldError{Field: clip(path(key)), Rule: "must be given once, and is given twice"}
			}
			seen[folded] = true
			name, named = key, true
			if key == "data" && len(open) == 1 {
				var skipped json.RawMessage
				if dec.Decode(&skipped) != nil {
					return nil //nolint:nilerr // as above
				}
				name, named = "", false
			}
			continue
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{name, map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{name: name})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		name, named = "", false
	}
}

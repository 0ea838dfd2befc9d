package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// maxBody is how long one notification may be: data at its longest, every other
// field at its longest with each character escaped, and room for white space.
const maxBody = 512 << 10

// bodyReader reads bodies of one type, strictly: by the schema that the OpenAPI
// document shows.
type bodyReader struct {
	schemas huma.Registry
	schema  *huma.Schema
	opaque  []string // fields that may be anything: they are not looked into
}

func newBodyReader(t reflect.Type, opaque ...string) bodyReader {
	schemas := huma.NewMapRegistry("#/", huma.DefaultSchemaNamer)
	schema := schemas.Schema(t, false, t.Name())
	return bodyReader{schemas: schemas, schema: schema, opaque: opaque}
}

// read takes the body of a request that is one JSON object. An empty body gives
// nil.
func (a *API) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if err := takes(r, "application/json"); err != nil {
		return nil, err
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(a.timing.read)) // not every writer can
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		// Or the server, which reads on to learn whether the client is still there,
		// would take the deadline for its end. It stays where the body has not been
		// read: what is left of it is read over within it.
		_ = rc.SetReadDeadline(time.Time{})
		return body, nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, newProblem(http.StatusRequestTimeout, "the body did not arrive within %s", a.timing.read)
	}
	return nil, newProblem(http.StatusBadRequest, "the body could not be read to its end: %s", err)
}

func tooLarge() *problem {
	return newProblem(http.StatusRequestEntityTooLarge, "a notification is at most %d bytes of JSON; data may have %d of them", maxBody, 256<<10)
}

// takes refuses a body of another type. A body that names no type is taken. That
// a web form cannot send any of these types keeps foreign pages out, too.
func takes(r *http.Request, types ...string) error {
	named := r.Header.Get("Content-Type")
	if named == "" {
		return nil
	}
	t, _, err := mime.ParseMediaType(named)
	if err == nil && (slices.Contains(types, t) || types[0] == "application/json" && strings.HasSuffix(t, "+json")) {
		return nil
	}
	return newProblem(http.StatusUnsupportedMediaType, "send the header Content-Type: %s, not %q", types[0], clip(named))
}

// parse reads body into v, or says all that is wrong with it.
func (b bodyReader) parse(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return broken("body", "must be a JSON object, got nothing")
	}
	if !utf8.Valid(body) {
		return broken("body", "must be UTF-8") // RFC 8259 §8.1; encoding/json would put in U+FFFD
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil || raw == nil {
		return broken("body", notAnObject(body, err))
	}
	fields := make(map[string]any, len(raw))
	var parts []*huma.ErrorDetail
	for name, value := range raw {
		switch {
		case b.schema.Properties[name] == nil:
			parts = append(parts, &huma.ErrorDetail{Location: "body." + clip(name), Message: "is not a field of this call"})
		case slices.Contains(b.opaque, name):
			// Not decoded: it may be long, and a number of it may be beyond float64.
		default:
			var decoded any
			if err := json.Unmarshal(value, &decoded); err != nil {
				parts = append(parts, &huma.ErrorDetail{Location: "body." + name, Message: "cannot be read: " + err.Error()})
				continue
			}
			fields[name] = decoded
		}
	}
	slices.SortFunc(parts, func(a, b *huma.ErrorDetail) int { return strings.Compare(a.Location, b.Location) })
	found := &huma.ValidateResult{}
	huma.Validate(b.schemas, b.schema, huma.NewPathBuffer([]byte("body"), 4), huma.ModeWriteToServer, fields, found)
	for _, err := range found.Errors {
		part := &huma.ErrorDetail{Message: err.Error()}
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			part = d
			describe(part)
		}
		parts = append(parts, part)
	}
	if len(parts) > 0 {
		return brokenBody(parts)
	}
	if err := json.Unmarshal(body, v); err != nil { // beyond the schema: an integer of 20 digits
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			field := strings.TrimPrefix(e.Field, "Content.") // the embedded struct is no part of the JSON
			return broken("body."+field, fmt.Sprintf("must be %s, got %s", kindName(e.Type), clip(e.Value)))
		}
		return broken("body", err.Error())
	}
	return nil
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int:
		return "an integer of 64 bits"
	default:
		return "of the type " + t.String()
	}
}

// notAnObject says why a body is no JSON object.
func notAnObject(body []byte, err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("is not JSON: %s at byte %d", e.Error(), e.Offset)
	}
	what := "null"
	switch bytes.TrimSpace(body)[0] {
	case '[':
		what = "an array"
	case '"':
		what = "a string"
	case 't', 'f':
		what = "a boolean"
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		what = "a number"
	}
	return "must be a JSON object, got " + what
}

func broken(location, message string) *problem {
	return brokenBody([]*huma.ErrorDetail{{Location: location, Message: message}})
}

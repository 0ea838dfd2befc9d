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

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// maxBody is how long one notification may be: data at its longest, every other
// field at its longest with each character escaped, and room for white space.
const maxBody = 512 << 10

// bodyReader reads bodies of one type strictly, by the schema that the OpenAPI document
// shows.
type bodyReader struct {
	schemas huma.Registry
	schema  *huma.Schema
	fields  []string // in the order of the contract
	opaque  []string // fields that may hold any JSON: the schema does not look into them
}

func newBodyReader(t reflect.Type) bodyReader {
	schemas := newSchemas("#/")
	b := bodyReader{schemas: schemas, schema: schemas.Schema(t, false, t.Name())}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" { // the embedded struct
			continue
		}
		b.fields = append(b.fields, name)
		if f.Type == reflect.TypeFor[json.RawMessage]() || f.Type == reflect.TypeFor[any]() {
			b.opaque = append(b.opaque, name)
		}
	}
	return b
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
		// The server reads on in the background to notice that the client has gone, and
		// would take the deadline for that. Where the body was not read, the deadline
		// stays and bounds the time to skip the rest.
		_ = rc.SetReadDeadline(time.Time{})
		return body, nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, newProblem(http.StatusRequestTimeout, codeTimeout, "the body did not arrive within %s", a.timing.read)
	}
	return nil, newProblem(http.StatusBadRequest, codeBadRequest, "the body could not be read to its end: %s", err)
}

func tooLarge() *problem {
	return newProblem(http.StatusRequestEntityTooLarge, codeTooLarge, "a notification is at most %d bytes of JSON; data may have %d of them", maxBody, delivery.MaxData)
}

// takes refuses a body of another type, and one that is compressed. A body that names no type is taken. That
// a web form cannot send any of these types keeps foreign pages out, too.
func takes(r *http.Request, types ...string) error {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return newProblem(http.StatusUnsupportedMediaType, codeMediaType, "send the body as it is, without the header Content-Encoding: %s", clip(coding))
	}
	named := r.Header.Get("Content-Type")
	if named == "" {
		return nil
	}
	t, _, err := mime.ParseMediaType(named)
	if err == nil && (slices.Contains(types, t) || types[0] == "application/json" && strings.HasSuffix(t, "+json")) {
		return nil
	}
	return newProblem(http.StatusUnsupportedMediaType, codeMediaType, "send the header Content-Type: %s, not %q", types[0], clip(named))
}

// parse reads body into v, or reports everything that is wrong with it.
func (b bodyReader) parse(body []byte, v any) error {
	if err := isObject(body); err != nil {
		return err
	}
	if err := wire.CheckMembers(body); err != nil {
		return invalid(faultsOf(err, "body")...)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return broken("body", "must be a JSON object")
	}
	fields := make(map[string]any, len(raw))
	var faults []*fault
	for name, value := range raw {
		switch {
		case b.schema.Properties[name] == nil:
			faults = append(faults, &fault{Location: "body." + clip(name), Message: "is not a member that is known here"})
		case slices.Contains(b.opaque, name):
			// Not decoded: it may be long, and a number in it may be beyond float64.
		default:
			var decoded any
			if err := json.Unmarshal(value, &decoded); err != nil { // a number beyond float64
				faults = append(faults, &fault{Location: "body." + name, Message: "must be a number that fits 64 bits"})
				fields[name] = nil
				continue
			}
			fields[name] = decoded
		}
	}
	located := make(map[string]bool, len(faults)) // not by a search in faults: an array of numbers has hundreds of thousands
	for _, f := range faults {
		located[f.Location] = true
	}
	found := &huma.ValidateResult{}
	huma.Validate(b.schemas, b.schema, huma.NewPathBuffer([]byte("body"), 4), huma.ModeWriteToServer, fields, found)
	for _, err := range found.Errors {
		f := &fault{Message: err.Error()}
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			f = d
			inPlainWords(f)
		}
		if !located[f.Location] {
			located[f.Location] = true
			faults = append(faults, f)
		}
	}
	if len(faults) > 0 {
		sortFaults(faults, b.fields)
		return invalid(faults...)
	}
	if err := json.Unmarshal(body, v); err != nil { // the schema cannot say everything
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return broken("body."+strings.TrimPrefix(e.Field, "Content."), "must be another kind of value") // the embedded struct is no part of the JSON
		}
		return broken("body", "must be a JSON object")
	}
	return nil
}

// isObject refuses a body that is not a JSON object, and names its kind.
func isObject(body []byte) error {
	trimmed := bytes.TrimSpace(body)
	switch {
	case len(trimmed) == 0:
		return broken("body", "must be a JSON object, got nothing")
	case !utf8.Valid(body):
		return broken("body", "must be UTF-8") // RFC 8259 §8.1; encoding/json would put in U+FFFD
	}
	var raw json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		if e, ok := errors.AsType[*json.SyntaxError](err); ok && e.Error() != "unexpected end of JSON input" {
			return broken("body", fmt.Sprintf("must be JSON, and is not at byte %d", e.Offset))
		}
		return broken("body", "must be JSON, and ends too early")
	}
	if trimmed[0] == '{' {
		return nil
	}
	kinds := map[byte]string{'[': "an array", '"': "a string", 't': "a boolean", 'f': "a boolean", 'n': "null"}
	kind, ok := kinds[trimmed[0]]
	if !ok {
		kind = "a number"
	}
	return broken("body", "must be a JSON object, got "+kind)
}

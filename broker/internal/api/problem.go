package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/text"
)

// code is the stable name of a kind of problem. Clients switch on it; its meaning never
// changes. Every code has a line in codes.
type code string

const (
	codeBadRequest          code = "bad_request"
	codeUnauthenticated     code = "unauthenticated"
	codeForbidden           code = "forbidden"
	codeNotYours            code = "not_yours"
	codeNotFound            code = "not_found"
	codeUnknownAccount      code = "unknown_account"
	codeUnknownDevice       code = "unknown_device"
	codeUnknownNotification code = "unknown_notification"
	codeNotConnected        code = "not_connected"
	codeMethodNotAllowed    code = "method_not_allowed"
	codeTimeout             code = "timeout"
	codeConflict            code = "id_conflict"
	codeOtherNode           code = "other_node"
	codeTooLarge            code = "too_large"
	codeMediaType           code = "unsupported_media_type"
	codeInvalid             code = "invalid"
	codeTooMuchOutstanding  code = "too_much_outstanding"
	codeInternal            code = "internal"
	codeUnsupported         code = "unsupported"
	codeStoreUnavailable    code = "store_unavailable"
	codeInDoubt             code = "outcome_unknown"
	codeStopped             code = "stopped"
	codeUnavailable         code = "unavailable"
	codeNotReady            code = "not_ready"
	codeUnknownTopic        code = "unknown_topic"
	codeOverLimit           code = "over_limit"
)

// codes says what each code means, in the order of the HTTP statuses. The OpenAPI
// document lists them.
func codes() []codeMeaning {
	return []codeMeaning{
		{codeBadRequest, 400, "the request could not be read to its end"},
		{codeUnauthenticated, 401, "no credentials, or wrong ones"},
		{codeForbidden, 403, "the credentials do not allow this call"},
		{codeNotYours, 403, "the device, the account or the notification belongs to somebody else"},
		{codeNotFound, 404, "nothing at this path"},
		{codeUnknownAccount, 404, "the account has no device"},
		{codeUnknownDevice, 404, "the account has no such device"},
		{codeUnknownNotification, 404, "no such notification, or its history is over"},
		{codeNotConnected, 404, "the device is not connected"},
		{codeUnknownTopic, 404, "only on the refusals topic: no such topic below the prefix"},
		{codeMethodNotAllowed, 405, "the path takes other methods"},
		{codeTimeout, 408, "the body did not arrive in time"},
		{codeConflict, 409, "the id was used before, with another meaning"},
		{codeOtherNode, 409, "another node does this and was not reached: ask the one that detail names"},
		{codeTooLarge, 413, "the body is too long"},
		{codeMediaType, 415, "the body has the wrong type"},
		{codeInvalid, 422, "the request breaks rules: errors names each, with its location"},
		{codeTooMuchOutstanding, 429, "every device addressed is full: try again after Retry-After"},
		{codeOverLimit, 429, "only on the refusals topic: a limit of mqtt.limits; with status 403, one that does not pass by itself"},
		{codeInternal, 500, "a fault of the server, which is in its log"},
		{codeUnsupported, 501, "this server cannot do that with its configuration"},
		{codeStoreUnavailable, 503, "the store takes no changes now: try again"},
		{codeInDoubt, 503, "the store failed during the write, which may have taken effect: try again with the same id"},
		{codeStopped, 503, "the server is shutting down: try again"},
		{codeUnavailable, 503, "a limit is reached or a service is down: try again"},
		{codeNotReady, 503, "only from /readyz: checks says why, faults names the checks that are faults"},
	}
}

type codeMeaning struct {
	code    code
	status  int
	meaning string
}

// retryUnavailable is the Retry-After, in seconds, while the store or the
// authentication fails.
const retryUnavailable = "5"

// problem is an answer that is an error (RFC 9457).
type problem struct {
	huma.ErrorModel
	code    code
	headers http.Header
}

func newProblem(status int, c code, format string, args ...any) *problem {
	return &problem{
		ErrorModel: huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: text.OneLine(fmt.Sprintf(format, args...))},
		code:       c, headers: http.Header{},
	}
}

// GetHeaders implements huma.HeadersError.
func (p *problem) GetHeaders() http.Header { return p.headers }

// MarshalJSON leaves the headers out.
func (p *problem) MarshalJSON() ([]byte, error) { return p.marshal(overview.Readiness{}) }

func (p *problem) marshal(ready overview.Readiness) ([]byte, error) {
	return json.Marshal(struct {
		*huma.ErrorModel
		Code   code              `json:"code"`
		Checks map[string]string `json:"checks,omitempty"`
		Faults []string          `json:"faults,omitempty"`
	}{&p.ErrorModel, p.code, ready.Checks, ready.Faults})
}

// describeProblems adds code, which huma's error model lacks, to the schema of problems.
func (a *API) describeProblems() {
	var list strings.Builder
	var values []any
	for _, c := range codes() {
		fmt.Fprintf(&list, "\n- `%s` (%d): %s", c.code, c.status, c.meaning)
		values = append(values, string(c.code))
	}
	a.huma.OpenAPI().Info.Description += "\n\nA problem's `code` is stable:\n" + list.String()
	s := a.huma.OpenAPI().Components.Schemas.Map()["Problem"]
	s.Properties["code"] = &huma.Schema{Type: huma.TypeString, Enum: values, Description: "The kind of problem: a stable word for programs"}
}

// fault is one thing wrong with a request.
type fault = huma.ErrorDetail

// invalid is a 422 that lists every fault.
// maxFaults is how many faults of one body an answer names.
const maxFaults = 50

func invalid(faults ...*fault) *problem {
	if more := len(faults) - maxFaults; more > 0 {
		// A body of half a megabyte can have tens of thousands, and its answer would be
		// many times as long.
		faults = append(faults[:maxFaults:maxFaults], &fault{Location: "body", Message: fmt.Sprintf("has %d further faults", more)})
	}
	for _, f := range faults {
		f.Message = text.OneLine(f.Message)
	}
	p := newProblem(http.StatusUnprocessableEntity, codeInvalid, "%s", sentence(faults))
	p.Errors = faults
	return p
}

func broken(location, message string) *problem {
	return invalid(&fault{Location: location, Message: message})
}

// problem turns an error of the core into an answer.
func (a *API) problem(ctx context.Context, err error) *problem {
	p := a.problemOf(ctx, err)
	noteProblem(ctx, p.code)
	return p
}

func (a *API) problemOf(ctx context.Context, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if kind, ok := kindOf(err); ok {
		p := newProblem(kind.status, kind.code, kind.format, strings.TrimPrefix(err.Error(), kind.err.Error()+": "))
		if kind.code == codeStoreUnavailable || kind.code == codeInDoubt {
			a.seldom.Error(a.log, "store unavailable", "error", err)
		}
		if kind.status == http.StatusServiceUnavailable {
			p.headers.Set("Retry-After", retryUnavailable)
		}
		if full, ok := errors.AsType[*delivery.FullError](err); ok {
			p.headers.Set("Retry-After", strconv.Itoa(int(math.Ceil(max(full.RetryAfter, time.Second).Seconds()))))
		}
		return p
	}
	switch {
	case errors.Is(err, delivery.ErrInvalid):
		return invalid(faultsOf(err, "body")...)
	case ctx.Err() != nil: // nobody reads the answer
		return newProblem(http.StatusServiceUnavailable, codeUnavailable, "the client went away before the answer")
	}
	a.seldom.Error(a.log, "call failed", "error", err)
	return newProblem(http.StatusInternalServerError, codeInternal, "the server failed at this call; its log says more")
}

// errorKind says how an error of the core is answered. format gets its text.
type errorKind struct {
	err    error
	status int
	code   code
	format string
}

func kindOf(err error) (errorKind, bool) {
	for _, k := range []errorKind{
		{delivery.ErrUnknownAccount, http.StatusNotFound, codeUnknownAccount, "%s"},
		{delivery.ErrUnknownDevice, http.StatusNotFound, codeUnknownDevice, "%s"},
		{delivery.ErrNotYours, http.StatusForbidden, codeNotYours, "%s"},
		{delivery.ErrForeignDevice, http.StatusForbidden, codeNotYours, "the device belongs to another account%.0s"},
		{delivery.ErrUnknownNotification, http.StatusNotFound, codeUnknownNotification, "there is no notification %q: it was not accepted here, or its history is over (store.history)"},
		{delivery.ErrNotFound, http.StatusNotFound, codeNotFound, "%s"},
		{delivery.ErrConflict, http.StatusConflict, codeConflict, "%s, with another meaning: use another id, or none"},
		{delivery.ErrTooMuchOutstanding, http.StatusTooManyRequests, codeTooMuchOutstanding, "%s: try again after a device has acknowledged some of them"},
		{delivery.ErrStopped, http.StatusServiceUnavailable, codeStopped, "the server is shutting down and accepts nothing more: try again%.0s"},
		{delivery.ErrInDoubt, http.StatusServiceUnavailable, codeInDoubt, "the store failed while it wrote this notification, which may have been accepted: try again with the same id, which tells; without an id it may be accepted twice%.0s"},
		{delivery.ErrUnavailable, http.StatusServiceUnavailable, codeStoreUnavailable, "the store takes no changes now: nothing was accepted, and no other change is on record yet; try again%.0s"},
	} {
		if errors.Is(err, k.err) {
			return k, true
		}
	}
	return errorKind{}, false
}

// faultsOf takes a refusal of the core apart. Each FieldError is located below where.
func faultsOf(err error, where string) []*fault {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var faults []*fault
		for _, e := range joined.Unwrap() {
			if e != delivery.ErrInvalid { //nolint:errorlint // the sentinel itself, of fmt.Errorf("%w: %w")
				faults = append(faults, faultsOf(e, where)...)
			}
		}
		return faults
	}
	if e, ok := err.(*delivery.FieldError); ok { //nolint:errorlint // not one further down
		f := &fault{Location: where, Message: e.Rule}
		if e.Field != where {
			f.Location += "." + e.Field
		}
		if e.Got != "" {
			f.Message += ", got " + e.Got
		}
		return []*fault{f}
	}
	// Further down only for a field: the text around any other error names the thing at fault.
	if inner := errors.Unwrap(err); inner != nil {
		if _, ok := errors.AsType[*delivery.FieldError](inner); ok {
			return faultsOf(inner, where)
		}
	}
	return []*fault{{Message: strings.TrimPrefix(err.Error(), delivery.ErrInvalid.Error()+": ")}}
}

// sentence says all faults in one line.
func sentence(faults []*fault) string {
	texts := make([]string, len(faults))
	for i, f := range faults {
		texts[i] = f.Message
		if f.Location != "" {
			texts[i] = f.Location + ": " + f.Message
		}
	}
	return strings.Join(texts, "; ")
}

// readable is a huma.Transformer: it makes a problem of ours of one that huma made, and
// takes out what that repeats of the request.
func readable(ctx huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	for _, f := range m.Errors {
		inPlainWords(f)
	}
	c := codeInternal
	for _, known := range codes() {
		if known.status == m.Status {
			c = known.code
			break
		}
	}
	noteProblem(ctx.Context(), c)
	p := &problem{ErrorModel: *m, code: c}
	if len(m.Errors) > 0 {
		p.Detail = sentence(m.Errors)
	}
	return p, nil
}

// inPlainWords replaces the words of JSON schema in a fault, and adds the value if it is
// short enough to help. A pattern is named by its field's description.
func inPlainWords(f *fault) {
	msg := f.Message
	switch {
	case strings.HasPrefix(msg, "expected required property "):
		name, _, _ := strings.Cut(strings.TrimPrefix(msg, "expected required property "), " ")
		f.Location, f.Message, f.Value = f.Location+"."+name, "must be given", nil
		return
	case strings.HasPrefix(msg, "expected value to be one of "):
		list := strings.Trim(strings.TrimPrefix(msg, "expected value to be one of "), `"`)
		msg = "must be one of " + list
	case strings.HasPrefix(msg, "expected value to match exactly one schema "): // durationSchema
		msg = "must be a duration such as 90s or 24h in a string, or the number 0"
	case msg == "unexpected property":
		f.Message, f.Value = "is not a member that is known here", nil
		return
	case msg == "unknown query parameter":
		f.Message, f.Value = "is not a parameter of this call", nil
		return
	case strings.HasPrefix(msg, "invalid date/time"):
		msg = "must be a time such as 2026-11-26T09:30:00Z or 2026-11-26T10:30:00%2B01:00 (a + in an address is a space)"
	case strings.HasPrefix(msg, "invalid "): // a query parameter's type
		msg = "must be " + article(strings.TrimPrefix(msg, "invalid "))
	case strings.HasPrefix(msg, "expected length >= 1"):
		msg = "must not be empty"
	case strings.HasPrefix(msg, "expected length "):
		msg = "must have a " + strings.TrimPrefix(msg, "expected ") + " characters"
	case strings.HasPrefix(msg, "expected number "):
		msg = "must be " + strings.TrimPrefix(msg, "expected number ")
	case strings.HasPrefix(msg, "expected string to "):
		msg = "must " + strings.TrimPrefix(msg, "expected string to ")
	case strings.HasPrefix(msg, "expected "):
		msg = "must be " + article(strings.TrimPrefix(msg, "expected "))
	}
	msg = comparisons.Replace(msg)
	switch v := f.Value.(type) {
	case string:
		if v != "" {
			msg += fmt.Sprintf(", got %q", clip(v))
		}
	case float64, bool, int, int64:
		msg += fmt.Sprintf(", got %v", v)
	case map[string]any:
		if !strings.Contains(msg, "object") {
			msg += ", got an object"
		}
	case []any:
		msg += ", got an array"
	}
	f.Message, f.Value = msg, nil
}

var comparisons = strings.NewReplacer(">= ", "at least ", "<= ", "at most ") // to make one costs more than to use it

func article(noun string) string {
	switch noun {
	case "boolean":
		return "true or false"
	case "integer":
		return "a whole number"
	}
	if strings.ContainsAny(noun[:1], "aeiou") {
		return "an " + noun
	}
	return "a " + noun
}

// sortFaults puts faults in the order of the fields, as the contract lists them.
func sortFaults(faults []*fault, fields []string) {
	rank := func(f *fault) int {
		name := strings.TrimPrefix(f.Location, "body.")
		if i := strings.IndexAny(name, ".["); i >= 0 {
			name = name[:i]
		}
		if i := slices.Index(fields, name); i >= 0 {
			return i
		}
		return len(fields)
	}
	slices.SortStableFunc(faults, func(a, b *fault) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Location, b.Location))
	})
}

// writeProblem answers with a problem. Nothing must have been answered before.
func writeProblem(w http.ResponseWriter, p *problem) { writeProblemWith(w, p, overview.Readiness{}) }

func writeProblemWith(w http.ResponseWriter, p *problem, ready overview.Readiness) {
	body, err := p.marshal(ready)
	if err != nil {
		panic(err) // it is made of strings
	}
	if sw, ok := w.(*statusWriter); ok {
		sw.problem = p.code
	}
	h := w.Header()
	maps.Copy(h, p.headers)
	h.Set("Content-Type", "application/problem+json")
	h.Del("Content-Length")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) //nolint:gosec // JSON, and its content type says so; the client may be gone
}

// clip shortens a stranger's text that an answer repeats.
func clip(s string) string { return text.Clip(strings.ToValidUTF8(s, "\uFFFD"), 64) }

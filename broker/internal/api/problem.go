package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/delivery"
)

// What Retry-After says, in seconds. A device that is full gets room with its
// next ack; a store that fails is looked at again every few seconds.
const (
	retryFull        = "2"
	retryUnavailable = "5"
)

// problem is an answer that is an error, RFC 9457.
type problem struct {
	huma.ErrorModel
	headers http.Header
}

func newProblem(status int, format string, args ...any) *problem {
	return &problem{
		ErrorModel: huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: fmt.Sprintf(format, args...)},
		headers:    http.Header{},
	}
}

// GetHeaders implements huma.HeadersError.
func (p *problem) GetHeaders() http.Header { return p.headers }

// MarshalJSON leaves the headers out.
func (p *problem) MarshalJSON() ([]byte, error) { return json.Marshal(&p.ErrorModel) }

// brokenBody is a 422 that says all that is at fault.
func brokenBody(parts []*huma.ErrorDetail) *problem {
	p := newProblem(http.StatusUnprocessableEntity, "%s", sentence(parts))
	p.Errors = parts
	return p
}

// problem turns an error of the core into an answer.
func (a *API) problem(ctx context.Context, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	switch {
	case errors.Is(err, delivery.ErrInvalid):
		return brokenBody(partsOf(err))
	case errors.Is(err, delivery.ErrNotFound):
		return newProblem(http.StatusNotFound, "%s", plain(err, delivery.ErrUnknownAccount, delivery.ErrUnknownDevice, delivery.ErrUnknownNotification, delivery.ErrNotFound))
	case errors.Is(err, delivery.ErrConflict):
		return newProblem(http.StatusConflict, "%s, with other content: use another id, or none", plain(err, delivery.ErrConflict))
	case errors.Is(err, delivery.ErrTooMuchOutstanding):
		p := newProblem(http.StatusTooManyRequests, "%s: try again when the device has acknowledged some of them", plain(err, delivery.ErrTooMuchOutstanding))
		p.headers.Set("Retry-After", retryFull)
		return p
	case errors.Is(err, delivery.ErrStopped):
		p := newProblem(http.StatusServiceUnavailable, "the server is shutting down and takes nothing more: try again")
		p.headers.Set("Retry-After", retryUnavailable)
		return p
	case errors.Is(err, delivery.ErrUnavailable):
		a.log.Error("store unavailable", "error", err)
		p := newProblem(http.StatusServiceUnavailable, "the store does not take changes now: no notification was accepted, no other change is on record yet, and what is asked about would lack its latest events; try again")
		p.headers.Set("Retry-After", retryUnavailable)
		return p
	case ctx.Err() != nil: // nobody reads the answer
		return newProblem(http.StatusServiceUnavailable, "the answer was not awaited")
	}
	a.log.Error("call failed", "error", err)
	return newProblem(http.StatusInternalServerError, "the server failed at this call; its log says more")
}

// plain is an error without the words that sort it, where it begins with them.
func plain(err error, kinds ...error) string {
	text := err.Error()
	for _, kind := range kinds {
		text = strings.TrimPrefix(text, kind.Error()+": ")
	}
	return text
}

// contentFields are the fields that an error of the core can begin with, and
// where they are.
var contentFields = []string{
	"title", "body", "data", "id", "collapse_key", "ttl", "ack", "urgency", "fallback", "devices", "badge", "sound", "category", "account",
}

// partsOf takes the errors that a refusal of the core joins apart: a line each.
func partsOf(err error) []*huma.ErrorDetail {
	var parts []*huma.ErrorDetail
	for line := range strings.SplitSeq(err.Error(), "\n") {
		text := strings.TrimPrefix(line, delivery.ErrInvalid.Error()+": ")
		part := &huma.ErrorDetail{Message: text}
		if field, rest, ok := strings.Cut(text, ": "); ok && slices.Contains(contentFields, field) {
			part.Location, part.Message = "body."+field, rest
		}
		parts = append(parts, part)
	}
	return parts
}

// sentence says all parts in one line.
func sentence(parts []*huma.ErrorDetail) string {
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = p.Message
		if p.Location != "" {
			texts[i] = p.Location + ": " + p.Message
		}
	}
	return strings.Join(texts, "; ")
}

// readable is a huma.Transformer: it puts what huma has found into the detail, and
// takes out what it echoes of the request.
func readable(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	for _, e := range m.Errors {
		describe(e)
	}
	if len(m.Errors) > 0 {
		m.Detail = sentence(m.Errors)
	}
	return m, nil
}

// describe adds to a finding of the schema what was found instead, where that is
// short enough to be of use.
func describe(e *huma.ErrorDetail) {
	switch v := e.Value.(type) {
	case string:
		if v != "" {
			e.Message += fmt.Sprintf(", got %q", clip(v))
		}
	case float64, bool, int, int64:
		e.Message += fmt.Sprintf(", got %v", v)
	case nil:
	case map[string]any:
		if e.Message == "expected string" || strings.HasPrefix(e.Message, "expected integer") || strings.HasPrefix(e.Message, "expected array") || strings.HasPrefix(e.Message, "expected boolean") {
			e.Message += ", got an object"
		}
	case []any:
		e.Message += ", got an array"
	}
	e.Value = nil
}

// writeProblem answers with a problem where nothing has been answered yet.
func writeProblem(w http.ResponseWriter, p *problem) {
	h := w.Header()
	maps.Copy(h, p.headers)
	h.Set("Content-Type", "application/problem+json")
	h.Del("Content-Length")
	w.WriteHeader(p.Status)
	_ = huma.DefaultJSONFormat.Marshal(w, p) // the client may be gone
}

// clip keeps what is echoed short.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

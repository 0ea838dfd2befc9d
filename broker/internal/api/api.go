package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/broker/internal/metrics"
	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/seldom"
	"github.com/heartline-mqtt/heartline/internal/text"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/wire"
)

// Core is what the API asks of a delivery.Core, or of several; see there.
type Core interface {
	Accept(ctx context.Context, r delivery.Request) (delivery.Receipt, error)
	AcceptAsync(r delivery.Request, done func(delivery.Receipt, error))
	Get(ctx context.Context, id string) (*delivery.View, error)
	List(ctx context.Context, f delivery.Filter) ([]*delivery.View, delivery.Seq, error)
	Cancel(ctx context.Context, id string) error
	Notification(seq delivery.Seq) (*delivery.Notification, error)
	Subscribe(buffer int) *delivery.Subscription
	EventsFrom(after delivery.Position, fn func(at delivery.Position, account string, e delivery.Event) bool) error
	EventsEnd() (delivery.Place, error)
	EventsSince(t time.Time) (delivery.Place, error)
	ReadEvents(after delivery.Place, fn func(at delivery.Position, account string, e delivery.Event) bool) (delivery.Place, error)

	Devices(account string) ([]delivery.DeviceView, error)
	Device(account, id string) (delivery.DeviceView, error)
	AllDevices(after string, limit int) ([]delivery.DeviceView, error)
	PutDevice(ctx context.Context, account, id string, r *delivery.Registration) error
	Register(id, account string) error
	SetRegistration(id, account string, r delivery.Registration) error
	RemoveRegistrations(id, account, server, kind string) error
	ForgetDevice(ctx context.Context, account, id string) error
	SignOut(ctx context.Context, id, account string) error
	AccountOf(id string) (string, error)
	AckByID(id, device, account string, kind delivery.AckKind) error
	Flush(ctx context.Context) error
	Dismiss(ctx context.Context, id string) error
	Erase(ctx context.Context, id string) error
	EraseAccount(ctx context.Context, account string) error
}

// Options configure an API.
type Options struct {
	Core Core
	// FlushAll is Core.Flush for a Core that has others at other nodes: it flushes all of them.
	// nil: Core.Flush does.
	FlushAll func(ctx context.Context) error
	// Bearer authenticates a token. nil is auth.mode none: everyone may call, except web
	// pages of other origins.
	Bearer func(ctx context.Context, token, remote string) (auth.Identity, error)
	// Password authenticates a device by its MQTT username and password. nil: the mode
	// of authentication knows no passwords, or Bearer is nil.
	Password func(ctx context.Context, c auth.Credentials) (auth.Identity, error)
	// Disconnect ends the connection of a device and reports whether there was one; its
	// session stays. EndSession ends both where they are those of the account. nil: there
	// are no connections.
	Disconnect func(device string) bool
	EndSession func(account string, devices ...string) bool
	Logger     *slog.Logger
	// Internal says that the API is served on a private address: /readyz tells all.
	Internal bool
	// Version is that of the program, in /healthz and in the OpenAPI document.
	Version string
	// Ready answers /readyz. nil: always ready.
	Ready func() overview.Readiness
	// Metrics count the requests; nil makes new ones.
	Metrics *metrics.Metrics
	// Reload takes up a changed configuration; nil: it cannot. The error may be a
	// *ReloadError.
	Reload func(ctx context.Context) error
	// Backup makes a copy of the store, a directory, and the function that removes it.
	// nil: it cannot, for the reason NoBackup.
	Backup   func() (dir string, remove func() error, err error)
	NoBackup string
	// Receipts are the webhooks; nil: there are none.
	Receipts *receipts.Receipts
	// Overview is what the dashboard shows; nil: there is no dashboard.
	Overview *overview.Overview
	// Handlers serve further paths, by their ServeMux patterns: the MQTT WebSocket, the
	// web pages. They need no token.
	Handlers map[string]http.Handler
}

// API is the http.Handler of contract §4.
type API struct {
	core    Core
	opts    Options
	bearer  func(ctx context.Context, token, remote string) (auth.Identity, error)
	log     *slog.Logger
	seldom  seldom.Log // of what callers cause
	version string
	ready   func() overview.Readiness
	metrics *metrics.Metrics

	mux   *http.ServeMux // the calls
	other *http.ServeMux // Options.Handlers
	huma  huma.API

	acceptBody bodyReader
	ackBody    bodyReader
	ids        seqIDs

	streams     chan struct{} // a slot for each stream of events
	tail        *receipts.Tail
	closing     chan struct{}
	closingOnce sync.Once

	timing timing
}

// timing holds the timeouts, which tests shorten.
type timing struct {
	heartbeat time.Duration // between the comments of an idle stream of events
	write     time.Duration // how long a client may take to let a write of a stream or a batch through
	answer    time.Duration // and a whole answer of the other calls
	read      time.Duration // how long a body may take, and a batch stand still
}

// maxStreams limits the event streams that are open at a time: each gets every event.
const maxStreams = 256

// New returns an API.
func New(o Options) *API {
	a := &API{
		core: o.Core, opts: o, bearer: o.Bearer, log: o.Logger, version: o.Version, ready: o.Ready, metrics: o.Metrics,
		mux: http.NewServeMux(), other: http.NewServeMux(),
		streams: make(chan struct{}, maxStreams), closing: make(chan struct{}),
		timing: timing{heartbeat: 15 * time.Second, write: 10 * time.Second, answer: time.Minute, read: 30 * time.Second},
	}
	a.tail = receipts.NewTail(o.Core)
	if a.opts.FlushAll == nil {
		a.opts.FlushAll = o.Core.Flush
	}
	if a.opts.Disconnect == nil {
		a.opts.Disconnect = func(string) bool { return false }
	}
	if a.opts.EndSession == nil {
		a.opts.EndSession = func(string, ...string) bool { return false }
	}
	if a.metrics == nil {
		a.metrics = metrics.New()
	}
	if a.version == "" {
		a.version = "0"
	}
	for pattern, h := range o.Handlers {
		a.other.Handle(pattern, h)
	}
	a.huma = humago.New(a.mux, a.config())
	a.huma.UseMiddleware(strictQuery)
	a.acceptBody = newBodyReader(reflect.TypeFor[wire.Notification]())
	a.ackBody = newBodyReader(reflect.TypeFor[ackPost]())
	a.registerNotifications()
	a.registerBatch()
	a.registerDevices()
	a.registerEvents()
	a.registerHealth()
	a.registerSearch()
	a.registerReload()
	a.registerWebhooks()
	a.registerBackup()
	a.registerOverview()
	a.describeProblems()
	a.serveDocument()
	return a
}

// Close ends the event streams and the batches. It does not wait for their calls:
// http.Server.Shutdown does.
func (a *API) Close() {
	a.closingOnce.Do(func() { close(a.closing) })
	a.tail.Stop()
}

func (a *API) config() huma.Config {
	c := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Heartline", Version: a.version,
				Description: "Notifications over a live MQTT channel while the device's heartbeat holds, through Apple push when it does not, " +
					"and over MQTT again when the device returns. Errors are RFC 9457 problems whose detail says what to change.",
			},
			Servers: []*huma.Server{{URL: "/", Description: "The server of this document"}},
			Components: &huma.Components{
				Schemas: newSchemas("#/components/schemas/"),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"bearer": {Type: "http", Scheme: "bearer", Description: "A token of the role service; where a call says so, a device's. Ignored with auth.mode none"},
					"basic":  {Type: "http", Scheme: "basic", Description: "A device's MQTT username and password, where a call says so"},
				},
			},
		},
		Formats:       map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat: "application/json",
		// A filter that is misspelled must not answer with everything.
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{readable},
	}
	return c
}

// newSchemas returns a registry of schemas: of those in the OpenAPI document, and of those
// that a body is checked by.
func newSchemas(prefix string) huma.Registry {
	r := huma.NewMapRegistry(prefix, schemaName)
	r.RegisterTypeAlias(reflect.TypeFor[wire.Duration](), reflect.TypeFor[durationSchema]())
	return r
}

// durationSchema describes wire.Duration, which by its kind would be a string only.
type durationSchema string

// Schema implements huma.SchemaProvider.
func (durationSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{{Type: huma.TypeString}, {Type: huma.TypeInteger, Enum: []any{0.0}}}} // 0 as encoding/json decodes it
}

// schemaName keeps the names of the Go types, without our prefixes.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	switch name {
	case "ErrorModel":
		return "Problem"
	case "ErrorDetail":
		return "ProblemPart"
	}
	return name
}

// serveDocument serves the OpenAPI document, made once: huma's own handler would
// make it at the first request, by whichever of two comes first.
func (a *API) serveDocument() {
	// huma takes every slice for one that may be null. No answer has a null in place of
	// an array, and a generated client would have to look for it everywhere.
	seen := map[*huma.Schema]bool{}
	for _, s := range a.huma.OpenAPI().Components.Schemas.Map() {
		arraysAreNotNull(s, seen)
	}
	document, err := json.Marshal(a.huma.OpenAPI())
	if err != nil {
		panic(fmt.Errorf("OpenAPI document: %w", err)) // it is made of constants
	}
	a.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(document)
	})
}

func arraysAreNotNull(s *huma.Schema, seen map[*huma.Schema]bool) {
	if s == nil || seen[s] {
		return
	}
	seen[s] = true
	if s.Type == huma.TypeArray {
		s.Nullable = false
	}
	arraysAreNotNull(s.Items, seen)
	for _, p := range s.Properties {
		arraysAreNotNull(p, seen)
	}
	if more, ok := s.AdditionalProperties.(*huma.Schema); ok {
		arraysAreNotNull(more, seen)
	}
}

// operation adds the tags, errors and security that calls share.
func (a *API) operation(op huma.Operation) huma.Operation {
	op.Tags = []string{strings.SplitN(strings.TrimPrefix(op.Path, "/v1/"), "/", 2)[0]}
	op.Errors = append(op.Errors, http.StatusInternalServerError)
	if strings.HasPrefix(op.Path, "/v1/") {
		// The same in every mode of authentication: a client that was generated from a trial
		// server sends tokens to a real one.
		op.Errors = append(op.Errors, http.StatusForbidden, http.StatusUnauthorized)
		op.Security = []map[string][]string{{"bearer": {}}}
		if forDevices(op.Method + " " + op.Path) {
			op.Security = append(op.Security, map[string][]string{"basic": {}})
		}
		if a.bearer == nil {
			op.Security = append(op.Security, map[string][]string{})
		}
	}
	return op
}

// call registers a call that answers with a value.
func call[I, O any](a *API, op huma.Operation, h func(context.Context, *I) (*O, error)) {
	huma.Register(a.huma, a.operation(op), func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return out, nil
	})
}

// raw registers a call that reads the body, or writes the answer, by itself. body
// and answers describe them in the OpenAPI document.
func raw[I any](a *API, op huma.Operation, body *huma.RequestBody, h func(w http.ResponseWriter, r *http.Request, in *I) error) {
	op = a.operation(op)
	huma.Register(a.huma, op, func(_ context.Context, in *I) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			if err := h(w, r, in); err != nil {
				writeProblem(w, a.problem(r.Context(), err))
			}
		}}, nil
	})
	if body != nil {
		// Afterwards: huma would read and check a body that it knows of.
		item := a.huma.OpenAPI().Paths[op.Path]
		for _, o := range []*huma.Operation{item.Post, item.Put} {
			if o != nil && o.Method == op.Method {
				o.RequestBody = body
			}
		}
	}
}

// answer describes a response with a JSON body of type T.
func answer[T any](a *API, description string) *huma.Response {
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{
		"application/json": {Schema: schemaOf[T](a)},
	}}
}

func schemaOf[T any](a *API) *huma.Schema {
	t := reflect.TypeFor[T]()
	return a.huma.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Set again for each request of a connection; streams set their own. Some writers do
	// not support deadlines.
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(a.timing.answer))
	if r.Body != http.NoBody { // of a call that does not look at it, too: the server reads over it
		_ = rc.SetReadDeadline(time.Now().Add(a.timing.read))
	}
	if a.bearer == nil {
		if p := foreign(r); p != nil {
			writeProblem(w, p)
			return
		}
	}
	r = oneSlash(r)
	handler, pattern := a.mux.Handler(r)
	switch {
	case crooked(r.URL.EscapedPath()):
		a.refuseCrooked(w, r)
		return
	case pattern == "":
		a.serveOther(w, r, handler)
		return
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store") // what is shown is someone's, and of this moment
	begun := time.Now()
	sw := &statusWriter{ResponseWriter: w}
	defer func() { a.metrics.Served(r.Method, pattern, sw.status, string(sw.problem), time.Since(begun)) }()
	defer a.recover(sw, r)
	who, err := a.authorize(r, pattern)
	if err != nil {
		writeProblem(sw, a.problem(r.Context(), err))
		return
	}
	r = r.WithContext(context.WithValue(context.WithValue(r.Context(), callerKey{}, who), answerKey{}, sw))
	a.mux.ServeHTTP(sw, r) // not handler: only this gives the path its values
}

// oneSlash takes "//v1/..." for "/v1/...": a client has put the path behind an address that ends in a
// slash.
func oneSlash(r *http.Request) *http.Request {
	if !strings.HasPrefix(r.URL.Path, "//") || !strings.HasPrefix(strings.TrimLeft(r.URL.EscapedPath(), "/"), "v1/") {
		return r
	}
	u, one := *r.URL, *r
	u.Path = "/" + strings.TrimLeft(u.Path, "/")
	if u.RawPath != "" {
		u.RawPath = "/" + strings.TrimLeft(u.RawPath, "/")
	}
	one.URL = &u
	return &one
}

// crooked reports whether a path leads to a call of the API only once empty segments, "." and
// ".." are taken out. The mux would redirect it to the path without them: from a device named ".."
// to its account, and with percent signs that are encoded twice to another name.
func crooked(escaped string) bool {
	clean := path.Clean("/" + escaped)
	if strings.HasSuffix(escaped, "/") && clean != "/" {
		clean += "/"
	}
	return clean != escaped && (strings.HasPrefix(clean, "/v1/") || strings.HasPrefix(escaped, "/v1/"))
}

func (a *API) refuseCrooked(w http.ResponseWriter, r *http.Request) {
	if _, err := a.authorize(r, ""); err != nil {
		writeProblem(w, a.problem(r.Context(), err))
		return
	}
	writeProblem(w, newProblem(http.StatusNotFound, codeNotFound,
		"there is nothing at %s: no segment may be empty, . or ..; a name that is . or .. is written as %%2E or %%2E%%2E", clip(r.URL.Path)))
}

// serveOther serves a request that matches no call of the API. unmatched is the mux's
// handler for it, which answers 404 or 405.
func (a *API) serveOther(w http.ResponseWriter, r *http.Request, unmatched http.Handler) {
	verdict := &verdictWriter{header: http.Header{}}
	unmatched.ServeHTTP(verdict, r)
	allowed := verdict.header.Get("Allow")
	under := strings.HasPrefix(r.URL.Path, "/v1/")
	if !under && allowed == "" {
		if _, pattern := a.other.Handler(r); pattern != "" {
			a.other.ServeHTTP(w, r)
			return
		}
	}
	if under {
		if _, err := a.authorize(r, ""); err != nil {
			writeProblem(w, a.problem(r.Context(), err))
			return
		}
	}
	if allowed != "" {
		p := newProblem(http.StatusMethodNotAllowed, codeMethodNotAllowed, "%s takes %s, not %s", r.URL.Path, allowed, r.Method)
		p.headers.Set("Allow", allowed)
		writeProblem(w, p)
		return
	}
	NotFound(w, r)
}

// NotFound answers a request for a path that leads nowhere.
func NotFound(w http.ResponseWriter, r *http.Request) {
	writeProblem(w, newProblem(http.StatusNotFound, codeNotFound, "there is nothing at %s; /openapi.json lists the calls", clip(r.URL.Path)))
}

// Unauthenticated answers a request that the host program does not let through.
func Unauthenticated(w http.ResponseWriter, detail string) {
	p := newProblem(http.StatusUnauthorized, codeUnauthenticated, "%s", text.Clip(strings.ToValidUTF8(detail, "\uFFFD"), 256))
	p.headers.Set("WWW-Authenticate", "Bearer")
	writeProblem(w, p)
}

// recover answers 500 when a call panics, instead of closing the connection.
func (a *API) recover(w *statusWriter, r *http.Request) {
	fault := recover()
	if fault == nil {
		return
	}
	if err, ok := fault.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(fault)
	}
	if r.Context().Err() != nil {
		return // the client has gone: huma panics where it cannot write the answer
	}
	a.log.Error("call failed", "method", r.Method, "path", r.URL.Path, "error", fmt.Sprint(fault), "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // half an answer is under way: let the client see that it is cut off
	}
	writeProblem(w, newProblem(http.StatusInternalServerError, codeInternal, "the server failed at this call; its log says more"))
}

// statusWriter records the status of the answer.
type statusWriter struct {
	http.ResponseWriter
	status  int
	problem code // of the answer, if it is one
}

// answerKey is that of a request's statusWriter.
type answerKey struct{}

// noteProblem records the code of the problem that a request will be answered with.
func noteProblem(ctx context.Context, c code) {
	if sw, ok := ctx.Value(answerKey{}).(*statusWriter); ok {
		sw.problem = c
	}
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// verdictWriter takes the answer of a mux that has no handler.
type verdictWriter struct{ header http.Header }

func (w *verdictWriter) Header() http.Header         { return w.header }
func (w *verdictWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *verdictWriter) WriteHeader(int)             {}

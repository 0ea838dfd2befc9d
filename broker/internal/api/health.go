package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type health struct {
	Status  string            `json:"status" enum:"ok"`
	Version string            `json:"version,omitempty"`
	Checks  map[string]string `json:"checks,omitempty" doc:"The result of each check"`
}

type healthAnswer struct {
	Body health
}

// detailed reports whether the caller of /readyz may see the checks: everybody without
// authentication and on the internal address, otherwise this machine and services.
func (a *API) detailed(r *http.Request) bool {
	if a.bearer == nil || a.opts.Internal || fromHere(r) {
		return true
	}
	token, ok := bearerToken(r)
	if !ok {
		return false
	}
	id, err := a.bearer(r.Context(), token, r.RemoteAddr)
	return err == nil && id.Service
}

func (a *API) registerHealth() {
	call(a, huma.Operation{
		OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Summary: "Liveness: the process runs",
	}, func(context.Context, *struct{}) (*healthAnswer, error) {
		return &healthAnswer{health{Status: "ok", Version: a.version}}, nil
	})

	raw(a, huma.Operation{
		OperationID: "readyz", Method: http.MethodGet, Path: "/readyz",
		Summary:   "Whether it takes notifications: the store recovered, the listeners up",
		Responses: map[string]*huma.Response{"200": answer[health](a, "Ready")},
		Errors:    []int{http.StatusServiceUnavailable},
	}, nil, func(w http.ResponseWriter, r *http.Request, _ *struct{}) error {
		var checks map[string]string
		var err error
		if a.ready != nil {
			checks, err = a.ready()
		}
		if !a.detailed(r) {
			// Which apps are paused, and why, is nobody else's business.
			checks = nil
			if err != nil {
				err = errors.New("a service's token shows why")
			}
		}
		if err == nil {
			return writeJSON(w, http.StatusOK, health{Status: "ok", Checks: checks})
		}
		writeProblemWith(w, newProblem(http.StatusServiceUnavailable, codeNotReady, "not ready: %s", err), checks)
		return nil
	})

	raw(a, huma.Operation{
		OperationID: "metrics", Method: http.MethodGet, Path: "/metrics",
		Summary:     "Prometheus metrics",
		Description: "Open to this machine; a token of the role service is asked of others, unless auth.mode is none.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The metrics", Content: map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: "string"}}},
		}},
		Errors: []int{http.StatusUnauthorized, http.StatusForbidden},
	}, nil, func(w http.ResponseWriter, r *http.Request, _ *struct{}) error {
		a.metrics.Handler().ServeHTTP(w, r)
		return nil
	})
}

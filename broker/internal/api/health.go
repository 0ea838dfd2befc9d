package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/broker/internal/overview"
)

type health struct {
	Status  string            `json:"status" enum:"ok"`
	Version string            `json:"version,omitempty"`
	Checks  map[string]string `json:"checks,omitempty" doc:"The result of each check"`
	Faults  []string          `json:"faults,omitempty" doc:"The checks whose result needs an operator"`
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
		var ready overview.Readiness
		if a.ready != nil {
			ready = a.ready()
		}
		if !a.detailed(r) {
			// Which apps are paused, and why, is nobody else's business.
			ready.Checks, ready.Faults = nil, nil
			if ready.Err != nil {
				ready.Err = errors.New("a service's token shows why")
			}
		}
		if ready.Err == nil {
			return writeJSON(w, http.StatusOK, health{Status: "ok", Checks: ready.Checks, Faults: ready.Faults})
		}
		writeProblemWith(w, newProblem(http.StatusServiceUnavailable, codeNotReady, "not ready: %s", ready.Err), ready)
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

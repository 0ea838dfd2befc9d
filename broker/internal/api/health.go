package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type health struct {
	Status  string            `json:"status" enum:"ok"`
	Version string            `json:"version,omitempty"`
	Checks  map[string]string `json:"checks,omitempty" doc:"What was looked at"`
}

type healthAnswer struct {
	Body health
}

func (a *API) registerHealth() {
	call(a, huma.Operation{
		OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Summary: "Whether the process lives",
	}, func(context.Context, *struct{}) (*healthAnswer, error) {
		return &healthAnswer{health{Status: "ok", Version: a.version}}, nil
	})

	raw(a, huma.Operation{
		OperationID: "readyz", Method: http.MethodGet, Path: "/readyz",
		Summary:   "Whether it takes notifications: the store recovered, the listeners up",
		Responses: map[string]*huma.Response{"200": answer[health](a, "Ready")},
		Errors:    []int{http.StatusServiceUnavailable},
	}, nil, func(w http.ResponseWriter, _ *http.Request, _ *struct{}) error {
		var checks map[string]string
		var err error
		if a.ready != nil {
			checks, err = a.ready()
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

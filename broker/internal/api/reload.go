package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// ReloadError is a configuration that was refused.
type ReloadError struct{ Faults []ReloadFault }

// ReloadFault is one mistake in it.
type ReloadFault struct{ Key, Rule string }

func (e *ReloadError) Error() string { return "the configuration has mistakes" }

func (a *API) registerReload() {
	call(a, huma.Operation{
		OperationID: "reload", Method: http.MethodPost, Path: "/v1/reload",
		Summary: "Take up a changed configuration",
		Description: "As SIGHUP does, for the role admin. A configuration with a mistake is refused whole, and the one in force stays. " +
			"The log names the changes that need a restart.",
		Errors: []int{http.StatusUnprocessableEntity},
	}, a.reload)
}

func (a *API) reload(ctx context.Context, _ *struct{}) (*struct{}, error) {
	if who := callerOf(ctx); !who.Admin {
		return nil, newProblem(http.StatusForbidden, codeForbidden, "this call is for the role admin")
	}
	err := errors.New("this server cannot reload")
	if a.opts.Reload != nil {
		err = a.opts.Reload(ctx)
	}
	if err == nil {
		return nil, nil
	}
	refused, ok := errors.AsType[*ReloadError](err)
	if !ok {
		return nil, broken("configuration", err.Error())
	}
	faults := make([]*fault, len(refused.Faults))
	for i, f := range refused.Faults {
		faults[i] = &fault{Location: f.Key, Message: f.Rule}
	}
	return nil, invalid(faults...)
}

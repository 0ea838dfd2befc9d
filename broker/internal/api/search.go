package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/delivery"
)

// found holds the matches of a search by exact name.
type found struct {
	Notification string       `json:"notification,omitempty" doc:"The ID, where a notification has it"`
	Device       *foundDevice `json:"device,omitempty" doc:"The device of that ID"`
	Account      string       `json:"account,omitempty" doc:"The account, where it has a device or a notification in the history"`
}

type foundDevice struct {
	Account string `json:"account"`
	Device  string `json:"device"`
}

type foundAnswer struct {
	Body found
}

func (a *API) registerSearch() {
	call(a, huma.Operation{
		OperationID: "search", Method: http.MethodGet, Path: "/v1/search",
		Summary:     "The notification, the device and the account of exactly one name",
		Description: "Each is looked up, nothing is scanned. Names that the caller may not see are not found.",
		Errors:      []int{http.StatusServiceUnavailable},
	}, a.search)
}

func (a *API) search(ctx context.Context, in *struct {
	Q string `query:"q" required:"true" minLength:"1" maxLength:"128" doc:"The name"`
}) (*foundAnswer, error) {
	who := callerOf(ctx)
	out := &foundAnswer{}
	n, err := a.core.Get(ctx, in.Q)
	switch {
	case err == nil && who.MayActFor(n.Account):
		out.Body.Notification = n.ID
	case err != nil && !errors.Is(err, delivery.ErrNotFound):
		return nil, err
	}
	account, err := a.core.AccountOf(in.Q)
	switch {
	case err == nil && who.MayActFor(account):
		out.Body.Device = &foundDevice{Account: account, Device: in.Q}
	case err != nil && !errors.Is(err, delivery.ErrNotFound):
		return nil, err
	}
	if !who.MayActFor(in.Q) {
		return out, nil
	}
	devices, err := a.core.Devices(in.Q)
	if err != nil {
		return nil, err
	}
	if len(devices) > 0 {
		out.Body.Account = in.Q
		return out, nil
	}
	views, _, err := a.core.List(ctx, delivery.Filter{Account: in.Q, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(views) > 0 {
		out.Body.Account = in.Q
	}
	return out, nil
}

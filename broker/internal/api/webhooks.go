package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/wire"
)

type webhooksAnswer struct{ Body wire.WebhookList }

type parkedQuery struct {
	Name  string `query:"name" required:"true" doc:"The webhook"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most this many"`
}

type parkedAnswer struct{ Body wire.ParkedList }

type retryQuery struct {
	Name string   `query:"name" required:"true" doc:"The webhook"`
	ID   []string `query:"id,explode" doc:"The webhook-id of a parked event; absent: all"`
}

type retryAnswer struct{ Body wire.WebhookRetry }

type testQuery struct {
	Name string `query:"name" required:"true" doc:"The webhook"`
}

type testAnswer struct{ Body wire.WebhookTest }

func (a *API) registerWebhooks() {
	call(a, huma.Operation{
		OperationID: "list-webhooks", Method: http.MethodGet, Path: "/v1/webhooks",
		Summary:     "The webhooks and how each is doing",
		Description: "It is for services without a limit on accounts. Counts are since the start of the server.",
	}, a.webhooks)
	call(a, huma.Operation{
		OperationID: "list-parked", Method: http.MethodGet, Path: "/v1/webhooks/parked",
		Summary:     "The parked events of a webhook, the oldest first",
		Description: "Every attempt has failed for them. They wait for /v1/webhooks/retry, for as long as receipts.retain. It is for services without a limit on accounts.",
		Errors:      []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, a.parked)
	call(a, huma.Operation{
		OperationID: "retry-webhook", Method: http.MethodPost, Path: "/v1/webhooks/retry",
		Summary:     "Send parked events again",
		Description: "It also enables a webhook that was disabled by the answer 410, and makes the next attempt at once. For the role admin.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, a.retryWebhook)
	call(a, huma.Operation{
		OperationID: "test-webhook", Method: http.MethodPost, Path: "/v1/webhooks/test",
		Summary:     "Send a message of the type test, once, and wait for the answer",
		Description: "For the role admin.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, a.testWebhook)
}

func (a *API) webhooks(ctx context.Context, _ *struct{}) (*webhooksAnswer, error) {
	if err := mayActForAll(ctx); err != nil {
		return nil, err
	}
	list := wire.WebhookList{Webhooks: []wire.WebhookView{}}
	if a.opts.Receipts != nil {
		for _, s := range a.opts.Receipts.Statuses() {
			list.Webhooks = append(list.Webhooks, webhookView(&s))
		}
	}
	return &webhooksAnswer{list}, nil
}

func (a *API) parked(ctx context.Context, in *parkedQuery) (*parkedAnswer, error) {
	if err := mayActForAll(ctx); err != nil {
		return nil, err
	}
	if a.opts.Receipts == nil {
		return nil, aboutWebhook(in.Name, receipts.ErrUnknownWebhook)
	}
	parked, err := a.opts.Receipts.Parked(in.Name, in.Limit)
	if err != nil {
		return nil, aboutWebhook(in.Name, err)
	}
	list := wire.ParkedList{Parked: []wire.ParkedView{}}
	for _, p := range parked {
		list.Parked = append(list.Parked, wire.ParkedView{
			WebhookID: p.ID, Event: p.Event, ID: p.Notification, Time: wire.FormatTime(p.Time), Attempts: p.Attempts,
			FirstAttempt: stamp(p.FirstAttempt), ParkedAt: wire.FormatTime(p.ParkedAt), Error: p.Error,
		})
	}
	return &parkedAnswer{list}, nil
}

func (a *API) retryWebhook(ctx context.Context, in *retryQuery) (*retryAnswer, error) {
	r, err := a.receiptsForAdmin(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	n, err := r.Retry(ctx, in.Name, in.ID)
	if err != nil {
		return nil, aboutWebhook(in.Name, err)
	}
	return &retryAnswer{wire.WebhookRetry{Retried: n}}, nil
}

func (a *API) testWebhook(ctx context.Context, in *testQuery) (*testAnswer, error) {
	r, err := a.receiptsForAdmin(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	t, err := r.Test(ctx, in.Name)
	if err != nil {
		return nil, aboutWebhook(in.Name, err)
	}
	return &testAnswer{wire.WebhookTest{WebhookID: t.ID, Status: t.Status, Took: t.Took.Round(time.Millisecond).String(), Error: t.Error}}, nil
}

// receiptsForAdmin refuses all callers but admins.
func (a *API) receiptsForAdmin(ctx context.Context, name string) (*receipts.Receipts, error) {
	if who := callerOf(ctx); !who.Admin {
		return nil, newProblem(http.StatusForbidden, codeForbidden, "this call is for the role admin")
	}
	if a.opts.Receipts == nil {
		return nil, aboutWebhook(name, receipts.ErrUnknownWebhook)
	}
	return a.opts.Receipts, nil
}

func aboutWebhook(name string, err error) error {
	if errors.Is(err, receipts.ErrUnknownWebhook) {
		return newProblem(http.StatusNotFound, codeNotFound, "there is no webhook %q; GET /v1/webhooks lists them", clip(name))
	}
	if errors.Is(err, receipts.ErrElsewhere) {
		return newProblem(http.StatusConflict, codeOtherNode, "%s", err)
	}
	return err
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return wire.FormatTime(t)
}

func webhookView(s *receipts.Status) wire.WebhookView {
	return wire.WebhookView{
		Name: s.Name, URL: s.URL, State: s.State, Since: stamp(s.Since), Reason: s.Reason, Events: s.Events, Accounts: s.Accounts,
		Lag: s.Lag.Round(time.Millisecond).Seconds(), Deferred: s.Deferred, Parked: s.Parked,
		Delivered: s.Delivered, Failed: s.Failed, Dropped: s.Dropped,
		LastSuccess: stamp(s.LastSuccess), LastFailure: stamp(s.LastFailure), LastError: s.LastError, NextAttempt: stamp(s.NextAttempt),
	}
}

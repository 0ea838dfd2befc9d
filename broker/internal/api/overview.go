package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/broker/internal/overview"
)

type overviewAnswer struct {
	Body overview.Page
}

// overviewEvent is the data of an event of the stream.
type overviewEvent struct {
	overview.Now
	History *overview.History `json:"history,omitempty" doc:"Only in the first event"`
}

func (a *API) registerOverview() {
	if a.opts.Overview == nil {
		return
	}
	call(a, huma.Operation{
		OperationID: "overview", Method: http.MethodGet, Path: "/v1/overview",
		Summary:     "What the dashboard shows: Heartline's own metrics now, and samples of the last hour",
		Description: "The numbers are those of /metrics. It is for services without a limit on accounts.",
	}, func(ctx context.Context, _ *struct{}) (*overviewAnswer, error) {
		if err := mayActForAll(ctx); err != nil {
			return nil, err
		}
		return &overviewAnswer{a.opts.Overview.Page()}, nil
	})

	raw(a, huma.Operation{
		OperationID: "overview-stream", Method: http.MethodGet, Path: "/v1/overview/stream",
		Summary: "The dashboard's figures as they change",
		Description: "Server-sent events. The data of the first is that of /v1/overview. One every 2 s follows, whose data is the present part " +
			"of /v1/overview with at most 20 timeline events. /v1/events has all events.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The stream",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: schemaOf[overviewEvent](a)}},
		}},
		Errors: []int{http.StatusServiceUnavailable},
	}, nil, a.overviewStream)
}

// mayActForAll refuses a service that is limited to some accounts.
func mayActForAll(ctx context.Context) error {
	if who := callerOf(ctx); !who.AllAccounts() {
		return newProblem(http.StatusForbidden, codeForbidden, "these credentials are for some accounts only; this call is of all")
	}
	return nil
}

func (a *API) overviewStream(w http.ResponseWriter, r *http.Request, _ *struct{}) error {
	if err := mayActForAll(r.Context()); err != nil {
		return err
	}
	done, err := a.openStream()
	if err != nil {
		return err
	}
	defer done()
	first, err := json.Marshal(a.opts.Overview.Page())
	if err != nil {
		return err
	}
	s := a.beginStream(w)
	defer s.arm() // the server writes the end of the answer
	if r.Method == http.MethodHead {
		return nil
	}
	texts, end := a.opts.Overview.View()
	defer end()
	s.buf.WriteString(": connected\nretry: 2000\n\n")
	s.overview(first)
	if s.send() != nil {
		return nil
	}
	who := callerOf(r.Context())
	for {
		select {
		case text, open := <-texts:
			if !open || who.Check(time.Now()) != nil {
				return nil
			}
			s.overview(text)
		case <-a.closing:
			return nil
		case <-r.Context().Done():
			return nil
		}
		if s.send() != nil {
			return nil
		}
	}
}

func (s *stream) overview(text []byte) {
	s.buf.WriteString("event: overview\ndata: ")
	s.buf.Write(text)
	s.buf.WriteString("\n\n")
}

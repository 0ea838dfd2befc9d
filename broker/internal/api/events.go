package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// eventBuffer is how many events a stream may be behind before it has lagged.
const eventBuffer = 4096

// burst is how much is put into one write.
const burst = 32 << 10

type eventQuery struct {
	Account string `query:"account" doc:"Only this account"`
	Device  string `query:"device" doc:"Only this device"`
	ID      string `query:"id" doc:"Only this notification"`
}

func (a *API) registerEvents() {
	raw(a, huma.Operation{
		OperationID: "events", Method: http.MethodGet, Path: "/v1/events",
		Summary: "Every timeline event as it happens",
		Description: "Server-sent events. The event's name is that of the timeline, its id is a number that grows, its data is a StreamEvent. " +
			"A comment comes every 15 s. The stream begins now: what was before is in the timelines. " +
			"A reader that is too slow gets the event `lagged`, and the stream ends: it can connect again, and read the missed events in the timelines.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The stream",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: schemaOf[wire.StreamEvent](a)}},
		}},
		Errors: []int{http.StatusServiceUnavailable},
	}, nil, a.events)
}

func (a *API) events(w http.ResponseWriter, r *http.Request, in *eventQuery) error {
	if who := callerOf(r.Context()); !who.AllAccounts() && !who.MayActFor(in.Account) {
		return notForAccount(in.Account)
	}
	done, err := a.openStream()
	if err != nil {
		return err
	}
	defer done()
	sub := a.core.Subscribe(eventBuffer)
	defer sub.Close()
	s := a.beginStream(w)
	if r.Method == http.MethodHead {
		return nil
	}
	s.buf.WriteString(": connected\nretry: 2000\n\n")
	if s.send() != nil {
		return nil
	}
	beat := time.NewTicker(a.timing.heartbeat)
	defer beat.Stop()
	who := callerOf(r.Context())
	permission := time.NewTicker(time.Second)
	defer permission.Stop()
	for {
		select {
		case e, open := <-sub.C:
			for more := open; more; {
				a.addEvent(s, in, e)
				more = false
				if s.buf.Len() < burst {
					select {
					case e, open = <-sub.C:
						more = open
					default:
					}
				}
			}
			if !open {
				if sub.Lagged() {
					s.buf.WriteString("event: lagged\ndata: {\"detail\":\"this reader was too slow; the timelines have the missed events\"}\n\n")
				}
				_ = s.send() // the last
				return nil
			}
		case <-beat.C:
			s.buf.WriteString(": heartbeat\n\n")
		case now := <-permission.C:
			if err := who.Check(now); err != nil {
				a.seldom.Info(a.log, "event stream ended", "remote", r.RemoteAddr, "error", err)
				return nil
			}
			continue
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

// addEvent writes e into the buffer if the query asks for it.
func (a *API) addEvent(s *stream, in *eventQuery, e delivery.AccountEvent) {
	if in.Account != "" && e.Account != in.Account || in.Device != "" && e.Device != "" && e.Device != in.Device {
		return
	}
	n, err := a.ids.get(e.Seq, a.core.Notification)
	if err != nil {
		a.log.Debug("event of a notification that is not found", "error", err)
	}
	if in.ID != "" && n.id != in.ID {
		return
	}
	// accepted is of the whole notification: a device hears of its own ones.
	if in.Device != "" && e.Device == "" && !slices.Contains(n.devices, in.Device) {
		return
	}
	text, err := json.Marshal(wire.NewStreamEvent(e, n.id))
	if err != nil {
		a.log.Error("event not sent", "error", err)
		return
	}
	fmt.Fprintf(&s.buf, "id: %d\nevent: %s\ndata: %s\n\n", e.Number, e.Kind, text)
}

// openStream takes a slot for a stream. The caller calls done at its end.
func (a *API) openStream() (done func(), err error) {
	select {
	case a.streams <- struct{}{}:
		return func() { <-a.streams }, nil
	default:
		p := newProblem(http.StatusServiceUnavailable, codeUnavailable, "%d streams of events are open, which is the most: close one, or try again", maxStreams)
		p.headers.Set("Retry-After", retryUnavailable)
		return nil, p
	}
}

// beginStream answers with the headers of server-sent events.
func (a *API) beginStream(w http.ResponseWriter) *stream {
	s := &stream{w: w, rc: http.NewResponseController(w), patience: a.timing.write}
	_ = s.rc.SetReadDeadline(time.Time{}) // the server's is for requests; not every writer can
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would hold the events back
	w.WriteHeader(http.StatusOK)
	return s
}

// stream is the way to one reader.
type stream struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	buf      bytes.Buffer
	patience time.Duration
}

func (s *stream) send() error {
	if s.buf.Len() == 0 {
		return nil
	}
	// A deadline for each write: the server's own is for whole answers.
	_ = s.rc.SetWriteDeadline(time.Now().Add(s.patience)) // not every writer can
	if _, err := s.w.Write(s.buf.Bytes()); err != nil {
		return err
	}
	s.buf.Reset()
	return s.rc.Flush()
}

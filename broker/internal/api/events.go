package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/wire"
)

// burst is how much is put into one write.
const burst = 32 << 10

// catchUpStep bounds the events of one read of the history.
const catchUpStep = 4096

type eventQuery struct {
	Account string `query:"account" doc:"Only this account"`
	Device  string `query:"device" doc:"Only this device"`
	ID      string `query:"id" doc:"Only this notification"`
}

func (a *API) registerEvents() {
	raw(a, huma.Operation{
		OperationID: "events", Method: http.MethodGet, Path: "/v1/events",
		Summary: "Every timeline event as it happens",
		Description: "Server-sent events. The event's name is that of the timeline, its id is opaque, its data is a StreamEvent. " +
			"A comment comes every 15 s. The stream begins now; with the header Last-Event-ID it resumes behind that event, " +
			"over all that the history holds (store.history), and no event is lost or sent twice. " +
			"A reader that is too slow gets the event `lagged`, and the stream ends: it can connect again and resume.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The stream",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: schemaOf[wire.StreamEvent](a)}},
		}},
		Errors: []int{http.StatusServiceUnavailable},
	}, nil, a.events)
}

func (a *API) events(w http.ResponseWriter, r *http.Request, in *eventQuery) error {
	who := callerOf(r.Context())
	if !who.AllAccounts() && !who.MayActFor(in.Account) {
		return notForAccount(in.Account)
	}
	from, err := a.resumeAt(r)
	if err != nil {
		return err
	}
	done, err := a.openStream()
	if err != nil {
		return err
	}
	defer done()
	s := a.beginStream(w)
	s.at = from
	if r.Method == http.MethodHead {
		return nil
	}
	s.buf.WriteString(": connected\nretry: 2000\n\n")
	if s.send() != nil {
		return nil
	}
	reader, err := a.catchUp(r, s, in)
	if err != nil {
		a.log.Debug("event stream ended while it caught up", "remote", r.RemoteAddr, "error", err)
		return nil // its reader comes back
	}
	defer a.tail.Detach(reader)
	beat := time.NewTicker(a.timing.heartbeat)
	defer beat.Stop()
	permission := time.NewTicker(time.Second)
	defer permission.Stop()
	for {
		select {
		case p, open := <-reader.C:
			for more := open; more; {
				a.addEvent(s, in, p)
				more = false
				if s.buf.Len() < burst {
					select {
					case p, open = <-reader.C:
						more = open
					default:
					}
				}
			}
			if !open {
				if reader.Lagged() {
					s.buf.WriteString("event: lagged\ndata: {\"detail\":\"this reader was too slow; Last-Event-ID resumes the stream\"}\n\n")
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

// resumeAt returns the place at which a stream begins: behind Last-Event-ID, or at the
// end of the store.
func (a *API) resumeAt(r *http.Request) (delivery.Place, error) {
	end, err := a.core.EventsEnd()
	if err != nil {
		return end, err
	}
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		return end, nil
	}
	at, err := delivery.ParseEventID(id)
	if err != nil || len(at) == 0 || !at.Within(end) {
		return end, broken("header.Last-Event-ID", "must be the id of an event of this server; leave it out to begin with the next event")
	}
	return at, nil
}

// catchUp sends the events of the history behind s.at, and returns the reader of the
// next ones. It reads in steps and sends between them: a slow client must not hold the
// store's snapshot. The error says why the stream ends.
func (a *API) catchUp(r *http.Request, s *stream, in *eventQuery) (*receipts.Reader, error) {
	who := callerOf(r.Context())
	for {
		reader, there, err := a.tail.Attach(s.at)
		if err != nil || there {
			return reader, err
		}
		seen := 0
		next, err := a.core.ReadEvents(s.at, func(at delivery.Position, account string, e delivery.Event) bool {
			a.addEvent(s, in, receipts.Event{At: at, AccountEvent: delivery.AccountEvent{Account: account, Event: e}})
			seen++
			return s.buf.Len() < burst && seen < catchUpStep
		})
		if err := errors.Join(err, s.send(), r.Context().Err(), who.Check(time.Now())); err != nil {
			return nil, err
		}
		s.at = next
	}
}

// addEvent writes an event into the buffer if the query asks for it.
func (a *API) addEvent(s *stream, in *eventQuery, e receipts.Event) {
	s.at.Advance(e.At)
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
	text, err := json.Marshal(wire.NewStreamEvent(e.AccountEvent, n.id))
	if err != nil {
		a.log.Error("event not sent", "error", err)
		return
	}
	fmt.Fprintf(&s.buf, "id: %s\nevent: %s\ndata: %s\n\n", delivery.EventID(s.at...), e.Kind, text)
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
	at       delivery.Place // up to which its reader has everything
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

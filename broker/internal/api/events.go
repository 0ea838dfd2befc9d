package api

import (
	"bytes"
	"context"
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

// disorder is how much later than another event one can have been stored that is older: the
// events of a commit are gathered for a moment, and commits of several cores interleave.
const disorder = time.Second

type eventQuery struct {
	Account string    `query:"account" minLength:"1" doc:"Only this account"`
	Device  string    `query:"device" minLength:"1" doc:"Only this device"`
	ID      string    `query:"id" minLength:"1" doc:"Only this notification"`
	Since   time.Time `query:"since" doc:"Begin with the events of this time, which the history may hold, and not with the next one"`
	Until   time.Time `query:"until" doc:"End before the events of this time, past or to come, with an event named end"`
}

func (a *API) registerEvents() {
	raw(a, huma.Operation{
		OperationID: "events", Method: http.MethodGet, Path: "/v1/events",
		Summary: "Every timeline event as it happens",
		Description: "Server-sent events. The event's name is that of the timeline, its id is opaque, its data is a StreamEvent. " +
			"A comment comes every 15 s. The stream begins now; with the header Last-Event-ID it resumes behind that event, " +
			"over all that the history holds (store.history), and no event is lost or sent twice. " +
			"A reader that is too slow gets the event `lagged`, and the stream ends: it can connect again and resume. " +
			"With since the stream begins with the history from that time on; where Last-Event-ID is given too, behind that event. " +
			"With until the stream ends before the events of that time, which may be to come; its last event is `end`.",
		Responses: map[string]*huma.Response{
			"200": {
				Description: "The stream",
				Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: schemaOf[wire.StreamEvent](a)}},
			},
			"204": {Description: "Nothing follows Last-Event-ID, which is that of `end`: a browser does not connect again"},
		},
		Errors: []int{http.StatusServiceUnavailable},
	}, nil, a.events)
}

func (a *API) events(w http.ResponseWriter, r *http.Request, in *eventQuery) error {
	who := callerOf(r.Context())
	if !who.AllAccounts() && !who.MayActFor(in.Account) {
		return notForAccount(in.Account)
	}
	if err := checkSpan(in.Since, in.Until); err != nil {
		return err
	}
	from, err := a.beginAt(r, in)
	if err != nil {
		return err
	}
	var to delivery.Place
	over := !in.Until.IsZero() && !in.Until.After(time.Now())
	if over {
		if to, err = a.endAt(r.Context(), in, from); err != nil {
			return err
		}
		if r.Header.Get("Last-Event-ID") != "" && from.Covers(to) {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
	}
	done, err := a.openStream()
	if err != nil {
		return err
	}
	defer done()
	s := a.beginStream(w)
	defer s.arm() // the server writes the end of the answer
	s.at = from
	if r.Method == http.MethodHead {
		return nil
	}
	s.buf.WriteString(": connected\nretry: 2000\n\n")
	if s.send() != nil {
		return nil
	}
	if !over {
		if over = a.follow(r, s, in); !over {
			return nil
		}
		to, err = a.endAt(r.Context(), in, s.at)
	}
	for err == nil && !s.at.Covers(to) {
		err = a.readEvents(r, s, in, upTo{a.core, to})
	}
	if err != nil {
		a.log.Debug("event stream ended before its end", "remote", r.RemoteAddr, "error", err)
		return nil // its reader comes back
	}
	fmt.Fprintf(&s.buf, "id: %s\nevent: end\ndata: {\"detail\":\"all events before the time in until are sent\"}\n\n", delivery.EventID(s.at...))
	_ = s.send() // the last
	return nil
}

// checkSpan refuses a span that ends before it begins.
func checkSpan(since, until time.Time) error {
	if !since.IsZero() && !until.IsZero() && until.Before(since) {
		return broken("query.until", fmt.Sprintf("must not be before since, which is %s, got %q", since.Format(time.RFC3339Nano), until.Format(time.RFC3339Nano)))
	}
	return nil
}

// follow sends events as they happen, once it has caught up, and reports whether the time in
// until has come. Otherwise the stream has ended.
func (a *API) follow(r *http.Request, s *stream, in *eventQuery) (over bool) {
	reader, err := a.catchUp(r, s, in)
	if err != nil {
		a.log.Debug("event stream ended while it caught up", "remote", r.RemoteAddr, "error", err)
		return false // its reader comes back
	}
	defer a.tail.Detach(reader)
	beat := time.NewTicker(a.timing.heartbeat)
	defer beat.Stop()
	permission := time.NewTicker(time.Second)
	defer permission.Stop()
	var until <-chan time.Time
	if !in.Until.IsZero() {
		t := time.NewTimer(time.Until(in.Until))
		defer t.Stop()
		until = t.C
	}
	who := callerOf(r.Context())
	for {
		select {
		case p, open := <-reader.C:
			for more := open; more; {
				if err := a.addEvent(s, in, p); err != nil {
					a.log.Debug("event stream ended", "remote", r.RemoteAddr, "error", err)
					_ = s.send() // what is before it
					return false // its reader comes back
				}
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
				return false
			}
		case <-until:
			return true
		case <-beat.C:
			s.buf.WriteString(": heartbeat\n\n")
		case now := <-permission.C:
			if err := who.Check(now); err != nil {
				a.seldom.Info(a.log, "event stream ended", "remote", r.RemoteAddr, "error", err)
				return false
			}
			continue
		case <-a.closing:
			return false
		case <-r.Context().Done():
			return false
		}
		if s.send() != nil {
			return false
		}
	}
}

// beginAt returns the place at which a stream begins: behind Last-Event-ID, at the time in
// since, or at the end of the store.
func (a *API) beginAt(r *http.Request, in *eventQuery) (delivery.Place, error) {
	id := r.Header.Get("Last-Event-ID")
	if id == "" && !in.Since.IsZero() {
		return a.core.EventsSince(in.Since.Add(-disorder))
	}
	end, err := a.core.EventsEnd()
	if err != nil {
		return end, err
	}
	if id == "" {
		if !in.Until.IsZero() && !in.Until.After(time.Now()) {
			return end, broken("query.until", "is past, and without since the stream would begin now: add since")
		}
		return end, nil
	}
	at, err := delivery.ParseEventID(id)
	if err != nil || len(at) == 0 || !at.Within(end) {
		return end, broken("header.Last-Event-ID", "must be the id of an event of this server; leave it out to begin with the next event")
	}
	return at, nil
}

// endAt returns a place behind all events from before the time in until, which has come. It
// is nowhere in front of from.
func (a *API) endAt(ctx context.Context, in *eventQuery, from delivery.Place) (delivery.Place, error) {
	if err := a.opts.FlushAll(ctx); err != nil { // what has happened is in the store then
		return nil, err
	}
	to, err := a.core.EventsSince(in.Until.Add(disorder))
	for _, at := range from {
		if to.Of(at.Partition).Less(at) {
			to.Advance(at)
		}
	}
	return to, err
}

// upTo is the events of the store up to a place.
type upTo struct {
	delivery.EventReader
	end delivery.Place
}

func (u upTo) EventsEnd() (delivery.Place, error) { return u.end, nil }

// catchUp sends the events of the history behind s.at, and returns the reader of the
// next ones. The error says why the stream ends.
func (a *API) catchUp(r *http.Request, s *stream, in *eventQuery) (*receipts.Reader, error) {
	for {
		reader, there, err := a.tail.Attach(s.at)
		if err != nil || there {
			return reader, err
		}
		if err := a.readEvents(r, s, in, a.core); err != nil {
			return nil, err
		}
	}
}

// readEvents sends the next events of the history behind s.at, a step of them. It sends after
// the read: a slow client must not hold the store's snapshot.
func (a *API) readEvents(r *http.Request, s *stream, in *eventQuery, from delivery.EventReader) error {
	who := callerOf(r.Context())
	seen := 0
	var unread error
	next, err := delivery.ReadEvents(from, s.at, func(at delivery.Position, account string, e delivery.Event) bool {
		unread = a.addEvent(s, in, receipts.Event{At: at, AccountEvent: delivery.AccountEvent{Account: account, Event: e}})
		seen++
		return unread == nil && s.buf.Len() < burst && seen < catchUpStep
	})
	var closing error
	select {
	case <-a.closing:
		closing = delivery.ErrStopped
	default:
	}
	if err := errors.Join(err, unread, s.send(), r.Context().Err(), who.Check(time.Now()), closing); err != nil {
		return err
	}
	s.at = next
	return nil
}

// addEvent writes an event into the buffer if the query asks for it. The error says that its
// notification cannot be read now.
func (a *API) addEvent(s *stream, in *eventQuery, e receipts.Event) error {
	if e.Time.Before(in.Since) || !in.Until.IsZero() && !e.Time.Before(in.Until) ||
		in.Account != "" && e.Account != in.Account || in.Device != "" && e.Device != "" && e.Device != in.Device {
		s.at.Advance(e.At)
		return nil
	}
	n, err := a.ids.get(e.Seq, a.core.Notification)
	switch {
	case errors.Is(err, delivery.ErrNotFound): // its history is gone
		a.log.Debug("event of a notification that is not found", "error", err)
	case errors.Is(err, delivery.ErrDamaged): // to wait for it would hold up all that follow
		a.seldom.Error(a.log, "event sent without the ID of its notification, which is damaged", "error", err)
	case err != nil:
		return err
	}
	s.at.Advance(e.At)
	if in.ID != "" && n.id != in.ID {
		return nil
	}
	// accepted is of the whole notification: a device hears of its own ones.
	if in.Device != "" && e.Device == "" && !slices.Contains(n.devices, in.Device) {
		return nil
	}
	text, err := json.Marshal(wire.NewStreamEvent(e.AccountEvent, n.id))
	if err != nil {
		a.seldom.Error(a.log, "event not sent", "error", err)
		return nil
	}
	fmt.Fprintf(&s.buf, "id: %s\nevent: %s\ndata: %s\n\n", delivery.EventID(s.at...), e.Kind, text)
	return nil
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

// arm bounds the next write: the server's own deadline is for whole answers.
func (s *stream) arm() { _ = s.rc.SetWriteDeadline(time.Now().Add(s.patience)) } // not every writer can

func (s *stream) send() error {
	if s.buf.Len() == 0 {
		return nil
	}
	s.arm()
	if _, err := s.w.Write(s.buf.Bytes()); err != nil {
		return err
	}
	s.buf.Reset()
	if err := s.rc.Flush(); err != nil {
		return err
	}
	_ = s.rc.SetWriteDeadline(time.Time{}) // over HTTP/2 one that passes between two writes resets the stream
	return nil
}

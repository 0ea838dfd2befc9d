package api_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// longAgo stores a notification a minute, n1 to n200, that was accepted and published in the
// last hours, in that order.
func (s *service) longAgo() (of func(minute int) time.Time) {
	s.Helper()
	const minutes = 200
	begin := time.Now().Add(-(minutes + 10) * time.Minute).Truncate(time.Millisecond)
	of = func(minute int) time.Time { return begin.Add(time.Duration(minute) * time.Minute) }
	stored := make(chan error, minutes)
	for i := 1; i <= minutes; i++ {
		at := of(i)
		seq := delivery.Seq(at.UnixNano())
		s.store.Commit(&delivery.Batch{
			Accept: []delivery.Acceptance{{Notification: &delivery.Notification{
				Seq: seq, ID: fmt.Sprint("n", i), Account: []string{"alice", "bob"}[i%2], AcceptedAt: at, ExpiresAt: at.Add(time.Hour),
			}}},
			Events: []delivery.Event{{Seq: seq, Number: uint64(seq) + 1, Time: at.Add(time.Millisecond), Kind: delivery.EventPublished, Device: "phone", Attempt: 1}},
		}, func(err error) { stored <- err })
		if err := <-stored; err != nil { // a commit each
			s.Fatal(err)
		}
	}
	return of
}

// span is the query for the events between two times.
func span(more string, since, until time.Time) string {
	q := url.Values{}
	if !since.IsZero() {
		q.Set("since", since.Format(time.RFC3339Nano))
	}
	if !until.IsZero() {
		q.Set("until", until.Format(time.RFC3339Nano))
	}
	return "?" + q.Encode() + more
}

// untilEnd reads events as "ID event" up to the one that says that the stream is over, and
// returns that one's id.
func (e *streamed) untilEnd() (events []string, id string) {
	e.Helper()
	for {
		text := e.next()
		if rest, ok := strings.CutSuffix(text, "\nevent: end\ndata: {\"detail\":\"all events before the time in until are sent\"}\n"); ok {
			if more := e.next(); more != "" {
				e.Errorf("after the end: %q", more)
			}
			return events, strings.TrimPrefix(rest, "id: ")
		}
		lines := strings.Split(text, "\n")
		if len(lines) != 4 {
			e.Fatalf("after %v: %q", events, text)
		}
		_, idAndMore, _ := strings.Cut(lines[2], `"id":"`)
		name, _, _ := strings.Cut(idAndMore, `"`)
		events = append(events, name+" "+strings.TrimPrefix(lines[1], "event: "))
	}
}

// TestEventsOfATime: since and until narrow the stream, and only the events of that time
// are read.
func TestEventsOfATime(t *testing.T) {
	s := serve(t)
	of := s.longAgo()
	for name, c := range map[string]struct {
		query string
		want  string
		read  int64
	}{
		"three minutes":      {span("", of(50), of(53)), "[n50 accepted n50 published n51 accepted n51 published n52 accepted n52 published]", 6},
		"to the millisecond": {span("", of(50).Add(time.Millisecond), of(51).Add(time.Millisecond)), "[n50 published n51 accepted]", 4},
		"of an account":      {span("&account=bob", of(50), of(53)), "[n51 accepted n51 published]", 6},
		"of a notification":  {span("&id=n52", of(50), of(53)), "[n52 accepted n52 published]", 6},
		"the oldest":         {span("", of(-1000), of(2)), "[n1 accepted n1 published]", 2},
		"the latest":         {span("", of(200), of(205)), "[n200 accepted n200 published]", 2},
		"nothing":            {span("", of(50), of(50)), "[]", 2},
		"a time without any": {span("", of(50).Add(time.Second), of(50).Add(20*time.Second)), "[]", 2},
	} {
		before := s.store.engine.read.Load()
		events, end := s.stream(c.query).untilEnd()
		if got := fmt.Sprint(events); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if read := s.store.engine.read.Load() - before; read > c.read+3 { // a minute more at the end, and the first one behind it
			t.Errorf("%s: read %d events, want %d", name, read, c.read)
		}
		// A browser connects again, with the id of the end: it is told to stop.
		if r := s.do("GET", "/v1/events"+c.query, "", "Last-Event-ID", end); r.StatusCode != 204 || r.text != "" {
			t.Errorf("%s, again: %s %q", name, r.Status, r.text)
		}
	}
	// A browser that was cut off gets the rest.
	var some []string
	id := s.readSome(span("", of(50), of(53)), "", 1, &some, func() {})
	for len(some) < 6 && !t.Failed() {
		id = s.readSome(span("", of(50), of(53)), id, 6-len(some), &some, func() {})
	}
	if got := fmt.Sprint(some); got != "[n50 accepted n50 published n51 accepted n51 published n52 accepted n52 published]" {
		t.Errorf("in parts: %s", got)
	}
}

// TestHistoryEndsWithTheServer: a long history that a client reads holds up no stop.
func TestHistoryEndsWithTheServer(t *testing.T) {
	s := serve(t)
	of := s.longAgo()
	s.api.Close()
	e := s.stream(span("", of(50), of(53)))
	for text := e.next(); text != ""; text = e.next() {
		if strings.Contains(text, "event: end") {
			t.Error("read to its end")
		}
	}
}

// TestEventsSinceATimeGoOn: the history, and then what happens.
func TestEventsSinceATimeGoOn(t *testing.T) {
	s := serve(t)
	of := s.longAgo()
	s.device("alice", "phone")
	e := s.stream(span("", of(199), time.Time{}))
	e.want("n199 bob accepted", "n199 bob published phone", "n200 alice accepted", "n200 alice published phone")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"new"}`), 202, nil)
	e.want("new alice accepted", "new alice waiting phone")
}

// TestEventsUntilATimeToCome: the stream ends by itself, with all events before.
func TestEventsUntilATimeToCome(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	until := time.Now().Add(time.Second).Truncate(time.Millisecond)
	e := s.stream(span("", time.Time{}, until))
	want := map[string]bool{}
	for i, late := 0, false; !late; i++ { // the last one is after the end
		var a wire.Accepted
		id := fmt.Sprint("n", i)
		s.want(s.do("POST", "/v1/notifications", fmt.Sprintf(`{"account":"alice","title":"x","id":%q}`, id)), 202, &a)
		late = !wire.ParseTime(a.AcceptedAt).Before(until)
		want[id+" accepted"] = !late
		s.want(s.do("DELETE", "/v1/notifications/"+id, ""), 204, nil) // so that the device is never full
	}
	events, _ := e.untilEnd()
	got := map[string]bool{}
	for _, x := range events {
		if strings.HasSuffix(x, " accepted") && !want[x] {
			t.Errorf("%s is after the end, or came twice", x)
		}
		got[x], want[x] = true, false
	}
	for x, missing := range want {
		if missing && strings.HasSuffix(x, " accepted") {
			t.Errorf("%s is missing", x)
		}
	}
}

// elsewhere is a node that owns no account.
type elsewhere struct{ api.Core }

func (elsewhere) Flush(context.Context) error { return nil }

// TestEventsOfATimeAtAllNodes: the stream ends once all nodes, and not only this one, have stored
// their events.
func TestEventsOfATimeAtAllNodes(t *testing.T) {
	node := &elsewhere{}
	var store func() // by the owner of the account
	s := serve(t, func(o *api.Options, _ *delivery.Options) {
		o.Core = node
		o.FlushAll = func(ctx context.Context) error {
			store()
			return node.Core.Flush(ctx)
		}
	})
	node.Core = s.core
	s.device("alice", "phone")
	begun := time.Now().Add(-time.Second)
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"n1"}`), 202, nil)
	if err := s.core.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.store.engine.writing.Lock()
	store = sync.OnceFunc(s.store.engine.writing.Unlock)
	defer store()
	if err := s.core.AckByID("n1", "phone", "alice", delivery.AckDisplayed); err != nil {
		t.Fatal(err)
	}
	events, _ := s.stream(span("", begun, time.Now())).untilEnd()
	if got, want := fmt.Sprint(events), "[n1 accepted n1 waiting n1 displayed]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBadSpans(t *testing.T) {
	s := serve(t)
	const form = "must be a time such as 2026-11-26T09:30:00Z or 2026-11-26T10:30:00%2B01:00 (a + in an address is a space), got "
	for _, path := range []string{"/v1/events", "/v1/notifications"} {
		for query, want := range map[string]string{
			"since=yesterday":                                         `query.since: ` + form + `"yesterday"`,
			"since=2026-11-26T10:30:00+01:00":                         `query.since: ` + form + `"2026-11-26T10:30:00 01:00"`,
			"since=2026-11-26&until=1764150":                          `query.since: ` + form + `"2026-11-26"; query.until: ` + form + `"1764150"`,
			"since=2026-11-26T10:00:00Z&until=2026-11-26T09:00:00.5Z": `query.until: must not be before since, which is 2026-11-26T10:00:00Z, got "2026-11-26T09:00:00.5Z"`,
			"sinse=2026-11-26T10:00:00Z":                              `query.sinse: is not a parameter of this call`,
		} {
			s.wantProblem(s.do("GET", path+"?"+query, ""), 422, want)
		}
	}
	s.wantProblem(s.do("GET", "/v1/events?until=2020-01-01T00:00:00Z", ""), 422, "query.until: is past, and without since the stream would begin now: add since")
	// A time that no count of nanoseconds reaches.
	s.device("alice", "phone")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"n1"}`), 202, nil)
	for query, n := range map[string]int{"since=0001-02-03T00:00:00Z&until=9999-12-31T23:59:59Z": 1, "until=0001-02-03T00:00:00Z": 0, "since=9999-12-31T23:59:59Z": 0} {
		var page wire.NotificationList
		s.want(s.do("GET", "/v1/notifications?"+query, ""), 200, &page)
		if len(page.Notifications) != n {
			t.Errorf("%s: %d notifications, want %d", query, len(page.Notifications), n)
		}
	}
	if events, _ := s.stream("?since=0001-02-03T00:00:00Z&until=" + wire.FormatTime(time.Now())).untilEnd(); len(events) > 2 {
		t.Errorf("%v", events)
	}
}

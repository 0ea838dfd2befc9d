package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestEventsResume: readers that are cut off again and again miss no event and get none
// twice, while notifications flow.
func TestEventsResume(t *testing.T) {
	const readers, notifications = 20, 600
	s := serve(t)
	s.device("alice", "phone")
	s.device("bob", "watch")
	accounts := []string{"alice", "bob"}
	var reading, ready sync.WaitGroup
	got := make([][]string, readers)
	for i := range readers {
		reading.Add(1)
		ready.Add(1)
		go func() {
			defer reading.Done()
			query := []string{"", "?account=alice"}[i%2]
			want := notifications * 2 // accepted and waiting
			if query != "" {
				want /= 2
			}
			id, cuts := "", 0
			for len(got[i]) < want {
				id = s.readSome(query, id, want-len(got[i]), &got[i], sync.OnceFunc(func() {
					if cuts == 0 {
						ready.Done()
					}
				}))
				cuts++
			}
			if cuts < 3 {
				t.Errorf("reader %d was cut off %d times only", i, cuts)
			}
		}()
	}
	ready.Wait()
	for i := range notifications {
		s.want(s.do("POST", "/v1/notifications", fmt.Sprintf(`{"account":%q,"title":"x","id":"n%04d"}`, accounts[i%2], i)), 202, nil)
	}
	reading.Wait()
	for i, events := range got {
		seen := map[string]bool{}
		for _, e := range events {
			if seen[e] {
				t.Errorf("reader %d got %s twice", i, e)
			}
			seen[e] = true
		}
		for n := range notifications {
			for _, e := range []string{"accepted", "waiting"} {
				if k := fmt.Sprintf("n%04d %s", n, e); (i%2 == 0 || n%2 == 0) && !seen[k] {
					t.Errorf("reader %d missed %s", i, k)
				}
			}
		}
	}
	// An ID of another kind, or of another server.
	for _, id := range []string{"7", "x", "AQAAAAAA"} {
		s.wantProblem(s.do("GET", "/v1/events", "", "Last-Event-ID", id), 422, "header.Last-Event-ID: must be the id of an event of this server; leave it out to begin with the next event")
	}
}

// readSome reads a random number of events, at most, and returns the id of the last.
func (s *service) readSome(query, id string, most int, into *[]string, connected func()) string {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+"/v1/events"+query, nil)
	if err != nil {
		s.Error(err)
		return id
	}
	if id != "" {
		r.Header.Set("Last-Event-ID", id)
	}
	resp, err := s.server.Client().Do(r)
	if err != nil {
		s.Error(err)
		return id
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		s.Error(resp.Status)
		return id
	}
	lines := bufio.NewScanner(resp.Body)
	left := min(most, 1+rand.IntN(max(150, most/3)))
	next := ""
	for left > 0 && lines.Scan() {
		line := lines.Text()
		if line == ": connected" {
			connected()
		}
		if text, ok := strings.CutPrefix(line, "id: "); ok {
			next = text
		}
		if text, ok := strings.CutPrefix(line, "data: "); ok {
			var e wire.StreamEvent
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				s.Error(err)
			}
			*into = append(*into, e.ID+" "+e.Event)
			id = next
			left--
		}
	}
	return id
}

// TestEventsOfTheHistory: the events between two connections are there, whichever
// process wrote them.
func TestEventsOfTheHistory(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	e := s.stream("")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"n1"}`), 202, nil)
	text := e.next()
	id := strings.TrimPrefix(strings.Split(text, "\n")[0], "id: ")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"n2"}`), 202, nil)
	s.want(s.do("DELETE", "/v1/notifications/n1", ""), 204, nil)
	var got []string
	for len(got) < 4 {
		id = s.readSome("", id, 4-len(got), &got, func() {})
	}
	if want := "[n1 waiting n2 accepted n2 waiting n1 cancelled]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestEventsOfALongHistory: more than one read of the store brings, none lost or twice.
func TestEventsOfALongHistory(t *testing.T) {
	s := serve(t, func(_ *api.Options, rules *delivery.Options) { rules.MaxOutstanding = 10_000 })
	s.device("alice", "phone")
	e := s.stream("")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"first"}`), 202, nil)
	id := strings.TrimPrefix(strings.Split(e.next(), "\n")[0], "id: ")
	const more = 4000
	var accepted sync.WaitGroup
	for range more {
		accepted.Add(1)
		s.core.AcceptAsync(delivery.Request{Account: "alice", Title: "x"}, func(_ delivery.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			accepted.Done()
		})
	}
	accepted.Wait()
	seen := map[string]bool{}
	for len(seen) < 1+2*more {
		var got []string
		if id = s.readSome("", id, 1+2*more-len(seen), &got, func() {}); len(got) == 0 {
			t.Fatal("the stream ended without an event")
		}
		for _, x := range got {
			if seen[x] {
				t.Fatalf("%s came twice", x)
			}
			seen[x] = true
		}
	}
}

// TestCloseEndsTheTail: when Close has returned, nothing reads the store any more.
func TestCloseEndsTheTail(t *testing.T) {
	s := serve(t)
	e := s.stream("")
	for !s.api.TailRuns() {
		runtime.Gosched()
	}
	s.api.Close()
	if s.api.TailRuns() {
		t.Error("the tail runs after Close")
	}
	if got := e.next(); got != "" {
		t.Errorf("the stream goes on: %q", got)
	}
	s.api.Close()
}

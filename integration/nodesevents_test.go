package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// told is the events of each notification that a reader has got.
type told struct {
	mu   sync.Mutex
	of   map[string][]string
	last map[string]bool // events by their public IDs
}

func (o *told) add(t *testing.T, id string, e wire.StreamEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last[id] {
		t.Errorf("event %s came twice: %+v", id, e)
	}
	o.last[id] = true
	o.of[e.ID] = append(o.of[e.ID], e.Event)
}

func (o *told) is(id string, want []string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Equal(o.of[id], want)
}

func (o *told) text(id string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprint(o.of[id])
}

// follow reads GET /v1/events until ctx ends, now at one server and now at another, and
// goes on with Last-Event-ID. ready is called once it reads.
func (o *told) follow(ctx context.Context, t *testing.T, ready func(), servers ...string) {
	for id, i := "", 0; ctx.Err() == nil; i++ {
		ctx, cut := context.WithCancel(ctx)
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, servers[i%len(servers)]+"/v1/events", nil)
		if err != nil {
			t.Error(err)
			cut()
			return
		}
		if id != "" {
			r.Header.Set("Last-Event-ID", id)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil { // killed
			cut()
			continue
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("events after %q: %s", id, resp.Status)
		}
		next := ""
		in := bufio.NewScanner(resp.Body)
		for left := 1 + rand.IntN(30); left > 0 && in.Scan(); {
			if in.Text() == ": connected" && ready != nil {
				ready()
				ready = nil
			}
			if text, ok := strings.CutPrefix(in.Text(), "id: "); ok {
				next = text
			}
			var e wire.StreamEvent
			if data, ok := strings.CutPrefix(in.Text(), "data: "); ok && json.Unmarshal([]byte(data), &e) == nil {
				id = next
				left--
				o.add(t, id, e)
			}
		}
		cut()
		_ = resp.Body.Close()
	}
}

// TestEventsOfTwoNodes: readers at either node, over HTTP and MQTT, are told everything
// of both, once and in order, also while one is killed.
func TestEventsOfTwoNodes(t *testing.T) {
	t.Parallel()
	_, onPostgres := database(t)
	a, b := twoNodes(t, onPostgres)
	const accounts = 12 // some of them are each node's
	for i := range accounts {
		b.register(fmt.Sprint("account", i), fmt.Sprint("phone", i), "")
	}
	ctx, quit := context.WithCancel(context.Background())
	var reading, ready sync.WaitGroup
	defer reading.Wait()
	defer quit()
	readers := []*told{}
	for i := range 6 {
		o := &told{of: map[string][]string{}, last: map[string]bool{}}
		readers = append(readers, o)
		ready.Add(1)
		reading.Go(func() { o.follow(ctx, t, ready.Done, []string{a.http, b.http}[i%2], b.http) })
	}
	service, err := rawmqtt.Dial(b.mqtt, 5)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	if _, err := service.Connect(rawmqtt.Connect{ID: "service", Username: "service", Keepalive: 60}); err != nil {
		t.Fatal(err)
	}
	if codes, err := service.Subscribe(1, 1, "heartline/accounts/+/events"); err != nil || codes[0] != 1 {
		t.Fatal(codes, err)
	}
	overMQTT := &told{of: map[string][]string{}, last: map[string]bool{}}
	readers = append(readers, overMQTT)
	reading.Go(func() {
		for ctx.Err() == nil {
			pk, err := service.Read(time.Second)
			var e wire.StreamEvent
			if err != nil || pk.FixedHeader.Type != packets.Publish || json.Unmarshal(pk.Payload, &e) != nil {
				continue
			}
			at := slices.IndexFunc(pk.Properties.User, func(p packets.UserProperty) bool { return p.Key == "heartline-event" })
			if at < 0 {
				t.Errorf("no heartline-event in %+v", pk)
				continue
			}
			overMQTT.add(t, pk.Properties.User[at].Val, e)
			_ = service.Puback(pk.PacketID)
		}
	})
	ready.Wait()

	var ids []string
	post := func(s *server, round int) {
		for i := range accounts {
			id := fmt.Sprintf("round%d-%d", round, i)
			ids = append(ids, id)
			body := fmt.Sprintf(`{"id":%q,"account":"account%d","title":"t"}`, id, i)
			await(t, "the acceptance of "+id, func() bool {
				status, _, err := call(s.http, http.MethodPost, "/v1/notifications", body)
				return err == nil && (status == http.StatusAccepted || status == http.StatusOK)
			})
		}
	}
	for round := range 6 {
		post([]*server{a, b}[round%2], round)
	}
	a.kill()
	for round := 6; round < 9; round++ {
		post(b, round)
	}
	for _, id := range ids[:len(ids)/2] { // by the next owner
		if status, body := b.call(http.MethodDelete, "/v1/notifications/"+id, ""); status != http.StatusNoContent {
			t.Fatalf("cancel %s: %d %s", id, status, body)
		}
	}
	for _, id := range ids {
		want := kinds(b.notification(id))
		for i, o := range readers {
			await(t, fmt.Sprintf("reader %d to be told of %s", i, id), func() bool { return o.is(id, want) || t.Failed() })
			if !o.is(id, want) {
				t.Errorf("reader %d: of %s it was told %s, want %v", i, id, o.text(id), want)
			}
		}
	}
}

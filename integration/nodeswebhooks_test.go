package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestWebhookCallsAtAnyNode: a webhook is tested and retried at whichever node one asks.
func TestWebhookCallsAtAnyNode(t *testing.T) {
	_, onPostgres := database(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(credentials.NewWebhookSecret()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var configured []map[string]string
	for i := range 6 {
		configured = append(configured, map[string]string{"name": fmt.Sprint("hook", i), "url": newReceiver(t).server.URL, "secret_file": secret})
	}
	config, err := json.Marshal(configured)
	if err != nil {
		t.Fatal(err)
	}
	a, b := twoNodes(t, append(onPostgres, "HEARTLINE_RECEIPTS_WEBHOOKS="+string(config)))
	await(t, "each webhook to be sent by one node", func() bool {
		sent := map[string]int{}
		for _, s := range []*server{a, b} {
			var list wire.WebhookList
			s.must(http.MethodGet, "/v1/webhooks", "", &list)
			for _, w := range list.Webhooks {
				if w.State == "ok" {
					sent[w.Name]++
				}
			}
		}
		return len(sent) == 6
	})
	for _, s := range []*server{a, b} {
		for i := range 6 {
			name := fmt.Sprint("hook", i)
			var tested wire.WebhookTest
			s.must(http.MethodPost, "/v1/webhooks/test?name="+name, "", &tested)
			if tested.Error != "" || tested.Status/100 != 2 {
				t.Errorf("test of %s: %+v", name, tested)
			}
			s.must(http.MethodPost, "/v1/webhooks/retry?name="+name, "", &wire.WebhookRetry{})
		}
		if status, body := s.call(http.MethodPost, "/v1/webhooks/test?name=none", ""); status != http.StatusNotFound {
			t.Errorf("test of no webhook: %d %s", status, body)
		}
	}
}

// TestWebhooksOfTwoNodes: each webhook is sent by one of the nodes, with the events of all
// accounts. Where a node is killed, paused or stopped, or gets some back, the other goes on in
// the middle: nothing is lost, the events of each notification come in their order, and a repeated one has its webhook-id.
func TestWebhooksOfTwoNodes(t *testing.T) {
	t.Parallel()
	_, onPostgres := database(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(credentials.NewWebhookSecret()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const hooks = 8 // each is either node's: which partitions move to which node is chance
	var receivers []*receiver
	var configured []map[string]string
	for i := range hooks {
		v := newReceiver(t)
		v.answers(func(http.ResponseWriter, *http.Request) bool {
			time.Sleep(rand.N(20 * time.Millisecond)) // some are always under way
			return true
		})
		receivers = append(receivers, v)
		configured = append(configured, map[string]string{"name": fmt.Sprint("hook", i), "url": v.server.URL, "secret_file": secret})
	}
	config, err := json.Marshal(configured)
	if err != nil {
		t.Fatal(err)
	}
	a, b := twoNodes(t, append(onPostgres, "HEARTLINE_RECEIPTS_WEBHOOKS="+string(config)))
	states := func(s *server) map[string]int {
		var list wire.WebhookList
		s.must(http.MethodGet, "/v1/webhooks", "", &list)
		count := map[string]int{}
		for _, w := range list.Webhooks {
			count[w.State]++
		}
		return count
	}
	await(t, "each webhook to be sent by one node", func() bool {
		x, y := states(a), states(b)
		return x["ok"]+y["ok"] == hooks && x["elsewhere"] == y["ok"] && y["elsewhere"] == x["ok"]
	})

	const accounts = 12
	for i := range accounts {
		b.register(fmt.Sprint("account", i), fmt.Sprint("phone", i), "")
	}
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
	everywhere := func() bool {
		return bothOwn(t, onPostgres) && states(a)["ok"]+states(b)["ok"] == hooks
	}
	last := func() bool { return states(b)["ok"] == hooks }
	round := 0
	posts := func(n int, servers ...*server) {
		for range n {
			post(servers[round%len(servers)], round)
			round++
		}
	}
	posts(4, a, b)
	a.kill()
	posts(2, b)
	await(t, "the other node to send all webhooks", last)
	a.start()
	posts(2, b) // while partitions are handed over
	await(t, "all webhooks to be sent with both nodes", everywhere)
	posts(2, a, b)
	a.signal(t, syscall.SIGSTOP)
	posts(2, b)
	await(t, "the other node to send all webhooks", last)
	posts(1, b)
	a.signal(t, syscall.SIGCONT) // it believes that it is the owner
	posts(2, b)
	await(t, "all webhooks to be sent with both nodes again", everywhere)
	posts(2, a, b)
	a.stop()
	posts(1, b)
	for _, id := range ids[:len(ids)/2] { // by the next owner
		if status, body := b.call(http.MethodDelete, "/v1/notifications/"+id, ""); status != http.StatusNoContent {
			t.Fatalf("cancel %s: %d %s", id, status, body)
		}
	}
	await(t, "the other node to send all webhooks", last)
	for _, id := range ids {
		want := kinds(b.notification(id))
		for i, v := range receivers {
			v.await(id, want)
			v.mu.Lock()
			if got := v.events[id]; len(got) != len(want) {
				t.Errorf("webhook %d: of %s came %v, want %v", i, id, got, want)
			}
			v.mu.Unlock()
		}
	}
	repeats := 0
	for _, v := range receivers {
		v.mu.Lock()
		repeats += v.repeats
		v.mu.Unlock()
	}
	t.Logf("%d of some %d events came again", repeats, hooks*2*len(ids))
	b.stop()
}

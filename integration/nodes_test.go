package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// twoNodes starts nodes a and b, and waits until both own partitions.
func twoNodes(t *testing.T, env []string) (a, b *server) {
	t.Helper()
	node := func(name string) *server {
		s := serve(t, append(slices.Clone(env), "HEARTLINE_CLUSTER_ADDRESS=127.0.0.1:0", "HEARTLINE_CLUSTER_NAME="+name)...)
		s.several = true
		return s
	}
	a, b = node("a"), node("b")
	await(t, "both nodes to own partitions", func() bool { return bothOwn(t, env) })
	return a, b
}

// bothOwn reports whether nodes a and b serve partitions.
func bothOwn(t *testing.T, env []string) bool {
	t.Helper()
	owns := map[string]bool{}
	r := heartline(t, env, "nodes")
	for line := range strings.Lines(r.out) {
		if f := strings.Fields(line); len(f) == 7 && f[5] != "0" && f[6] == "serving" {
			owns[f[0]] = true
		}
	}
	return owns["a"] && owns["b"]
}

// TestTwoNodes: two processes on one database are one Heartline. Devices are connected to
// one, backends post to the other; after kill -9 of either the other has everything.
func TestTwoNodes(t *testing.T) {
	_, onPostgres := database(t)
	a, b := twoNodes(t, onPostgres)

	const accounts = 16 // some of them are each node's
	var ids []string
	for i := range accounts {
		a.register(fmt.Sprint("account", i), fmt.Sprint("phone", i), "")
		ids = append(ids, fmt.Sprint("first", i))
	}
	c := collect(ids)
	for i := range accounts {
		device(b, fmt.Sprint("account", i), fmt.Sprint("phone", i), c.add)
	}
	for i, id := range ids {
		a.notify(fmt.Sprintf(`{"id":%q,"account":"account%d","title":"t"}`, id, i))
	}
	c.wait(t)
	for _, id := range ids { // each node answers for all
		await(t, "the ack of "+id, func() bool { return a.notification(id).State == "acked" && b.notification(id).State == "acked" })
	}

	ready := func(s *server, want ...string) bool {
		_, body, err := call(s.http, http.MethodGet, "/readyz", "")
		if err != nil {
			t.Fatal(err)
		}
		_, figures := s.call(http.MethodGet, "/metrics", "")
		return !slices.ContainsFunc(want, func(w string) bool {
			return !strings.Contains(string(body), w) && !strings.Contains("\n"+string(figures), "\n"+w+"\n")
		})
	}
	await(t, "each node to tell of its part and of the other", func() bool {
		return ready(a, `"lease":"renewed"`, ` of 1024 are this node's`, `"relay b":"up"`, `heartline_cluster_relay_up{node="b"} 1`) &&
			ready(b, `"relay a":"up"`, "heartline_cluster_takeovers_total 0")
	})
	if _, figures := b.call(http.MethodGet, "/metrics", ""); strings.Contains(string(figures), `heartline_cluster_relay_calls_total{node="a"} 0`) {
		t.Error("node b, which answers for accounts of both, has asked node a for nothing")
	}

	began := time.Now()
	a.kill()
	await(t, "the relay to be told as down", func() bool { return ready(b, `"relay a":"down: `, `heartline_cluster_relay_up{node="a"} 0`) })
	var second []string
	for i := range accounts {
		second = append(second, fmt.Sprint("second", i))
	}
	c2 := collect(second)
	for i := range accounts {
		device(b, fmt.Sprint("account", i), fmt.Sprint("phone", i), c2.add)
	}
	for i, id := range second {
		body := fmt.Sprintf(`{"id":%q,"account":"account%d","title":"t"}`, id, i)
		await(t, "the acceptance of "+id, func() bool {
			status, _ := b.call(http.MethodPost, "/v1/notifications", body)
			return status == http.StatusAccepted || status == http.StatusOK
		})
	}
	c2.wait(t)
	await(t, "the take-over to be told", func() bool {
		return ready(b, "heartline_cluster_takeovers_total 1", "heartline_cluster_partitions 1024", `"partitions":"1024 of 1024 are this node's"`)
	})
	t.Logf("all accounts served %v after kill -9 of a node, with a lease of 2s", time.Since(began).Round(time.Millisecond))
	b.stop()
}

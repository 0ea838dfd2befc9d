package integration

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/wire"
)

// TestEventsOverMQTT: a service reads the timelines of all accounts with Mosquitto's
// client, at QoS 1 and 0.
func TestEventsOverMQTT(t *testing.T) { //nolint:tparallel // each case registers the same device
	t.Parallel()
	s := serve(t)
	for _, c := range []struct{ version, filter, qos string }{
		{"mqttv311", "heartline/accounts/+/events", "1"}, {"mqttv5", "heartline/accounts/al%2Fice/events", "1"}, {"mqttv5", "#", "0"},
	} {
		t.Run(c.version+" "+c.filter, func(t *testing.T) { //nolint:paralleltest // all read the same two events
			args := s.mosquittoArgs(c.version, "backend", "backend-"+c.qos+c.version, "-t", c.filter, "-q", c.qos, "-v", "-d")
			cmd := exec.Command(tool(t, "stdbuf", "coreutils"), append([]string{"-oL", tool(t, "mosquitto_sub", "mosquitto-clients")}, args...)...)
			cmd.Env = environ(t)
			sub := &mosquitto{process: launch(t, cmd), t: t}
			sub.stdout.until(t, "Subscribed (")
			s.register("al%2Fice", "phone", "")
			id := s.notify(`{"account":"al/ice","title":"t"}`)
			for _, want := range []string{"accepted", "waiting"} {
				line, i, err := sub.stdout.find(sub.next, func(s string) bool { return strings.HasPrefix(s, "heartline/accounts/") })
				if err != nil {
					t.Fatalf("%v; mosquitto_sub said:\n%s%s", err, sub.stdout, sub.stderr)
				}
				sub.next = i + 1
				topicName, payload, _ := strings.Cut(line, " ")
				var e wire.StreamEvent
				if err := json.Unmarshal([]byte(payload), &e); err != nil {
					t.Fatal(err)
				}
				if topicName != "heartline/accounts/al%2Fice/events" || e.Event != want || e.ID != id || e.Account != "al/ice" {
					t.Errorf("got %s, want %s of %s", line, want, id)
				}
			}
			sub.leave()
		})
	}
}

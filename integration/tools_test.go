package integration

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/wire"
)

// tool returns the path of a program that nobody here wrote, or leaves the test out.
func tool(t testing.TB, name, debianPackage string) string {
	t.Helper()
	return testtool.Path(t, name, debianPackage)
}

// toEnd runs a tool to its end.
func toEnd(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, environ(t)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// curl calls the API with curl and fails at any answer that is an error.
func (s *server) curl(args ...string) string {
	s.t.Helper()
	cmd := exec.Command(tool(s.t, "curl", "curl"), append([]string{"--silent", "--show-error", "--fail-with-body", "--header", "Content-Type: application/json"}, args...)...)
	r := toEnd(s.t, cmd)
	if r.code != 0 {
		s.t.Fatalf("curl %s: exit code %d: %s%s", strings.Join(args, " "), r.code, r.out, r.errors)
	}
	return r.out
}

// mosquitto is mosquitto_sub as a device.
type mosquitto struct {
	*process
	t    *testing.T
	next int // line to look at
}

// subscribe runs mosquitto_sub and returns when its subscription stands.
func (s *server) subscribe(version, account, device string) *mosquitto {
	s.t.Helper()
	args := s.mosquittoArgs(version, account, device, "-t", "heartline/devices/"+device+"/notifications")
	args = append([]string{"-oL", tool(s.t, "mosquitto_sub", "mosquitto-clients")}, args...) // into a pipe it would keep its lines back
	args = append(args, "-c", "-k", "5", "-d")                                               // -d: it says when it has subscribed
	if version == "mqttv5" {
		args = append(args, "-x", "3600")
	}
	cmd := exec.Command(tool(s.t, "stdbuf", "coreutils"), args...)
	cmd.Env = environ(s.t)
	m := &mosquitto{process: launch(s.t, cmd), t: s.t}
	m.stdout.until(s.t, "Subscribed (")
	return m
}

func (s *server) mosquittoArgs(version, username, id string, more ...string) []string {
	s.t.Helper()
	host, port, err := net.SplitHostPort(s.mqtt)
	if err != nil {
		s.t.Fatal(err)
	}
	return append([]string{"-h", host, "-p", port, "-V", version, "-q", "1", "-u", username, "-i", id}, more...)
}

// receive waits for the next notification that mosquitto_sub prints.
func (m *mosquitto) receive() wire.Pseudo {
	m.t.Helper()
	line, i, err := m.stdout.find(m.next, func(s string) bool { return strings.HasPrefix(s, "{") })
	if err != nil {
		m.t.Fatalf("waiting for a notification: %v; mosquitto_sub said:\n%s%s", err, m.stdout, m.stderr)
	}
	m.next = i + 1
	var n wire.Pseudo
	if err := json.Unmarshal([]byte(line), &n); err != nil {
		m.t.Fatal(err)
	}
	return n
}

// leave ends mosquitto_sub as Ctrl-C does.
func (m *mosquitto) leave() {
	m.t.Helper()
	m.signal(m.t, syscall.SIGINT)
	m.wait(m.t)
}

// publish runs mosquitto_pub, which ends when its publish is acknowledged.
func (s *server) publish(version, username, id, topicName, payload string) result {
	s.t.Helper()
	cmd := exec.Command(tool(s.t, "mosquitto_pub", "mosquitto-clients"), s.mosquittoArgs(version, username, id, "-t", topicName, "-m", payload)...)
	return toEnd(s.t, cmd)
}

// TestClientsOfOthers plays the loop with programs that nobody here wrote: a device
// that is online, goes, is pushed to and comes back; backends over both ways in.
func TestClientsOfOthers(t *testing.T) {
	sim, env := apple(t)
	for i, version := range []string{"mqttv311", "mqttv5"} {
		t.Run(version, func(t *testing.T) {
			s := serve(t, append(env, "HEARTLINE_DELIVERY_ACK_WINDOW=1m", "HEARTLINE_DELIVERY_FALLBACK_WINDOW=1m")...)
			token := deviceToken(i + 1)
			phone := s.subscribe(version, "alice", "phone")

			t.Log("online")
			events := s.events("?account=alice")
			s.curl(s.http+"/v1/notifications", "--data", `{"id":"one","account":"alice","title":"One","body":"by curl"}`)
			if n := phone.receive(); n.ID != "one" || n.Title != "One" || n.Account != "alice" || n.Pushed || n.Redelivery {
				t.Errorf("got %+v", n)
			}
			events.until("received", "one")
			s.wantTimeline("one", "accepted", "published", "received")

			t.Log("offline")
			phone.leave()
			s.awaitDown("alice", "phone")
			// A device may say what its push token is in passing.
			if r := s.publish(version, "alice", "phone", "heartline/devices/phone/push-token", `{"apns":{"token":"`+token+`"}}`); r.code != 0 {
				t.Fatalf("push token: %+v", r)
			}
			s.awaitDown("alice", "phone")
			if r := s.publish(version, "shop", "shop-backend", "heartline/accounts/alice/notifications", `{"id":"two","title":"Two","body":"by mosquitto_pub"}`); r.code != 0 {
				t.Fatalf("notification: %+v", r)
			}
			events.until("pushed", "two")
			s.wantTimeline("two", "accepted", "push_requested", "pushed")
			pushes := sim.ReceivedFor(token)
			if len(pushes) != 1 || pushes[0].Status != http.StatusOK || !strings.Contains(string(pushes[0].Payload), `"Two"`) {
				t.Errorf("Apple's server has seen %+v", pushes)
			}

			t.Log("back")
			phone = s.subscribe(version, "alice", "phone")
			if n := phone.receive(); n.ID != "two" || !n.Pushed {
				t.Errorf("got %+v", n)
			}
			events.until("received", "two")
			s.wantTimeline("two", "accepted", "push_requested", "pushed", "published", "received")
			if n := len(sim.ReceivedFor(token)); n != 1 {
				t.Errorf("%d pushes, want 1", n)
			}
			if out := s.curl(s.http + "/v1/notifications/two"); !strings.Contains(out, `"state":"acked"`) {
				t.Errorf("curl shows %s", out)
			}
			phone.leave()
			s.stop()
		})
	}
}

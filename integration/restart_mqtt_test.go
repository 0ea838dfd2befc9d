package integration

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// ordinary runs mosquitto_pub or mosquitto_sub on topics that are not Heartline's.
func (s *server) ordinary(name string, args ...string) []string {
	s.t.Helper()
	host, port, err := net.SplitHostPort(s.mqtt)
	if err != nil {
		s.t.Fatal(err)
	}
	r := toEnd(s.t, exec.Command(tool(s.t, name, "mosquitto-clients"), append([]string{"-h", host, "-p", port}, args...)...))
	if r.code != 0 {
		s.t.Fatalf("%s %s: exit code %d: %s%s", name, strings.Join(args, " "), r.code, r.out, r.errors)
	}
	return strings.Fields(r.out)
}

// stateWritten waits until ordinary MQTT's state is on the disk: it is written
// some milliseconds after the answer to a packet.
func (s *server) stateWritten() {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		_, metrics := s.call("GET", "/metrics", "")
		if strings.Contains(string(metrics), "\nheartline_mqtt_state_waiting 0\n") {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the state of ordinary MQTT is not written:\n%s", metrics)
		}
	}
}

// TestOrdinaryMQTTSurvives: retained messages, sessions and the messages queued for them
// are there after SIGTERM and after kill -9, in their order, and the identifiers of
// old and new packets do not collide.
func TestOrdinaryMQTTSurvives(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"stop", "kill"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			again := func() {
				s.stateWritten()
				if end == "stop" {
					s.stop()
				} else {
					s.kill()
				}
				s.start()
			}
			sessions := map[string][]string{
				"old": {"-V", "mqttv311", "-c"},
				"new": {"-V", "mqttv5", "-c", "-x", "3600"},
			}
			sub := func(id string, more ...string) []string {
				return s.ordinary("mosquitto_sub", append(append(slices.Clone(sessions[id]), "-i", id, "-q", "2", "-t", "q/#"), more...)...)
			}
			s.ordinary("mosquitto_pub", "-r", "-q", "1", "-t", "r/kept", "-m", "kept")
			s.ordinary("mosquitto_pub", "-r", "-q", "0", "-t", "r/gone", "-m", "gone")
			s.ordinary("mosquitto_pub", "-V", "mqttv5", "-r", "-q", "1", "-t", "r/short", "-m", "short", "-D", "publish", "message-expiry-interval", "1")
			for id := range sessions {
				sub(id, "-E")
			}
			var want1, want2 []string
			publish := func(from, to int) {
				for i := from; i < to; i++ {
					m := fmt.Sprint("m", i)
					if i%2 == 0 {
						want1 = append(want1, m)
					} else {
						want2 = append(want2, m)
					}
					s.ordinary("mosquitto_pub", "-q", fmt.Sprint(1+i%2), "-t", "q/a", "-m", m)
				}
			}
			publish(0, 12)
			s.ordinary("mosquitto_pub", "-r", "-n", "-q", "1", "-t", "r/gone")
			again()
			publish(12, 16)
			again()
			time.Sleep(time.Second) // the expiry of r/short is counted in seconds, by the wall clock

			if got := s.ordinary("mosquitto_sub", "-t", "r/#", "-t", "end", "-C", "1", "-W", "5"); !slices.Equal(got, []string{"kept"}) {
				t.Errorf("retained: %v", got)
			}
			// mosquitto_sub shows QoS 1 when it comes and QoS 2 when it is released:
			// the order holds within each.
			for id := range sessions {
				got := sub(id, "-C", "16", "-W", "10")
				var got1, got2 []string
				for _, m := range got {
					if slices.Contains(want1, m) {
						got1 = append(got1, m)
					} else {
						got2 = append(got2, m)
					}
				}
				if !slices.Equal(got1, want1) || !slices.Equal(got2, want2) {
					t.Errorf("session %s got %v and %v", id, got1, got2)
				}
			}
			again()
			// Nothing a second time, and the sessions' end is kept, too.
			s.ordinary("mosquitto_pub", "-q", "1", "-t", "q/a", "-m", "last")
			for id := range sessions {
				if got := sub(id, "-C", "1", "-W", "5"); !slices.Equal(got, []string{"last"}) {
					t.Errorf("session %s got %v again", id, got)
				}
			}
			s.ordinary("mosquitto_sub", "-i", "old", "-t", "x", "-E") // a clean start
			again()
			s.ordinary("mosquitto_pub", "-q", "1", "-t", "q/a", "-m", "later")
			s.ordinary("mosquitto_pub", "-r", "-q", "1", "-t", "x", "-m", "marker")
			if got := s.ordinary("mosquitto_sub", "-c", "-i", "old", "-q", "1", "-t", "x", "-C", "1", "-W", "5"); !slices.Equal(got, []string{"marker"}) {
				t.Errorf("after a clean start: %v", got)
			}
		})
	}
}

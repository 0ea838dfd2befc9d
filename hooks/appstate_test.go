package hooks_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestAppStateWithoutAChannel: a device that has said once that its app is in the background gets no
// message on the ack alone, also where it said so on a connection that never was its channel.
func TestAppStateWithoutAChannel(t *testing.T) {
	background := []byte(`{"app":"background"}`)
	for name, say := range map[string]func(s *site, c *rawmqtt.Client){
		"a known device": func(s *site, c *rawmqtt.Client) {
			must(s.T, s.core.Register("phone", "anna"))
			must(s.T, c.Publish(1, 1, topicOf("phone", "state"), background))
			next(s.T, c)
		},
		"known by its token after that": func(s *site, c *rawmqtt.Client) {
			must(s.T, c.Publish(1, 1, topicOf("phone", "state"), background))
			next(s.T, c)
			must(s.T, c.Publish(2, 1, topicOf("phone", "push-token"), []byte(`{"apns":{"token":"ab"}}`)))
			next(s.T, c)
		},
		"known by a subscription at QoS 0 after that": func(s *site, c *rawmqtt.Client) {
			must(s.T, c.Publish(1, 1, topicOf("phone", "state"), background))
			next(s.T, c)
			_, err := c.Subscribe(2, 0, topicOf("phone", "notifications"))
			must(s.T, err)
		},
		"at QoS 0": func(s *site, c *rawmqtt.Client) {
			must(s.T, s.core.Register("phone", "anna"))
			must(s.T, c.Publish(0, 0, topicOf("phone", "state"), background))
		},
		"in the foreground by then": func(s *site, c *rawmqtt.Client) {
			must(s.T, s.core.Register("phone", "anna"))
			must(s.T, c.Publish(1, 1, topicOf("phone", "state"), []byte(`{"app":"foreground"}`)))
			next(s.T, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			o := rawmqtt.Connect{ID: "phone", Username: "anna", Clean: true}
			c := s.connect(5, o)
			say(s, c)
			c.Close()
			for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
				if d, err := s.core.Device("anna", "phone"); err == nil && d.App == delivery.AppBackground {
					break
				}
				if time.Now().After(end) {
					t.Fatal("the registry does not say background")
				}
			}
			s.away("phone")

			c = s.connect(5, o)
			if _, err := c.Subscribe(1, 1, topicOf("phone", "notifications"), topicOf("phone", "messages")); err != nil {
				t.Fatal(err)
			}
			events := s.subscribe()
			s.notify(delivery.Request{Account: "anna", Data: json.RawMessage(`1`)})
			must(t, c.Puback(next(t, c).PacketID))
			s.until(events, delivery.EventReceived)
			must(t, c.Publish(3, 1, topicOf("phone", "state"), background)) // its PUBACK would come behind a message
			if pk := next(t, c); pk.TopicName != "" {
				t.Errorf("got %s, want the PUBACK", pk.TopicName)
			}
			must(t, c.Publish(4, 1, topicOf("phone", "state"), []byte(`{"app":"foreground"}`)))
			seen := ""
			for range 2 {
				seen += fmt.Sprint(next(t, c).TopicName)
			}
			if seen != topicOf("phone", "messages") {
				t.Errorf("in the foreground got %q, want the message", seen)
			}
		})
	}
}

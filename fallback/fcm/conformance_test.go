package fcm

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/fallbacktest"
)

func TestConformance(t *testing.T) {
	g := startGoogle(t)
	good := delivery.Registration{Server: delivery.ServerFCM, Kind: delivery.KindAlert, Token: deviceToken}
	bad := func(change func(*delivery.Registration)) delivery.Registration {
		r := good
		change(&r)
		return r
	}
	fallbacktest.Run(t, fallbacktest.Harness{
		New:   func(t *testing.T) fallback.Pusher { return g.pusher(t, nil, "") },
		Token: good,
		Bad: []delivery.Registration{
			bad(func(r *delivery.Registration) { r.Token = "" }),
			bad(func(r *delivery.Registration) { r.Token = "has space" }),
			bad(func(r *delivery.Registration) { r.Token = "a/../b" }),
			bad(func(r *delivery.Registration) { r.Token = strings.Repeat("a", 2000) }),
			bad(func(r *delivery.Registration) { r.App = "another-project" }),
			bad(func(r *delivery.Registration) { r.Environment = "production" }),
		},
		Hang: func() {
			var fn http.HandlerFunc = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
			g.send.Store(&fn)
		},
		Sent: func() []string {
			g.mu.Lock()
			defer g.mu.Unlock()
			var out []string
			for _, body := range g.messages {
				var m struct {
					Message struct {
						Android struct {
							Notification struct {
								Tag string `json:"tag"`
							} `json:"notification"`
						} `json:"android"`
					} `json:"message"`
				}
				if err := json.Unmarshal([]byte(body), &m); err != nil {
					t.Error(err)
				}
				out = append(out, m.Message.Android.Notification.Tag)
			}
			return out
		},
	})
}

package xmpp_test

import (
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/xmpp"
)

// TestCheckHosts: a domain in hosts that the server does not have is named; those that it has are
// not.
func TestCheckHosts(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		w.stop() // Prosody takes one link only
		o := xmpp.Options{Domain: w.server.Component, Address: w.server.ComponentAddress, Secret: []byte(w.server.Secret), Hosts: []string{w.server.Host, "exmaple.test"}}
		_, err := xmpp.Check(w.t.Context(), o)
		w.t.Log(err)
		if err == nil || !strings.Contains(err.Error(), "exmaple.test") || strings.Contains(err.Error(), ": "+w.server.Host) {
			w.t.Errorf("a host that the server does not have: %v", err)
		}
		o.Hosts = o.Hosts[:1]
		if _, err := xmpp.Check(w.t.Context(), o); err != nil {
			w.t.Errorf("the server's own host: %v", err)
		}
	})
}

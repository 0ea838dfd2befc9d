package broker

import (
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestFormsNeedNoServer: the form of a registration is checked also while its server is
// off, and a refusal does not repeat the token.
func TestFormsNeedNoServer(t *testing.T) {
	good := strings.Repeat("ab", 32)
	for _, c := range []struct {
		name string
		r    delivery.Registration
		ok   bool
	}{
		{"a token", delivery.Registration{Server: delivery.ServerAPNs, Token: good}, true},
		{"800,000 digits", delivery.Registration{Server: delivery.ServerAPNs, Token: strings.Repeat("ab", 400_000)}, false},
		{"CR LF in the token", delivery.Registration{Server: delivery.ServerAPNs, Token: good[:60] + "\r\nab"}, false},
		{"CR LF in the topic", delivery.Registration{Server: delivery.ServerAPNs, Token: good, App: "com.example\r\napp"}, false},
		{"CR LF in an FCM token", delivery.Registration{Server: delivery.ServerFCM, Form: delivery.FormToken, Token: "secret\r\ntoken"}, false},
		{"800,000 characters for FCM", delivery.Registration{Server: delivery.ServerFCM, Form: delivery.FormToken, Token: strings.Repeat("x", 800_000)}, false},
		{"an endpoint with CR LF", delivery.Registration{Server: delivery.ServerWebPush, Token: "https://push.example/secret\r\nx", P256dh: make([]byte, 65), Auth: make([]byte, 16)}, false},
		{"another server", delivery.Registration{Server: "pigeon", Token: good}, false},
	} {
		err := checkRegistration(c.r)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), good[:8]) || strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 500) {
			t.Errorf("%s: the error repeats the token: %.200s", c.name, err)
		}
	}
}

// TestKinds: a registration is of a kind that its server has.
func TestKinds(t *testing.T) {
	apple := delivery.Registration{Server: delivery.ServerAPNs, Token: strings.Repeat("ab", 32)}
	google := delivery.Registration{Server: delivery.ServerFCM, Form: delivery.FormToken, Token: "token"}
	for _, c := range []struct {
		of   delivery.Registration
		kind string
		ok   bool
	}{
		{apple, "alert", true},
		{apple, "voip", true},
		{apple, "liveactivity:order-7", true},
		{apple, "liveactivity:", false},
		{apple, "liveactivity", false},
		{apple, "Voip", false},
		{google, "alert", true},
		{google, "voip", false},
	} {
		c.of.Kind = c.kind
		if err := checkRegistration(c.of); (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "must be alert") {
			t.Errorf("%s %s: %v", c.of.Server, c.kind, err)
		}
	}
}

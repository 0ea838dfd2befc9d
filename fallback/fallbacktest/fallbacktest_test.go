package fallbacktest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestLeaks: the check finds every part of a registration that is a secret, also where
// the token is a URL or a text of several parts.
func TestLeaks(t *testing.T) {
	auth := bytes.Repeat([]byte{0xfb}, 16)
	subscription := delivery.Registration{Token: "https://push.example/wpush/v2/gAAAAABcapability", P256dh: bytes.Repeat([]byte{4}, 65), Auth: auth}
	for _, row := range []struct {
		text string
		r    delivery.Registration
		want bool
	}{
		{"the push token is not hex", delivery.Registration{Token: "00ffaa11"}, false},
		{"bad token 00ffaa11", delivery.Registration{Token: "00ffaa11"}, true},
		{"fcm: no such token: abcdefgh:APA91bSECRET", delivery.Registration{Token: "abcdefgh:APA91bSECRET"}, true},
		{"fcm: no such token: APA91bSECRET", delivery.Registration{Token: "abcdefgh:APA91bSECRET"}, true},
		{"push.example: connection refused", subscription, false},
		{`Post "https://push.example/wpush/v2/gAAAAABcapability": EOF`, subscription, true},
		{"no subscription gAAAAABcapability", subscription, true},
		{"auth " + base64.StdEncoding.EncodeToString(auth), subscription, true},
		{fmt.Sprintf("auth %x", auth), subscription, true},
	} {
		if got := leaks(row.text, row.r); (got != "") != row.want {
			t.Errorf("%s: found %q", row.text, got)
		}
	}
}

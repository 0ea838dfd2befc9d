package wire_test

import (
	"encoding/json"
	"testing"

	"github.com/heartline-mqtt/heartline/wire"
)

// Devices and backends may publish any bytes: a payload can at worst be refused, and
// every payload that is taken is valid.
func FuzzPayloads(f *testing.F) {
	for _, s := range []string{
		`{"id":"1","status":"displayed"}`, `{"app":"foreground"}`, `{"apns":{"token":"ab","topic":"t"}}`, `{"apns":null}`,
		`{"title":"t","data":{"x":[1]},"ttl":"1h","devices":["d"]}`, `[]`, `{}{}`, `{"badge":1e400}`, "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if id, kind, err := wire.ParseAck(payload); err == nil && (id == "" || kind == 0) {
			t.Errorf("an ack of %q, kind %d", id, kind)
		}
		if _, err := wire.ParseAppState(payload); err == nil && !json.Valid(payload) {
			t.Error("an app state that is no JSON")
		}
		if token, err := wire.ParsePushToken(payload); err == nil && token.Server == "" {
			t.Error("a token of no server")
		}
		if r, err := wire.ParseContent(payload, "a"); err == nil {
			if r.TTL != nil && *r.TTL < 0 || r.Account != "a" || r.Data != nil && !json.Valid(r.Data) {
				t.Errorf("took %+v", r)
			}
		}
	})
}

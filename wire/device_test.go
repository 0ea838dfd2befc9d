package wire_test

import (
	"encoding/json"
	"testing"

	"github.com/heartline-mqtt/heartline/wire"
)

// A full message of HTML keeps its size on the wire.
func TestMessageKeepsItsSize(t *testing.T) {
	m := wire.Message{ID: "n", Account: "a", Data: json.RawMessage("{ \"html\": \"<b>&</b>\" }"), AcceptedAt: "2026-01-01T00:00:00.000Z"}
	b, err := m.Append([]byte("x"))
	if want := `x{"id":"n","account":"a","data":{"html":"<b>&</b>"},"accepted_at":"2026-01-01T00:00:00.000Z"}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
	m.Data = json.RawMessage("{")
	if b, err := m.Append([]byte("x")); err == nil || string(b) != "x" {
		t.Errorf("%s, %v", b, err)
	}
}

package payload

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestNumbersKeepTheirDigits: a backend's ID may need 64 bits; a float64 has 53.
func TestNumbersKeepTheirDigits(t *testing.T) {
	base := Object{"a": Object{"kept": 1}}
	if err := Merge(base, json.RawMessage(`{"a":{"id":1234567890123456789,"list":[{"id":9007199254740993}],"price":1.10}}`), "apns.payload"); err != nil {
		t.Fatal(err)
	}
	got, err := Marshal(base)
	if want := `{"a":{"id":1234567890123456789,"kept":1,"list":[{"id":9007199254740993}],"price":1.10}}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

// TestHeaderNames: the names of header fields are one in any case, and none is given twice.
func TestHeaderNames(t *testing.T) {
	h, err := Headers(json.RawMessage(`{"APNS-Priority":"5"}`), "apns.headers", "apns-priority")
	if err != nil || len(h) != 1 || h["apns-priority"] != "5" {
		t.Errorf("got %v, %v", h, err)
	}
	_, err = Headers(json.RawMessage(`{"APNS-Priority":"5","apns-priority":"10"}`), "apns.headers", "apns-priority")
	if fe, ok := errors.AsType[*delivery.FieldError](err); !ok || fe.Field != "apns.headers.apns-priority" {
		t.Errorf("a field given twice: %v", err)
	}
}

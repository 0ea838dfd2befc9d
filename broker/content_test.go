package broker_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestContentNeedsNoServer: what a request says for one server alone is checked also where that server is
// off, and where the request forbids the push.
func TestContentNeedsNoServer(t *testing.T) {
	_, heartline := attached()
	if err := heartline.PutDevice(t.Context(), "alice", "phone", nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		apns, fcm, webpush, pushType string
		field                        string // "": accepted
	}{
		{fcm: `{"payload":{"token":"other"}}`, field: "fcm.payload.token"},
		{fcm: `{"payload":{"data":{"heartline":"x"}}}`, field: "fcm.payload.data.heartline"},
		{fcm: `{"payload":{"data":{"from":"x"}}}`, field: "fcm.payload.data.from"},
		{fcm: `{"payload":{"android":{"notification":{"color":"#ff6600"}}}}`},
		{webpush: `{"headers":{"Authorization":"x"}}`, field: "webpush.headers"},
		{webpush: `{"payload":{"heartline":{}}}`, field: "webpush.payload.heartline"},
		{webpush: `{"headers":{"Urgency":"low"}}`},
		{apns: `{"headers":{"apns-id":"x"}}`, field: "apns.headers"},
		{apns: `{"headers":{"apns-priority":"11"}}`, field: "apns.headers.apns-priority"},
		{apns: `{"payload":{"heartline":null}}`, field: "apns.payload.heartline"},
		{apns: `{"payload":{"aps":{"badge":1}}}`},
		{pushType: "smoke", field: "apns.push_type"},
		{pushType: "background"},
	} {
		for _, noFallback := range []bool{false, true} {
			_, err := heartline.Notify(t.Context(), delivery.Request{
				Account: "alice", Title: "t", PushType: c.pushType, NoFallback: noFallback,
				Overlay: &delivery.Overlay{APNs: object(c.apns), FCM: object(c.fcm), WebPush: object(c.webpush)},
			})
			fault, _ := errors.AsType[*delivery.FieldError](err)
			if c.field == "" && err != nil || c.field != "" && (fault == nil || fault.Field != c.field || !errors.Is(err, delivery.ErrInvalid)) {
				t.Errorf("%+v, no fallback %v: %v", c, noFallback, err)
			}
		}
	}
	if err := heartline.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func object(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

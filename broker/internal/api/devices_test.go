package api_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

const token = "00FC13ADFF785122B4AD28809A3420982341241421348097878E577C991DE8F0"

func TestDeviceFromPutToDelete(t *testing.T) {
	s := serve(t)
	const path = "/v1/accounts/alice/devices/phone"
	s.wantProblem(s.do("GET", path, ""), 404, `account "alice" has no device "phone"; PUT registers it`)
	s.wantProblem(s.do("DELETE", path, ""), 404, `account "alice" has no device "phone"`)
	if r := s.do("GET", "/v1/accounts/alice/devices", ""); r.StatusCode != 200 || r.text != `{"devices":[]}`+"\n" {
		t.Error(r.text)
	}
	var d wire.DeviceView
	s.want(s.do("PUT", path, ""), 201, &d)
	if d.Device != "phone" || d.Account != "alice" || d.APNs != nil || d.App != "" || d.Channel.State != "down" || d.Channel.Keepalive != 0 {
		t.Errorf("%+v", d)
	}
	s.want(s.do("PUT", path, `{"apns":{"token":"`+token+`","topic":"com.example.app","environment":"sandbox"}}`), 200, &d)
	if a := d.APNs; a == nil || a.Token != strings.ToLower(token) || a.Topic != "com.example.app" || a.Environment != "sandbox" {
		t.Fatalf("%+v", d)
	}
	if at, err := time.Parse(wire.Time, d.APNs.RegisteredAt); err != nil || time.Since(at) > time.Minute {
		t.Error(d.APNs.RegisteredAt)
	}
	for _, keeps := range []string{"", "{}"} {
		d = wire.DeviceView{}
		s.want(s.do("PUT", path, keeps), 200, &d)
		if d.APNs == nil {
			t.Errorf("PUT of %q took the token away", keeps)
		}
	}
	// A token moves with the phone that it names.
	s.want(s.do("PUT", "/v1/accounts/alice/devices/new-phone", `{"apns":{"token":"`+token+`","topic":"t"}}`), 201, nil)
	d = wire.DeviceView{}
	s.want(s.do("GET", path, ""), 200, &d)
	if d.APNs != nil {
		t.Error("two devices hold one token")
	}
	s.want(s.do("PUT", "/v1/accounts/alice/devices/new-phone", `{"apns":null}`), 200, nil)
	d = wire.DeviceView{}
	s.want(s.do("GET", "/v1/accounts/alice/devices/new-phone", ""), 200, &d)
	if d.APNs != nil {
		t.Error("null did not remove the token")
	}
	s.want(s.do("PUT", "/v1/accounts/alice/devices/watch", `{"apns":null}`), 201, nil)

	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"one"}`), 202, nil)
	var list wire.DeviceList
	s.want(s.do("GET", "/v1/accounts/alice/devices", ""), 200, &list)
	if len(list.Devices) != 3 || list.Devices[0].Device != "new-phone" || list.Devices[0].Outstanding != 1 {
		t.Errorf("%+v", list)
	}
	// PUT under another account moves the device; its notifications do not move.
	s.want(s.do("PUT", "/v1/accounts/bob/devices/phone", ""), 201, nil)
	s.wantProblem(s.do("GET", path, ""), 404, `account "alice" has no device "phone"`)
	s.want(s.do("DELETE", "/v1/accounts/bob/devices/phone", ""), 204, nil)
	s.wantProblem(s.do("DELETE", "/v1/accounts/bob/devices/phone", ""), 404, `account "bob" has no device "phone"`)
}

func TestDeviceThatIsUp(t *testing.T) {
	s := serve(t)
	s.online("alice", "phone")
	var d wire.DeviceView
	s.want(s.do("GET", "/v1/accounts/alice/devices/phone", ""), 200, &d)
	c := d.Channel
	if c.State != "up" || c.Keepalive != 90 || c.Remote != "10.0.0.1:99" || c.Since == "" || c.LastHeartbeat == "" || d.App != "foreground" {
		t.Errorf("%+v", d)
	}
}

var errNotConfigured = errors.New("app not configured")

func TestDevicePutThatIsBroken(t *testing.T) {
	s := serve(t, func(_ *api.Options, rules *delivery.Options) {
		rules.CompleteRegistration = func(p delivery.Registration) (delivery.Registration, error) {
			if p.App == "com.example.unknown" {
				return p, errors.New("no credentials for com.example.unknown")
			}
			if p.App == "com.example.typo" {
				return p, fmt.Errorf("%w: the push token names the topic com.example.typo", errNotConfigured)
			}
			return p, nil
		}
	})
	const path = "/v1/accounts/alice/devices/phone"
	for _, c := range []struct{ path, body, detail string }{
		{path, `[]`, "body: must be a JSON object, got an array"},
		{path, `{`, "body: must be JSON, and ends too early"},
		{path, `{"fcm":{}}`, "body.fcm: exactly one of token and fid must be given"},
		{path, `{"gcm":{}}`, "body.gcm: is not a member that is known here"},
		{path, `{"apns":null,"fcm":null}`, "body: must name exactly one of apns, fcm and webpush"},
		{path, `{"apns":null,"apns":null}`, "body.apns: must be given once, and is given twice"},
		{path, `{"webpush":{"endpoint":"https://secret.example/x","keys":{"p256dh":"a","auth":"b"}}}`, "body.webpush.keys.p256dh: must be 65 bytes in base64url; body.webpush.keys.auth: must be 16 bytes"},
		{path, `{"apns":"x"}`, `body.apns: must be an object, got string`},
		{path, `{"apns":{}}`, "body.apns.token: must be given"},
		{path, `{"apns":{"token":""}}`, "body.apns.token: must be given"},
		{path, `{"apns":{"token":"ab","bundle":"x"}}`, "body.apns.bundle: is not a member that is known here"},
		{path, `{"apns":{"token":"ab","topic":"com.example.unknown"}}`, "no credentials for com.example.unknown"},
		{path, `{"apns":{"token":"ab","topic":"com.example.typo"}}`, "app not configured: the push token names the topic com.example.typo"},
		{"/v1/accounts/a%07b/devices/phone", "", `path.account: must be UTF-8 without control characters, got "a\ab"`},
		{"/v1/accounts/alice/devices/a%2Fb", "", `path.device: must be one level of a topic`},
		{"/v1/accounts/alice/devices/" + strings.Repeat("d", 129), "", "path.device: at most 128 bytes, got 129"},
	} {
		s.wantProblem(s.do("PUT", c.path, c.body), 422, c.detail)
	}
	var list wire.DeviceList
	s.want(s.do("GET", "/v1/devices", ""), 200, &list)
	if len(list.Devices) != 0 {
		t.Errorf("registered all the same: %+v", list)
	}
	// A path segment is decoded once.
	var d wire.DeviceView
	s.want(s.do("PUT", "/v1/accounts/al%20ice/devices/%C3%A9%25", ""), 201, &d)
	if d.Account != "al ice" || d.Device != "é%" {
		t.Errorf("%+v", d)
	}
}

func TestDevicesInPages(t *testing.T) {
	s := serve(t)
	var want []string
	for i := range 10 {
		id := fmt.Sprintf("d%d", i)
		want = append(want, id)
		s.device([]string{"alice", "bob"}[i%2], id)
	}
	var got []string
	cursor := ""
	for pages := 0; ; pages++ {
		var page wire.DeviceList
		s.want(s.do("GET", "/v1/devices?limit=5"+cursor, ""), 200, &page)
		for _, d := range page.Devices {
			got = append(got, d.Device)
		}
		if page.Next == "" {
			if pages != 1 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
		cursor = "&cursor=" + page.Next
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Error(got)
	}
}

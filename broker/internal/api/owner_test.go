package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// connections records the calls that end connections.
type connections struct {
	mu    sync.Mutex
	ended []string
}

func (c *connections) end(kind string, known bool) func(string) bool {
	return func(device string) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended = append(c.ended, kind+" "+device)
		return known && device == "phone"
	}
}

// endSessions notes whose sessions are ended.
func (c *connections) endSessions(account string, devices ...string) bool {
	for _, device := range devices {
		c.end("session", true)(device + " of " + account)
	}
	return true
}

// withPasswords has every account's password be the account's name, and "token" be the
// Bearer token of alice's device.
func withPasswords(c *connections) func(*api.Options, *delivery.Options) {
	return func(o *api.Options, rules *delivery.Options) {
		withTokens(o, rules)
		o.Password = func(_ context.Context, c auth.Credentials) (auth.Identity, error) {
			if c.ClientID == "" || !bytes.Equal(c.Password, []byte(c.Username)) {
				return auth.Identity{}, fmt.Errorf("%w: secret inner workings", auth.ErrDenied)
			}
			return auth.Identity{Account: c.Username}, nil
		}
		o.Disconnect, o.EndSession = c.end("disconnect", true), c.endSessions
	}
}

// TestAcksOverHTTP: an app extension acknowledges with the device's own credentials,
// and nobody else can.
func TestAcksOverHTTP(t *testing.T) {
	s := serve(t, withPasswords(&connections{}))
	s.device("alice", "phone")
	s.device("bob", "bobphone")
	const service, alice, bob = "Bearer service", "Basic YWxpY2U6YWxpY2U=", "Basic Ym9iOmJvYg=="
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"n1","ack":"displayed"}`, "Authorization", service), 202, nil)
	const path = "/v1/notifications/n1/acks"
	for _, c := range []struct {
		header, body string
		status       int
		detail       string
	}{
		{"", `{"device":"phone","status":"displayed"}`, 401, "send the header Authorization"},
		{"Basic YWxpY2U6d3Jvbmc=", `{"device":"phone","status":"displayed"}`, 401, "the username or the password is wrong"},
		{bob, `{"device":"phone","status":"displayed"}`, 403, `device "phone" is not yours`},
		{bob, `{"device":"bobphone","status":"displayed"}`, 403, "notification n1"},
		{alice, `{"device":"phone"}`, 422, "body.status: must be given"},
		{alice, `{"device":"phone","status":"seen"}`, 422, `body.status: must be one of received, displayed, read, got "seen"`},
		{alice, `{"device":"phone","status":"received","status":"displayed"}`, 422, "body.status: must be given once"},
		{alice, `{}`, 422, "body.device: must be given; body.status: must be given"},
	} {
		s.wantProblem(s.do("POST", path, c.body, "Authorization", c.header), c.status, c.detail)
	}
	var n wire.NotificationView
	s.want(s.do("GET", "/v1/notifications/n1", "", "Authorization", service), 200, &n)
	if n.State == "acked" {
		t.Fatal("acknowledged by a refused call")
	}
	for range 2 { // a repetition is harmless
		s.want(s.do("POST", path, `{"device":"phone","status":"displayed"}`, "Authorization", alice), 204, nil)
	}
	s.want(s.do("GET", "/v1/notifications/n1", "", "Authorization", service), 200, &n)
	if n.State != "acked" {
		t.Errorf("state %s", n.State)
	}
	// With a token of the device (auth.mode jwt), and for a service.
	for i, header := range []string{"Bearer device", service} { // each in another status
		id := fmt.Sprintf("t%d", i)
		s.want(s.do("POST", "/v1/notifications", fmt.Sprintf(`{"account":"alice","title":"x","id":%q}`, id), "Authorization", service), 202, nil)
		s.want(s.do("POST", "/v1/notifications/"+id+"/acks", fmt.Sprintf(`{"device":"phone","status":%q}`, []string{"received", "read"}[i]), "Authorization", header), 204, nil)
	}
	s.wantProblem(s.do("POST", path, `{"device":"nobody","status":"received"}`, "Authorization", service), 404, `there is no device "nobody"`)
	s.wantProblem(s.do("POST", "/v1/notifications/none/acks", `{"device":"phone","status":"received"}`, "Authorization", alice), 404, `there is no notification "none"`)
}

// TestUsernameWithAColon: HTTP Basic would end the username at the first colon.
func TestUsernameWithAColon(t *testing.T) {
	s := serve(t, withPasswords(&connections{}))
	s.device("urn:carol", "phone")
	s.want(s.do("POST", "/v1/notifications", `{"account":"urn:carol","title":"x","id":"n1"}`, "Authorization", "Bearer service"), 202, nil)
	basic := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	const path, ack = "/v1/notifications/n1/acks", `{"device":"phone","status":"received"}`
	s.wantProblem(s.do("POST", path, ack, "Authorization", basic("urn:carol:wrong")), 401, "the username or the password is wrong")
	s.wantProblem(s.do("POST", path, ack, "Authorization", basic("urn:urn")), 403, `device "phone" is not yours`)
	s.want(s.do("POST", path, ack, "Authorization", basic("urn:carol:urn:carol")), 204, nil)
	s.want(s.do("DELETE", "/v1/accounts/urn:carol/devices/phone", "", "Authorization", basic("urn:carol:urn:carol")), 204, nil)
}

// TestSignOutOverHTTP: a device removes itself and nobody else's.
func TestSignOutOverHTTP(t *testing.T) {
	var c connections
	s := serve(t, withPasswords(&c))
	s.device("alice", "phone")
	s.device("alice", "tablet")
	const alice, bob = "Basic YWxpY2U6YWxpY2U=", "Basic Ym9iOmJvYg=="
	s.wantProblem(s.do("DELETE", "/v1/accounts/alice/devices/phone", "", "Authorization", bob), 403, `device "phone" is not yours`)
	s.wantProblem(s.do("DELETE", "/v1/accounts/bob/devices/phone", "", "Authorization", bob), 403, `device "phone" is not yours`)
	s.wantProblem(s.do("DELETE", "/v1/accounts/bob/devices/phone", "", "Authorization", alice), 403, `account "bob" is not yours`)
	if len(c.ended) > 0 {
		t.Fatalf("ended by a refused call: %v", c.ended)
	}
	s.want(s.do("DELETE", "/v1/accounts/alice/devices/phone", "", "Authorization", alice), 204, nil)
	s.want(s.do("DELETE", "/v1/accounts/alice/devices/tablet", "", "Authorization", "Bearer device"), 204, nil)
	if !slices.Equal(c.ended, []string{"session phone of alice", "session tablet of alice"}) {
		t.Errorf("ended %v", c.ended)
	}
	s.wantProblem(s.do("GET", "/v1/accounts/alice/devices/phone", "", "Authorization", "Bearer service"), 404, `account "alice" has no device "phone"`)
	// A device's credentials are good for nothing else.
	for _, call := range []string{"GET /v1/devices", "PUT /v1/accounts/alice/devices/phone", "DELETE /v1/accounts/alice", "POST /v1/devices/phone/disconnect"} {
		method, path, _ := strings.Cut(call, " ")
		s.wantProblem(s.do(method, path, "", "Authorization", alice), 401, "send the header")
		s.wantProblem(s.do(method, path, "", "Authorization", "Bearer device"), 403, "this token is a device's")
	}
}

func TestDisconnect(t *testing.T) {
	var c connections
	s := serve(t, withPasswords(&c))
	const service = "Bearer admin"
	s.wantProblem(s.do("POST", "/v1/devices/phone/disconnect", "", "Authorization", "Bearer service"), 403, "this call is for the role admin")
	s.want(s.do("POST", "/v1/devices/phone/disconnect", "", "Authorization", service), 204, nil)
	s.wantProblem(s.do("POST", "/v1/devices/other/disconnect", "", "Authorization", service), 404, `device "other" is not connected`)
	if !slices.Equal(c.ended, []string{"disconnect phone", "disconnect other"}) {
		t.Errorf("ended %v", c.ended)
	}
}

// TestServiceOfSomeAccounts: credentials that are for some accounts do nothing for others.
func TestServiceOfSomeAccounts(t *testing.T) {
	s := serve(t, withPasswords(&connections{}))
	s.device("alice", "phone")
	s.device("shop-1", "till")
	const shop, service = "Bearer shop", "Bearer service"
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"x","id":"hers"}`, "Authorization", service), 202, nil)
	for _, c := range []struct{ call, body string }{
		{"POST /v1/notifications", `{"account":"alice","title":"x"}`},
		{"GET /v1/notifications/hers", ""},
		{"DELETE /v1/notifications/hers", ""},
		{"DELETE /v1/notifications/hers?erase=true", ""},
		{"POST /v1/notifications/hers/dismissal", ""},
		{"POST /v1/notifications/hers/acks", `{"device":"phone","status":"received"}`},
		{"GET /v1/notifications", ""},
		{"GET /v1/notifications?account=alice", ""},
		{"GET /v1/events", ""},
		{"GET /v1/events?account=alice", ""},
		{"GET /v1/devices", ""},
		{"GET /v1/accounts/alice/devices", ""},
		{"GET /v1/accounts/alice/devices/phone", ""},
		{"PUT /v1/accounts/alice/devices/phone", ""},
		{"DELETE /v1/accounts/alice/devices/phone", ""},
		{"DELETE /v1/accounts/alice", ""},
	} {
		method, path, _ := strings.Cut(c.call, " ")
		r := s.do(method, path, c.body, "Authorization", shop)
		s.wantProblem(r, 403, "these credentials are ")
		if strings.Contains(path, "hers") && strings.Contains(r.text, "alice") {
			t.Errorf("%s names the account: %s", c.call, r.text)
		}
	}
	s.want(s.do("POST", "/v1/notifications", `{"account":"shop-1","title":"x","id":"ours"}`, "Authorization", shop), 202, nil)
	s.want(s.do("GET", "/v1/notifications?account=shop-1", "", "Authorization", shop), 200, nil)
	s.want(s.do("POST", "/v1/notifications/ours/dismissal", "", "Authorization", shop), 204, nil)
	s.wantProblem(s.do("POST", "/v1/notifications/none/dismissal", "", "Authorization", service), 404, `there is no notification "none"`)
}

// TestErase: erased content cannot be read any more; other content can. The account's name needs percent-encoding.
func TestErase(t *testing.T) {
	var c connections
	s := serve(t, func(o *api.Options, _ *delivery.Options) { o.EndSession = c.endSessions })
	const account = "/v1/accounts/%2B49%2Fann%25"
	s.want(s.do("PUT", account+"/devices/phone", ""), 201, nil)
	s.device("bob", "bobphone")
	for _, id := range []string{"one", "two"} {
		s.want(s.do("POST", "/v1/notifications", fmt.Sprintf(`{"account":"+49/ann%%","title":"secret","id":%q}`, id)), 202, nil)
	}
	s.want(s.do("POST", "/v1/notifications", `{"account":"bob","title":"x","id":"bobs"}`), 202, nil)

	s.want(s.do("DELETE", "/v1/notifications/one?erase=true", ""), 204, nil)
	s.wantProblem(s.do("GET", "/v1/notifications/one", ""), 404, `there is no notification "one"`)
	s.want(s.do("GET", "/v1/notifications/two", ""), 200, nil)

	s.want(s.do("DELETE", account, ""), 204, nil)
	s.want(s.do("DELETE", account, ""), 204, nil)
	s.wantProblem(s.do("GET", "/v1/notifications/two", ""), 404, `there is no notification "two"`)
	s.wantProblem(s.do("GET", account+"/devices/phone", ""), 404, `account "+49/ann%" has no device "phone"`)
	if !slices.Equal(c.ended, []string{"session phone of +49/ann%"}) {
		t.Errorf("ended %v", c.ended)
	}
	s.want(s.do("GET", "/v1/notifications/bobs", ""), 200, nil)
	s.want(s.do("GET", "/v1/accounts/bob/devices/bobphone", ""), 200, nil)
	s.wantProblem(s.do("DELETE", "/v1/accounts/a%07b", ""), 422, "path.account: must be UTF-8")
}

// TestMovedDeviceLosesItsConnection: a device that a service gives to another account does
// not stay connected as its former user's. One that is put where it is stays connected.
func TestMovedDeviceLosesItsConnection(t *testing.T) {
	var c connections
	s := serve(t, func(o *api.Options, _ *delivery.Options) { o.EndSession = c.endSessions })
	s.want(s.do("PUT", "/v1/accounts/alice/devices/phone", ""), 201, nil)
	s.want(s.do("PUT", "/v1/accounts/alice/devices/phone", `{"apns":{"token":"aa","topic":"t"}}`), 200, nil)
	if len(c.ended) != 0 {
		t.Errorf("ended %v", c.ended)
	}
	s.want(s.do("PUT", "/v1/accounts/bob/devices/phone", ""), 201, nil)
	if !slices.Equal(c.ended, []string{"session phone of alice"}) {
		t.Errorf("ended %v", c.ended)
	}
}

// TestSessionsEndWhileTheStoreFails: a device that is removed, moved or erased is that at once, and
// a repetition of the call would not find it.
func TestSessionsEndWhileTheStoreFails(t *testing.T) {
	var c connections
	s := serve(t, withPasswords(&c))
	const service, dave = "Bearer service", "Basic ZGF2ZTpkYXZl"
	s.device("alice", "phone")
	s.device("alice", "tablet")
	s.device("bob", "watch")
	s.device("dave", "car")
	s.store.engine.sick.Store(true)
	for _, call := range [][3]string{
		{"DELETE", "/v1/accounts/alice/devices/phone", service}, {"PUT", "/v1/accounts/carol/devices/tablet", service},
		{"DELETE", "/v1/accounts/bob", service}, {"DELETE", "/v1/accounts/dave/devices/car", dave},
	} {
		s.wantProblem(s.do(call[0], call[1], "", "Authorization", call[2]), 503, "the store takes no changes now")
	}
	s.wantProblem(s.do("DELETE", "/v1/accounts/alice/devices/radio", "", "Authorization", service), 404, `account "alice" has no device "radio"`)
	if !slices.Equal(c.ended, []string{"session phone of alice", "session tablet of alice", "session watch of bob", "session car of dave"}) {
		t.Errorf("ended %v", c.ended)
	}
	s.store.engine.sick.Store(false)
}

// TestRegistrationsOfDevices: one of each kind, whichever server it is of; the view
// shows no token but Apple's.
func TestRegistrationsOfDevices(t *testing.T) {
	s := serve(t)
	const path = "/v1/accounts/alice/devices/phone"
	var d wire.DeviceView
	s.want(s.do("PUT", path, `{"fcm":{"token":"secret","project":"p"}}`), 201, &d)
	s.want(s.do("PUT", path, `{"apns":{"token":"AB","topic":"t.voip","kind":"voip"}}`), 200, &d)
	r := s.do("GET", path, "")
	s.want(r, 200, &d)
	if len(d.Registrations) != 2 || d.Registrations[0].Server != "fcm" || d.Registrations[0].Kind != "alert" || d.Registrations[1].Kind != "voip" || d.APNs != nil {
		t.Errorf("%s", r.text)
	}
	if strings.Contains(r.text, "secret") {
		t.Errorf("a token is shown: %s", r.text)
	}
	key, auth := strings.Repeat("A", 87), strings.Repeat("A", 22)
	s.want(s.do("PUT", path, fmt.Sprintf(`{"webpush":{"endpoint":"https://push.example/secret","expirationTime":null,"keys":{"p256dh":%q,"auth":%q}}}`, key, auth)), 200, &d)
	if len(d.Registrations) != 2 || d.Registrations[0].Server != "webpush" {
		t.Errorf("the alert registration was not replaced: %+v", d.Registrations)
	}
	s.want(s.do("PUT", path, `{"apns":null,"kind":"alert"}`), 200, &d) // Apple's, of another kind: stays
	if len(d.Registrations) != 2 {
		t.Errorf("%+v", d.Registrations)
	}
	d = wire.DeviceView{}
	s.want(s.do("PUT", path, `{"webpush":null}`), 200, &d)
	if len(d.Registrations) != 1 || d.Registrations[0].Kind != "voip" {
		t.Errorf("%+v", d.Registrations)
	}
}

// TestFullDeviceIsNamed: of two devices one is full; the 202 says what became of each.
func TestFullDeviceIsNamed(t *testing.T) {
	s := serve(t, func(_ *api.Options, rules *delivery.Options) { rules.MaxOutstanding = 1 })
	s.device("alice", "phone")
	s.device("alice", "tablet")
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"1","devices":["phone"]}`), 202, nil)
	var a wire.Accepted
	s.want(s.do("POST", "/v1/notifications", `{"account":"alice","title":"2"}`), 202, &a)
	if got := fmt.Sprint(a.State, a.Deliveries); got != "pending[{phone cancelled} {tablet pending}]" {
		t.Error(got)
	}
}

// TestHeldForTheFirstDevice: delivery.unknown_accounts hold.
func TestHeldForTheFirstDevice(t *testing.T) {
	s := serve(t, func(_ *api.Options, rules *delivery.Options) { rules.HoldUnknown = true })
	var a wire.Accepted
	first := s.do("POST", "/v1/notifications", `{"account":"alice","title":"1","id":"n1"}`)
	s.want(first, 202, &a)
	if a.State != "waiting" || len(a.Deliveries) != 0 {
		t.Errorf("%+v", a)
	}
	again := s.do("POST", "/v1/notifications", `{"id":"n1","title":"1","account":"alice","urgency":"high"}`) // the same meaning
	s.want(again, 200, nil)
	if again.text != first.text {
		t.Errorf("the first answer was %s, the second %s", first.text, again.text)
	}
	s.device("alice", "phone")
	var n wire.NotificationView
	s.want(s.do("GET", "/v1/notifications/n1", ""), 200, &n)
	if len(n.Deliveries) != 1 || n.Deliveries[0].Device != "phone" {
		t.Errorf("%+v", n)
	}
}

// TestLimitedServiceTakesNoDevice: a service that may act for some accounts registers and
// moves devices among these, and takes none from another account.
func TestLimitedServiceTakesNoDevice(t *testing.T) {
	s := serve(t, func(o *api.Options, rules *delivery.Options) {
		withPasswords(&connections{})(o, rules)
		rules.AnyAccount = false
	})
	s.device("alice", "phone")
	s.device("shop-1", "till")
	const shop = "Bearer shop"
	put := func(path, body string) reply { return s.do("PUT", path, body, "Authorization", shop) }
	const token = `{"apns":{"token":"0a0b0c0d0a0b0c0d0a0b0c0d0a0b0c0d0a0b0c0d0a0b0c0d0a0b0c0d0a0b0c0d","topic":"t"}}`
	for _, body := range []string{"", token} {
		s.wantProblem(put("/v1/accounts/shop-1/devices/phone", body), 403, `device "phone" belongs to an account that these credentials are not for`)
		s.want(put("/v1/accounts/shop-1/devices/till", body), 200, nil)
		s.want(put("/v1/accounts/shop-2/devices/till", body), 201, nil) // both are its accounts
		s.want(put("/v1/accounts/shop-1/devices/till", body), 201, nil)
	}
	s.want(put("/v1/accounts/shop-1/devices/new", token), 201, nil)
	for device, account := range map[string]string{"phone": "alice", "till": "shop-1", "new": "shop-1"} {
		if holder, err := s.core.AccountOf(device); holder != account {
			t.Errorf("%s is of %q %v, want %s", device, holder, err, account)
		}
	}
	s.want(s.do("PUT", "/v1/accounts/shop-1/devices/phone", "", "Authorization", "Bearer service"), 201, nil)
}

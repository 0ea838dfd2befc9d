package wire

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"github.com/heartline-mqtt/heartline/delivery"
)

// PushToken is what a device says on its push-token topic: one server's registration,
// or null to remove it. MarshalJSON is for clients; ParsePushToken reads it.
type PushToken struct {
	Server       string // delivery.ServerAPNs, ServerFCM or ServerWebPush
	Kind         string // "": alert
	Registration *delivery.Registration
}

// APNsToken is a device token of Apple's push service.
type APNsToken struct {
	Token       string `json:"token" doc:"Device token, hexadecimal" pattern:"^[0-9A-Fa-f]+$" maxLength:"256"`
	Topic       string `json:"topic,omitempty" doc:"Bundle ID; the configured one if absent" maxLength:"155"`
	Environment string `json:"environment,omitempty" enum:"production,sandbox" doc:"The configured one if absent"`
	Kind        string `json:"kind,omitempty" doc:"alert if absent; voip, liveactivity:..., pushtotalk, location, widgets, complication" maxLength:"128"`
}

// FCMToken is a registration with Firebase Cloud Messaging: a token or an
// installation ID.
type FCMToken struct {
	Token   string `json:"token,omitempty" maxLength:"4096"`
	FID     string `json:"fid,omitempty" maxLength:"4096"`
	Project string `json:"project,omitempty" doc:"Where several are configured" maxLength:"255"`
	Kind    string `json:"kind,omitempty" maxLength:"128"`
}

// WebPushSubscription is a browser's PushSubscription.toJSON() as it is. Members that
// are not listed are ignored: a browser may add some.
type WebPushSubscription struct {
	_        struct{} `additionalProperties:"true"`
	Endpoint string   `json:"endpoint" maxLength:"2048"`
	Keys     struct {
		P256dh string `json:"p256dh"`
		Auth   string `json:"auth"`
	} `json:"keys"`
	Key  string `json:"key,omitempty" doc:"First characters of the application server key, where several are configured" maxLength:"87"`
	Kind string `json:"kind,omitempty" maxLength:"128"`
}

// Registered is the token as the core keeps it; nil for nil.
func (t *APNsToken) Registered() *delivery.Registration {
	if t == nil {
		return nil
	}
	return &delivery.Registration{
		Server: delivery.ServerAPNs, Kind: kindOr(t.Kind), Token: strings.ToLower(t.Token), App: t.Topic, Environment: t.Environment,
	}
}

// Registered is the token as the core keeps it. The error is a *delivery.FieldError.
func (t *FCMToken) Registered() (*delivery.Registration, error) {
	r := &delivery.Registration{Server: delivery.ServerFCM, Kind: kindOr(t.Kind), App: t.Project, Token: t.Token, Form: delivery.FormToken}
	switch {
	case (t.Token == "") == (t.FID == ""):
		return nil, &delivery.FieldError{Field: "fcm", Rule: "exactly one of token and fid must be given"}
	case t.FID != "":
		r.Token, r.Form = t.FID, delivery.FormFID
	}
	return r, nil
}

// Registered is the subscription as the core keeps it. The error is a
// *delivery.FieldError, and repeats neither the endpoint nor a key.
func (s *WebPushSubscription) Registered() (*delivery.Registration, error) {
	r := &delivery.Registration{Server: delivery.ServerWebPush, Kind: kindOr(s.Kind), App: s.Key, Token: s.Endpoint}
	var errs []error
	if s.Endpoint == "" {
		errs = append(errs, &delivery.FieldError{Field: "webpush.endpoint", Rule: "must be given"})
	}
	var err error
	if r.P256dh, err = base64Any(s.Keys.P256dh); err != nil || len(r.P256dh) != 65 {
		errs = append(errs, &delivery.FieldError{Field: "webpush.keys.p256dh", Rule: "must be 65 bytes in base64url"})
	}
	if r.Auth, err = base64Any(s.Keys.Auth); err != nil || len(r.Auth) != 16 {
		errs = append(errs, &delivery.FieldError{Field: "webpush.keys.auth", Rule: "must be 16 bytes in base64url"})
	}
	return r, errors.Join(errs...)
}

// base64Any reads base64 of either alphabet, with or without padding: libraries differ.
func base64Any(s string) ([]byte, error) {
	s = strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(s), "=")
	return base64.RawURLEncoding.DecodeString(s)
}

func kindOr(kind string) string {
	if kind == "" {
		return delivery.KindAlert
	}
	return kind
}

var pushServers = []string{delivery.ServerAPNs, delivery.ServerFCM, delivery.ServerWebPush}

// ParsePushToken reads the payload of a push-token topic. Exactly one server is named;
// its value is null to remove its registrations, all or those of Kind. The kind may
// stand in the server's object or next to it.
func ParsePushToken(payload []byte) (PushToken, error) {
	var body struct {
		APNs    json.RawMessage `json:"apns"`
		FCM     json.RawMessage `json:"fcm"`
		WebPush json.RawMessage `json:"webpush"`
		Kind    string          `json:"kind"`
	}
	if err := Decode(payload, &body); err != nil {
		return PushToken{}, err
	}
	t := PushToken{Kind: body.Kind}
	var value json.RawMessage
	named := 0
	for i, v := range []json.RawMessage{body.APNs, body.FCM, body.WebPush} {
		if v != nil {
			named++
			t.Server, value = pushServers[i], v
		}
	}
	if named != 1 {
		return PushToken{}, &delivery.FieldError{Field: "body", Rule: `must name exactly one of apns, fcm and webpush; null removes its registrations, as in {"apns":null}`}
	}
	if string(value) == "null" {
		return t, nil
	}
	r, err := parseRegistration(t.Server, value)
	if err != nil {
		return PushToken{}, err
	}
	if t.Kind != "" && r.Kind != delivery.KindAlert && r.Kind != t.Kind {
		return PushToken{}, &delivery.FieldError{Field: "kind", Rule: "must be given once"}
	}
	if t.Kind != "" {
		r.Kind = t.Kind
	}
	t.Kind, t.Registration = r.Kind, r
	return t, nil
}

func parseRegistration(server string, value json.RawMessage) (*delivery.Registration, error) {
	switch server {
	case delivery.ServerAPNs:
		var a APNsToken
		if err := Decode(value, &a); err != nil {
			return nil, below(server, err)
		}
		if a.Token == "" {
			return nil, &delivery.FieldError{Field: "apns.token", Rule: "must be given"}
		}
		return a.Registered(), nil
	case delivery.ServerFCM:
		var f FCMToken
		if err := Decode(value, &f); err != nil {
			return nil, below(server, err)
		}
		return f.Registered()
	}
	var w WebPushSubscription
	if err := json.Unmarshal(value, &w); err != nil {
		return nil, below(server, decodeError(err, 0))
	}
	return w.Registered()
}

// below puts an object's name before that of its faulty member.
func below(object string, err error) error {
	e, ok := errors.AsType[*delivery.FieldError](err)
	if !ok {
		return err
	}
	moved := *e
	if moved.Field = object + "." + e.Field; e.Field == "body" {
		moved.Field = object
	}
	return &moved
}

// MarshalJSON writes what ParsePushToken reads.
func (t PushToken) MarshalJSON() ([]byte, error) {
	body := map[string]any{t.Server: nil}
	kind := t.Kind
	if r := t.Registration; r != nil {
		kind = r.Kind
		switch {
		case t.Server == delivery.ServerWebPush:
			var w WebPushSubscription
			w.Endpoint, w.Key = r.Token, r.App
			w.Keys.P256dh = base64.RawURLEncoding.EncodeToString(r.P256dh)
			w.Keys.Auth = base64.RawURLEncoding.EncodeToString(r.Auth)
			body[t.Server] = w
		case t.Server == delivery.ServerFCM && r.Form == delivery.FormFID:
			body[t.Server] = FCMToken{FID: r.Token, Project: r.App}
		case t.Server == delivery.ServerFCM:
			body[t.Server] = FCMToken{Token: r.Token, Project: r.App}
		default:
			body[t.Server] = APNsToken{Token: r.Token, Topic: r.App, Environment: r.Environment}
		}
	}
	if kind != "" && (t.Registration == nil || kind != delivery.KindAlert) {
		body["kind"] = kind
	}
	return json.Marshal(body)
}

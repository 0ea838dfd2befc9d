package webpush

import (
	"crypto/ecdh"
	"net/url"

	"github.com/heartline-mqtt/heartline/delivery"
)

// CheckForm checks a subscription without any configuration: the endpoint's form, a
// P-256 point, 16 bytes of auth (RFC 8291 §3.1, §3.2). It returns the subscription
// with the endpoint in its one spelling, so that equal subscriptions are equal. The
// error is a *delivery.FieldError; it repeats nothing of the subscription, which is a
// secret.
func CheckForm(r delivery.Registration) (delivery.Registration, error) {
	u, err := parseEndpoint(r.Token)
	if err != nil {
		return r, &delivery.FieldError{Field: "webpush.endpoint", Rule: err.Error()}
	}
	if _, err := ecdh.P256().NewPublicKey(r.P256dh); err != nil {
		return r, &delivery.FieldError{Field: "webpush.keys.p256dh", Rule: "must be an uncompressed point on P-256: 65 bytes in base64url"}
	}
	if len(r.Auth) != authSize {
		return r, &delivery.FieldError{Field: "webpush.keys.auth", Rule: "must be 16 bytes in base64url"}
	}
	if r.Environment != "" {
		return r, &delivery.FieldError{Field: "webpush.environment", Rule: "must be absent: Web Push has no environments"}
	}
	r.Token = u.String()
	return r, nil
}

// origin is scheme, host and port of an endpoint: the audience of RFC 8292 §2.
func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

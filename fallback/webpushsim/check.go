package webpushsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// fault is a refusal: the status and the word for it.
type fault struct {
	status int
	reason string
	body   string // "": the reason as Apple's JSON
}

// The push services that Options.Service names.
const (
	ServiceApple   = "apple"
	ServiceGoogle  = "google"
	ServiceMozilla = "mozilla"
)

// otherKey is how each service refuses a subscription with another application server key.
var otherKey = map[string]*fault{
	ServiceApple:  {status: http.StatusBadRequest, reason: "VapidPkHashMismatch"},
	ServiceGoogle: {http.StatusForbidden, "other key", "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions.\n"},
	ServiceMozilla: {http.StatusUnauthorized, "errno 109", `{"code":401,"errno":109,"error":"Unauthorized","message":"VAPID public key mismatch",` +
		`"more_info":"http://autopush.readthedocs.io/en/latest/http.html#error-codes"}`},
}

// checkHeaders checks what RFC 8030 §5 asks of a request.
func checkHeaders(h http.Header) *fault {
	ttl := h.Get("TTL")
	if n, err := strconv.ParseUint(ttl, 10, 31); err != nil || ttl == "" || n > 2_592_000 {
		return &fault{status: http.StatusBadRequest, reason: "errno 111: TTL"}
	}
	if topic := h.Get("Topic"); len(topic) > 32 || strings.ContainsFunc(topic, notBase64URL) {
		return &fault{status: http.StatusBadRequest, reason: "errno 113: Topic"}
	}
	switch h.Get("Urgency") {
	case "", "very-low", "low", "normal", "high":
	default:
		return &fault{status: http.StatusBadRequest, reason: "errno 114: Urgency"}
	}
	if h.Get("Content-Encoding") != "aes128gcm" || h.Get("Crypto-Key") != "" || h.Get("Encryption") != "" {
		return &fault{status: http.StatusBadRequest, reason: "errno 110: Content-Encoding"}
	}
	return nil
}

func notBase64URL(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

// checkVAPID checks the Authorization field of RFC 8292 §3 against the key that the
// browser subscribed with ("" for none). Apple is the strictest about sub.
func checkVAPID(service, field, audience, subscribedWith string, now time.Time) *fault {
	refused := func(reason string) *fault { return &fault{status: http.StatusForbidden, reason: reason} }
	values, ok := strings.CutPrefix(field, "vapid ")
	if !ok {
		return &fault{status: http.StatusUnauthorized, reason: "MissingVapid"}
	}
	var token, public string
	for part := range strings.SplitSeq(values, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			token = value
		case "k":
			public = value
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(public)
	if err != nil {
		return refused("BadVapidKey")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	if err != nil {
		return refused("BadVapidKey")
	}
	if subscribedWith != "" && public != subscribedWith {
		return otherKey[service]
	}
	claims := jwt.MapClaims{}
	_, err = jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now })).
		ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return key, nil })
	if errors.Is(err, jwt.ErrTokenExpired) {
		return refused("ExpiredJwtToken")
	} else if err != nil {
		return refused("BadJwtToken")
	}
	if exp, err := claims.GetExpirationTime(); err != nil || exp.Sub(now) > 24*time.Hour {
		return refused("BadJwtToken")
	}
	if _, number := claims["exp"].(float64); !number {
		return refused("BadJwtToken")
	}
	sub, _ := claims["sub"].(string)
	rest, mail := strings.CutPrefix(sub, "mailto:")
	if !mail && !strings.HasPrefix(sub, "https://") || strings.ContainsAny(sub, " <>") || strings.HasPrefix(rest, "mailto:") ||
		strings.HasSuffix(sub, "localhost") || strings.HasSuffix(sub, ".local") {
		return refused("BadJwtToken")
	}
	return nil
}

// checkMessage checks the plain text: a declarative push message, or anything that the
// page's own worker understands.
func checkMessage(plain []byte) (tag string, f *fault) {
	var m struct {
		WebPush      int `json:"web_push"`
		Notification struct {
			Title    string `json:"title"`
			Navigate string `json:"navigate"`
			Tag      string `json:"tag"`
		} `json:"notification"`
	}
	if err := json.Unmarshal(plain, &m); err != nil {
		return "", nil
	}
	if m.WebPush == 8030 && (m.Notification.Title == "" || m.Notification.Navigate == "") {
		return "", &fault{status: http.StatusBadRequest, reason: "a declarative message without title or navigate"}
	}
	return m.Notification.Tag, nil
}

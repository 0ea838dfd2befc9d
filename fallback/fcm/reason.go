package fcm

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/internal/backoff"
)

const (
	// maxAnswer is how much of an answer is read.
	maxAnswer = 64 << 10
	// quotaRest is how long a project rests after a 429 that names no time.
	// https://firebase.google.com/docs/cloud-messaging/scale-fcm
	quotaRest = time.Minute
)

// answer is google.rpc.Status in JSON. The FCM code stands in a detail; the status
// alone does not tell a device's fault from a project's.
// https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
type answer struct {
	Error struct {
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []struct {
			Type       string `json:"@type"`
			ErrorCode  string `json:"errorCode"`
			Reason     string `json:"reason"`
			Violations []struct {
				Field string `json:"field"`
			} `json:"fieldViolations"`
			Quotas []struct {
				Subject     string `json:"subject"`
				Description string `json:"description"`
			} `json:"violations"` // of a QuotaFailure
			RetryDelay string `json:"retryDelay"` // of a RetryInfo: "30s"
		} `json:"details"`
	} `json:"error"`
}

// The types of the details that are read.
const (
	fcmError  = "google.firebase.fcm.v1.FcmError"
	apnsError = "google.firebase.fcm.v1.ApnsError" // Apple's answer for an iOS app of the project
	retryInfo = "google.rpc.RetryInfo"
)

// reaction says what to do about a refusal. tooBig: once more with a shorter payload.
// Only UNREGISTERED, which names this registration, ends it: one slip in a project's
// configuration brings any other 403 or 404 for every token.
func reaction(status int, header http.Header, body []byte, now time.Time) (pe *fallback.PushError, tooBig bool) {
	var a answer
	_ = json.Unmarshal(body, &a) // a proxy answers in HTML: the status decides
	var code, reason, field, apple string
	quotas := []string{a.Error.Message}
	after := backoff.RetryAfter(header.Get("Retry-After"), now)
	for _, d := range a.Error.Details {
		switch {
		case strings.HasSuffix(d.Type, fcmError):
			code = d.ErrorCode
		case strings.HasSuffix(d.Type, apnsError):
			apple = d.Reason
		case d.Reason != "":
			reason = d.Reason
		case strings.HasSuffix(d.Type, retryInfo) && after == 0:
			if named, err := time.ParseDuration(d.RetryDelay); err == nil && named > 0 {
				after = named
			}
		}
		for _, v := range d.Violations {
			field = v.Field
		}
		for _, q := range d.Quotas {
			quotas = append(quotas, q.Subject, q.Description)
		}
	}
	text := clean(a.Error.Message)
	pe = &fallback.PushError{StatusCode: status, Reason: first(code, reason, apple, a.Error.Status), RetryAfter: after}
	pe.Reason = clean(pe.Reason)
	switch {
	case code == "UNREGISTERED":
		pe.TokenGone = true
	case code == "SENDER_ID_MISMATCH":
		pe.Suspend, pe.Help = true, "the token belongs to another Firebase project"
	case code == "THIRD_PARTY_AUTH_ERROR":
		pe.Suspend, pe.NotToken, pe.Help = true, true, "the Firebase project has no valid APNs key or Web Push key for this device's platform"
	case status == http.StatusBadRequest && (field == "message.token" || field == "message.fid" || strings.Contains(a.Error.Message, "registration token")):
		pe.Suspend, pe.Help = true, "not a registration token"
	case apple == "BadDeviceToken", apple == "DeviceTokenNotForTopic":
		pe.Suspend, pe.Help = true, "Apple does not take the device token behind this registration ("+apple+")"
	case status == http.StatusRequestEntityTooLarge, status == http.StatusBadRequest && strings.Contains(a.Error.Message, "too big"):
		pe.Permanent, tooBig = true, true
	case status == http.StatusUnauthorized:
		pe.ConfigFault, pe.Help = true, first(text, "the access token is refused")
	case status == http.StatusForbidden:
		pe.ConfigFault, pe.Help = true, first(text, "the service account may not send messages in this project")
	case status == http.StatusNotFound:
		pe.ConfigFault, pe.Help = true, "check project_id of the service account file, and that the Firebase Cloud Messaging API is on"
	case status == http.StatusTooManyRequests && strings.Contains(strings.ToLower(strings.Join(quotas, " ")), "device"):
		pe.Throttled = true
	case status == http.StatusTooManyRequests:
		pe.Busy = true
		if pe.RetryAfter == 0 {
			pe.RetryAfter = quotaRest
		}
	case status >= 300 && status < 400:
		pe.ConfigFault, pe.Reason, pe.Help = true, "redirect", "the endpoint redirects; it is not Google's service"
	case status == http.StatusProxyAuthRequired:
		pe.ConfigFault, pe.Help = true, "a proxy asks for credentials"
	case status == http.StatusRequestTimeout, status == http.StatusMisdirectedRequest, status == http.StatusTooEarly:
	case status >= 400 && status < 500:
		pe.Permanent, pe.Help = true, text
	}
	return pe, tooBig
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// clean keeps a server's text printable and short.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}

// messageName reads the name of an accepted message, "projects/…/messages/…".
func messageName(body []byte) string {
	var a struct {
		Name string `json:"name"`
	}
	_ = json.Unmarshal(body, &a) // accepted all the same
	return clean(a.Name[strings.LastIndexByte(a.Name, '/')+1:])
}

// connectionError says why there was no answer.
func connectionError(ctx context.Context, err error) *fallback.PushError {
	if cause := context.Cause(ctx); cause != nil {
		return &fallback.PushError{Reason: "timeout", Err: cause}
	}
	return &fallback.PushError{Err: withoutURL(err)}
}

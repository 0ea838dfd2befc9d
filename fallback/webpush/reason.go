package webpush

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/internal/backoff"
)

// The push services that are known by name; others differ in nothing that matters.
const (
	serviceGoogle  = "google"
	serviceMozilla = "mozilla"
	serviceApple   = "apple"
	serviceWindows = "windows"
	serviceOther   = "other"
)

// Service names the push service of an endpoint's host, "other" if it is not one of the
// browser vendors'. It is a bounded label for metrics; a host is not. A vendor has few hosts,
// without a port: push services of one name share lanes, and devices must not add to them.
func Service(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "fcm.googleapis.com", "android.googleapis.com", "jmt17.google.com":
		return serviceGoogle
	case "updates.push.services.mozilla.com":
		return serviceMozilla
	case "web.push.apple.com":
		return serviceApple
	}
	if strings.HasSuffix(host, ".notify.windows.com") { // the part before it is a region
		return serviceWindows
	}
	return serviceOther
}

const (
	// maxAnswer is how much of an answer is read.
	maxAnswer = 16 << 10
	// reasonCutOff is that of a refusal whose own reason was lost.
	reasonCutOff = "answer cut off"
	// windowsRest is how long WNS asks to wait where it names no time.
	windowsRest = 15 * time.Minute
	// helpOtherKey marks the refusal of a subscription that another key made.
	helpOtherKey = "the browser subscribed with another application server key"
	checkKey     = "check fallback.webpush.key_file and contact"
)

// reaction turns an answer into what to do, nil for an accepted push. status and
// header are those of RFC 8030 §5 to §8; each vendor has words of its own.
func reaction(service string, status int, header http.Header, body []byte, now time.Time) error {
	if status >= 200 && status < 300 { // 201; UnifiedPush distributors answer others
		if why := droppedByWindows(service, header); why != "" {
			return &fallback.PushError{StatusCode: status, Reason: why, Throttled: true, RetryAfter: max(windowsRest, backoff.RetryAfter(header.Get("Retry-After"), now))}
		}
		return nil
	}
	reason := reasonOf(body)
	if reason == "" { // WNS says why in a header field
		reason = clean(header.Get("X-Wns-Error-Description"))
	}
	pe := &fallback.PushError{StatusCode: status, Reason: reason, RetryAfter: backoff.RetryAfter(header.Get("Retry-After"), now)}
	switch status {
	case http.StatusNotFound, http.StatusGone:
		pe.TokenGone = true
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		switch {
		case boundToOtherKey(pe.Reason):
			pe.Suspend, pe.Help = true, helpOtherKey
		case aboutCredentials(pe.Reason):
			pe.ConfigFault, pe.Help = true, checkKey
		case status == http.StatusBadRequest:
			pe.Permanent = true
		default: // a device may have registered a URL of the push service that is no endpoint
			pe.Suspend, pe.Help = true, "the push service refuses this subscription; where it refuses all of them, "+checkKey
		}
	case http.StatusNotAcceptable: // WNS throttles with it
		windows := header.Get("X-Wns-Status")
		if service != serviceWindows && windows == "" {
			pe.Permanent = true
			break
		}
		pe.RetryAfter = max(pe.RetryAfter, orElse(pe.RetryAfter, windowsRest))
		if windows == "appthrottled" {
			pe.Busy = true
		} else {
			pe.Throttled = true
		}
	case http.StatusTooManyRequests, http.StatusInsufficientStorage: // ntfy's 507: the endpoint has had no subscriber for long
		pe.Throttled = true
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusMisdirectedRequest:
	default:
		switch {
		case status >= 300 && status < 400:
			pe.Permanent, pe.Reason, pe.Help = true, "redirect", "redirects of push services are not followed"
		case status >= 400 && status < 500: // 405, 413, 415, …
			pe.Permanent = true
		}
	}
	return pe
}

// droppedByWindows returns why WNS has not taken a push although it answers 200 or 201; "":
// it has.
// https://learn.microsoft.com/windows/apps/design/shell/tiles-and-notifications/push-request-response-headers
func droppedByWindows(service string, header http.Header) string {
	if service != serviceWindows {
		return ""
	}
	for _, name := range []string{"X-Wns-Status", "X-Wns-Notificationstatus"} {
		if s := strings.ToLower(header.Get(name)); s == "dropped" || s == "channelthrottled" {
			return s
		}
	}
	return ""
}

// reasonDecides reports whether what to do depends on more than the status.
func reasonDecides(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return true
	}
	return false
}

func orElse(d, other time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return other
}

// otherKey holds the words for a subscription that was made with another application
// server key (RFC 8292 §4.2), in lower case.
var otherKey = []string{
	"vapidpkhashmismatch",       // Apple
	"vapid public key mismatch", // Mozilla: errno 109, as every fault of the Authorization field
	// Google, in the order of their age:
	"unauthorizedregistration", "unauthorized registration", "mismatchsenderid",
	"does not correspond to the sender id", "do not correspond to the credentials",
}

// boundToOtherKey reports whether a refusal names this subscription. Any device can register
// such a one, so it must not pause the push service.
func boundToOtherKey(reason string) bool {
	reason = strings.ToLower(reason)
	if strings.Contains(reason, "public key") && strings.Contains(reason, "channel url") { // WNS
		return true
	}
	return slices.ContainsFunc(otherKey, func(words string) bool { return strings.Contains(reason, words) })
}

// isOtherKey reports whether a push was refused because another key made the subscription.
func isOtherKey(err error) bool {
	pe, ok := errors.AsType[*fallback.PushError](err)
	return ok && pe.Help == helpOtherKey
}

// aboutCredentials reports whether a reason is about the Authorization field, which is the
// same for every push to the service: BadJwtToken, BadAuthorizationHeader, ExpiredJwtToken,
// errno 109.
func aboutCredentials(reason string) bool {
	reason = strings.ToLower(reason)
	if strings.Contains(reason, "authorization required") { // the title of nginx's page for any 401
		return false
	}
	for _, word := range []string{"jwt", "vapid", "authorization"} {
		if strings.Contains(reason, word) {
			return true
		}
	}
	return strings.HasPrefix(reason, vapidErrno)
}

// vapidErrno is Mozilla's number for every fault of the Authorization field: only the
// message tells a wrong token from a subscription with another key.
const vapidErrno = "errno 109"

// reasonOf reads the word for a refusal: Apple's {"reason"}, Mozilla's {"errno",
// "message"}, a line of text, or the title of a page.
func reasonOf(body []byte) string {
	var answer struct {
		Reason  string `json:"reason"`
		Errno   int    `json:"errno"`
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) == nil {
		switch {
		case answer.Reason != "":
			return clean(answer.Reason)
		case answer.Errno != 0:
			reason := "errno " + strconv.Itoa(answer.Errno)
			if reason == vapidErrno && answer.Message != "" {
				reason += ": " + answer.Message
			}
			return clean(reason)
		case answer.Message != "":
			return clean(answer.Message)
		}
		return ""
	}
	text := strings.TrimSpace(string(body))
	if strings.HasPrefix(text, "<") { // of Google's older endpoints, or a proxy's
		if m := pageTitle.FindStringSubmatch(text); m != nil {
			return clean(m[1])
		}
		return ""
	}
	line, _, _ := strings.Cut(text, "\n")
	return clean(line)
}

var pageTitle = regexp.MustCompile(`(?i)<title>([^<]*)</title>`)

// clean keeps a server's text printable and short, and takes out anything that looks
// like the endpoint, which is a secret.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	words := strings.Fields(s)
	for i, w := range words {
		if strings.Contains(w, "://") || len(w) > 64 {
			words[i] = "…"
		}
	}
	s = strings.Join(words, " ")
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return s
}

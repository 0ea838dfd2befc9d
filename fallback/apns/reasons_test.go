package apns

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// TestAnswers gives every answer of Apple's list, and some that are not on it,
// to a push and checks the result. `requests` is how many requests one
// Push makes when the answer is always the same: 2 where it tries again at once.
func TestAnswers(t *testing.T) {
	const (
		retry     = "retry"
		gone      = "gone"
		suspend   = "suspend"
		permanent = "permanent"
		config    = "config"
		throttled = "throttled"
	)
	rows := []struct {
		status   int
		reason   string
		want     string
		requests int
	}{
		{400, "BadCollapseId", permanent, 1},
		{400, "BadDeviceToken", suspend, 1},
		{400, "BadExpirationDate", permanent, 1},
		{400, "BadMessageId", permanent, 1},
		{400, "BadPriority", permanent, 1},
		{400, "BadTopic", config, 1},
		{400, "DeviceTokenNotForTopic", suspend, 1},
		{400, "DuplicateHeaders", permanent, 1},
		{400, "IdleTimeout", retry, 2},
		{400, "InvalidPushType", permanent, 1},
		{400, "MissingDeviceToken", permanent, 1},
		{400, "MissingTopic", config, 1},
		{400, "PayloadEmpty", permanent, 1},
		{400, "TopicDisallowed", suspend, 1},
		{403, "BadCertificate", config, 1},
		{403, "BadCertificateEnvironment", config, 1},
		{403, "BadEnvironmentKeyIdInToken", config, 1},
		{403, "ExpiredProviderToken", config, 1}, // the token is fresh: no new one
		{403, "Forbidden", config, 1},
		{403, "InvalidProviderToken", config, 1},
		{403, "MissingProviderToken", config, 1},
		{403, "UnrelatedKeyIdInToken", config, 2},
		{404, "BadPath", permanent, 1},
		{405, "MethodNotAllowed", permanent, 1},
		{410, "ExpiredToken", gone, 1},
		{410, "Unregistered", gone, 1},
		{413, "PayloadTooLarge", permanent, 1}, // it is short already
		{429, "TooManyProviderTokenUpdates", config, 1},
		{429, "TooManyRequests", throttled, 1},
		{500, "InternalServerError", retry, 1},
		{503, "ServiceUnavailable", retry, 1},
		{503, "Shutdown", retry, 2},

		// Not on the list: by status.
		{302, "", config, 1},
		{400, "SomethingNew", permanent, 1},
		{401, "", config, 1},
		{403, "FeatureNotEnabled", config, 1},
		{404, "", config, 1}, // a proxy, or a wrong endpoint
		{405, "", config, 1},
		{404, "SomethingNew", permanent, 1},
		{407, "", config, 1},
		{408, "", retry, 2},
		{410, "SomethingNew", gone, 1},
		{421, "", retry, 2},
		{429, "", throttled, 1},
		{502, "", retry, 1},
		{202, "", retry, 1},
	}
	published := map[string]bool{}
	s := startSim(t, apnssim.Options{})
	for _, row := range rows {
		published[fmt.Sprint(row.status, row.reason)] = true
		t.Run(fmt.Sprintf("%d_%s", row.status, row.reason), func(t *testing.T) {
			a := apnsFor(t, s)
			s.Clear()
			s.ClearScripts()
			s.Script(apnssim.Script{Status: row.status, Reason: row.reason, RetryAfter: "7", Timestamp: 1700000000123})
			_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Device: "phone", Registration: delivery.Registration{Token: deviceToken}, Notification: note("n"), Attempt: 1})
			var pe *fallback.PushError
			if !errors.As(err, &pe) {
				t.Fatalf("got %v, want a *fallback.PushError", err)
			}
			if pe.StatusCode != row.status || pe.Reason != row.reason {
				t.Errorf("got %d %q", pe.StatusCode, pe.Reason)
			}
			flags := map[string]bool{gone: pe.TokenGone, suspend: pe.Suspend, permanent: pe.Permanent, config: pe.ConfigFault, throttled: pe.Throttled}
			for name, set := range flags {
				if set != (name == row.want) {
					t.Errorf("%s is %v, want %s: %+v", name, set, row.want, pe)
				}
			}
			if row.want == gone && !pe.GoneSince.Equal(time.UnixMilli(1700000000123)) {
				t.Errorf("gone since %v", pe.GoneSince)
			}
			if pe.RetryAfter < 7*time.Second {
				t.Errorf("Retry-After is lost: %v", pe.RetryAfter)
			}
			if got := s.Received(); len(got) != row.requests {
				t.Errorf("%d requests, want %d", len(got), row.requests)
			} else if row.requests == 2 && (got[0].Connection == got[1].Connection || got[0].APNsID != got[1].APNsID) {
				t.Errorf("the second request must use another connection and the same apns-id: %+v", got)
			}
			if strings.Contains(pe.Error(), deviceToken) {
				t.Errorf("the error tells the device token: %v", pe)
			}
		})
	}
	for _, a := range answers {
		if !published[fmt.Sprint(a.status, a.reason)] {
			t.Errorf("%d %s has no row here", a.status, a.reason)
		}
	}
}

// clientOf starts a server that stands in Apple's place, and returns a client of it.
func clientOf(t *testing.T, s *httptest.Server) *Client {
	t.Helper()
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	k, err := apnssim.NewKey("ABC123DEFG", "DEF123GHIJ")
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{
		Apps: []App{{Topic: topic, KeyPEM: k.PEM, KeyID: k.KeyID, TeamID: k.TeamID}}, Endpoint: s.URL,
		CAPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// TestAnswerCutOff: a 200 is an acceptance, also without the rest of the answer. A refusal is no
// verdict without its reason.
func TestAnswerCutOff(t *testing.T) {
	var status atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(int(status.Load()))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	a := clientOf(t, s)
	push := func(code int32) error {
		status.Store(code)
		_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")})
		return err
	}
	if err := push(200); err != nil {
		t.Errorf("a 200: %v", err)
	}
	for _, code := range []int32{400, 403, 404, 410, 429} {
		want := fallback.PushError{StatusCode: int(code), Reason: "AnswerCutOff", RetryAfter: 7 * time.Second}
		if pe := (*fallback.PushError)(nil); !errors.As(push(code), &pe) || *pe != want {
			t.Errorf("%d: got %+v", code, pe)
		}
	}
}

func TestAnswerWithoutJSON(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	push := func() *fallback.PushError {
		t.Helper()
		_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")})
		var pe *fallback.PushError
		if !errors.As(err, &pe) {
			t.Fatalf("got %v", err)
		}
		return pe
	}
	for _, c := range []struct {
		script apnssim.Script
		status int
		reason string
	}{
		{apnssim.Script{Status: 503, Body: "<html>bad gateway</html>"}, 503, ""},
		{apnssim.Script{Status: 502, Body: strings.Repeat("x", 100_000)}, 502, ""},
		{apnssim.Script{Status: 500, Body: `{"reason":"` + strings.Repeat("y", 3000) + `"}`}, 500, strings.Repeat("y", 64)},
		{apnssim.Script{Status: 500, Body: `{"reason":"a\nb c"}`}, 500, "abc"},
		{apnssim.Script{Status: 410, Body: `{"reason":"Unregistered","timestamp":"1700000000123"}`}, 410, "Unregistered"},
		{apnssim.Script{Status: 410, Body: `{"reason":"Unregistered","timestamp":"yesterday"}`}, 410, "Unregistered"},
		{apnssim.Script{Status: 410, Body: `[]`}, 410, ""},
	} {
		c.script.Times = 1
		s.Script(c.script)
		pe := push()
		if pe.StatusCode != c.status || pe.Reason != c.reason {
			t.Errorf("%.60s: got %d %q", c.script.Body, pe.StatusCode, pe.Reason)
		}
		if timed := strings.Contains(c.script.Body, "1700000000123"); c.status == 410 && (pe.TokenGone != timed || pe.Suspend == timed) {
			t.Errorf("%s: a 410 proves the end of a token by its timestamp alone: %+v", c.script.Body, pe)
		}
		if strings.Contains(c.script.Body, `"1700000000123"`) && !pe.GoneSince.Equal(time.UnixMilli(1700000000123)) {
			t.Errorf("a timestamp in quotes is lost: %v", pe.GoneSince)
		}
	}
	s.Script(apnssim.Script{Status: 200, Body: "garbage", Times: 1})
	if _, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")}); err != nil {
		t.Errorf("200 with a body: %v", err)
	}
}

// TestPayloadTooLargeIsShortened: Apple's limit is not ours to know for ever.
func TestPayloadTooLargeIsShortened(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	n := note("long")
	n.Body = strings.Repeat("words ", 300)
	s.Script(apnssim.Script{Status: 413, Reason: "PayloadTooLarge", Times: 1})
	if _, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: n}); err != nil {
		t.Fatal(err)
	}
	got := s.Received()
	if len(got) != 2 || len(got[1].Payload) > shortPayload || got[0].APNsID != got[1].APNsID {
		t.Fatalf("%d requests, the second of %d bytes", len(got), len(got[1].Payload))
	}
}

// TestGone: the time is Apple's, in milliseconds; the core decides its meaning for
// the token at hand, since it knows when the token was registered.
func TestGone(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, s)}})
	at := time.UnixMilli(1750000000789)
	s.Script(apnssim.Script{Token: "aa", Status: 410, Reason: "Unregistered", Timestamp: at.UnixMilli()})
	s.Script(apnssim.Script{Token: "bb", Status: 400, Reason: "BadDeviceToken"})
	res := do(t, r, pushTo("aa", "n1"))
	if res.Outcome != delivery.PushTokenGone || !res.GoneSince.Equal(at) || res.Detail != "410 Unregistered" {
		t.Errorf("%+v", res)
	}
	res = do(t, r, pushTo("bb", "n1"))
	if res.Outcome != delivery.PushTokenSuspended || !strings.Contains(res.Config, s.Key().KeyID) || !strings.Contains(res.Detail, "sandbox") {
		t.Errorf("%+v", res)
	}
}

func TestPushOfUnknownApp(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	_, err := a.Push(context.Background(), fallback.Request{App: fallback.App{Server: delivery.ServerAPNs, Name: "other"}, Registration: delivery.Registration{Token: "aa"}, Notification: note("n")})
	if !errors.Is(err, fallback.ErrNotConfigured) {
		t.Error(err)
	}
	// A token that is no hex never gets into a path.
	_, err = a.Push(context.Background(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: "aa/../../x?y=1"}, Notification: note("n")})
	var pe *fallback.PushError
	if !errors.As(err, &pe) || !pe.Suspend || pe.TokenGone || len(s.Received()) != 0 {
		t.Errorf("%+v, %d requests", pe, len(s.Received()))
	}
}

// TestDismissalTooLarge: no shorter form of a dismissal would still be one.
func TestDismissalTooLarge(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	s.Script(apnssim.Script{Status: 413, Reason: "PayloadTooLarge", Times: 1})
	n := note("n")
	n.Title, n.Body, n.CollapseKey = "", "", strings.Repeat("k", 64)
	_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Device: "phone", Registration: delivery.Registration{Token: deviceToken}, Notification: n, Dismiss: true, Attempt: 1})
	if pe, ok := errors.AsType[*fallback.PushError](err); !ok || !pe.Permanent || len(s.Received()) != 1 {
		t.Errorf("got %v after %d requests", err, len(s.Received()))
	}
}

// TestWebPage: a portal answers 200 to everything on a connection. That is no acceptance, and the next
// push is made on another connection.
func TestWebPage(t *testing.T) {
	var portal atomic.Value // the client's address of the first connection
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if portal.CompareAndSwap(nil, r.RemoteAddr); portal.Load() != r.RemoteAddr {
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>Sign in</html>"))
	}))
	a := clientOf(t, s)
	push := func() error {
		_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Registration: delivery.Registration{Token: deviceToken}, Notification: note("n")})
		return err
	}
	err := push()
	if pe, ok := errors.AsType[*fallback.PushError](err); !ok || !pe.ConfigFault {
		t.Errorf("got %v, want a pause", err)
	}
	if err := push(); err != nil {
		t.Errorf("the next push: %v", err)
	}
}

package fcmsim_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/fallbacktest"
	"github.com/heartline-mqtt/heartline/fallback/fcm"
	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
	"github.com/heartline-mqtt/heartline/internal/simkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o fcmsim.Options, style string) (*fcmsim.Server, *fcm.Pusher) {
	t.Helper()
	s, err := fcmsim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	p, err := fcm.New(fcm.Config{Apps: []fcm.App{{ServiceAccount: s.ServiceAccount(), Style: style}}, Endpoint: s.URL(), RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return s, p
}

func push(t *testing.T, p *fcm.Pusher, r delivery.Registration, change func(*delivery.Notification)) (string, *fallback.PushError) {
	t.Helper()
	now := time.Now()
	n := &delivery.Notification{ID: "a", Account: "anna", Title: "Title", Body: "Body", Urgency: delivery.UrgencyHigh, AcceptedAt: now, ExpiresAt: now.Add(30 * 24 * time.Hour)}
	change(n)
	receipt, err := p.Push(t.Context(), fallback.Request{App: p.Apps()[0], Device: "phone", Registration: r, Notification: n, Attempt: 1})
	pe, _ := errors.AsType[*fallback.PushError](err)
	if err != nil && pe == nil {
		t.Fatal(err)
	}
	return receipt, pe
}

var phone = delivery.Registration{Server: delivery.ServerFCM, Kind: delivery.KindAlert, Form: delivery.FormToken, Token: "token-1"}

// TestPushes: a strict stand-in for Google takes Heartline's messages in both styles and
// both forms of registration.
func TestPushes(t *testing.T) {
	for _, style := range []string{fcm.StyleNotification, fcm.StyleData} {
		s, p := start(t, fcmsim.Options{}, style)
		fid := phone
		fid.Form, fid.Token = delivery.FormFID, "cXyZ-1_2cXyZ-1_2cXyZ-1"
		for _, r := range []delivery.Registration{phone, fid} {
			for range 2 {
				receipt, pe := push(t, p, r, func(n *delivery.Notification) { n.Body = strings.Repeat("ü", 4000) })
				if pe != nil || !strings.HasPrefix(receipt, "0:") {
					t.Fatalf("%s: got %q, %v", style, receipt, pe)
				}
			}
			want := 1 // one tip: the second has the same tag
			if style == fcm.StyleData {
				want = 2 // the app decides
			}
			if got := s.Shown(r.Token); len(got) != want || got[0].FID != (r.Form == delivery.FormFID) {
				t.Errorf("%s: the phone shows %+v", style, got)
			}
		}
		s.Unregister(phone.Token)
		if _, pe := push(t, p, phone, func(*delivery.Notification) {}); pe == nil || !pe.TokenGone {
			t.Errorf("%s: after an unregistration: %v", style, pe)
		}
	}
}

func TestRefusals(t *testing.T) {
	s, p := start(t, fcmsim.Options{}, "")
	for overlay, want := range map[string]string{
		`{"payload":{"android":{"ttl":"2419201s"}}}`:                                 "INVALID_ARGUMENT",
		`{"payload":{"android":{"priority":"MAX"}}}`:                                 "INVALID_ARGUMENT",
		`{"payload":{"android":{"made_up":1}}}`:                                      "INVALID_ARGUMENT",
		`{"payload":{"android":{"notification":{"colour":"#ff6600"}}}}`:              "INVALID_ARGUMENT",
		`{"payload":{"android":{"notification":{"notification_count":2147483648}}}}`: "INVALID_ARGUMENT",
	} {
		_, pe := push(t, p, phone, func(n *delivery.Notification) {
			n.Overlay = &delivery.Overlay{FCM: json.RawMessage(overlay)}
		})
		if pe == nil || pe.Reason != want || !pe.Permanent {
			t.Errorf("%s: got %v", overlay, pe)
		}
	}
	_, pe := push(t, p, phone, func(n *delivery.Notification) {
		n.Overlay = &delivery.Overlay{FCM: json.RawMessage(`{"payload":{"apns":{"payload":{"aps":{"sound":"x"}}},"webpush":{"fcm_options":{"link":"https://a.example"}},"android":{"fcm_options":{"analytics_label":"x"},"notification":{"color":"#ff6600"}}}}`)}
	})
	if pe != nil {
		t.Errorf("members that Google knows: %v", pe)
	}
	if err := s.Scripts.Add(simkit.Script{Status: 429, RetryAfter: "90", Times: 1}); err != nil {
		t.Fatal(err)
	}
	if _, pe := push(t, p, phone, func(*delivery.Notification) {}); pe == nil || !pe.Busy || pe.RetryAfter != 90*time.Second {
		t.Errorf("got %v", pe)
	}
}

func TestSilentConnection(t *testing.T) {
	s, p := start(t, fcmsim.Options{}, "")
	fallbacktest.SilentConnection(t, p, phone, s.Silence, func() error {
		return s.Scripts.Add(simkit.Script{Action: simkit.ActionSilence, Times: 1})
	})
}

// TestOAuth: an access token lives as long as Google says; the account can be revoked.
func TestOAuth(t *testing.T) {
	s, p := start(t, fcmsim.Options{TokenLife: time.Second}, "")
	s.SetOAuth(true, false)
	if _, pe := push(t, p, phone, func(*delivery.Notification) {}); pe == nil || pe.ConfigFault || pe.Permanent {
		t.Errorf("the token endpoint is down: %v", pe)
	}
	s.SetOAuth(false, true)
	if _, pe := push(t, p, phone, func(*delivery.Notification) {}); pe == nil || !pe.ConfigFault {
		t.Errorf("the key is revoked: %v", pe)
	}
	s.SetOAuth(false, false)
	if _, pe := push(t, p, phone, func(*delivery.Notification) {}); pe != nil {
		t.Errorf("all is well: %v", pe)
	}
}

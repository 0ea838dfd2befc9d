// Package fallbacktest holds the tests that every fallback.Pusher has to pass. A
// new notification server's own tests call Run in addition to those of its answers.
package fallbacktest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
)

// Harness is a Pusher in front of a stand-in for its server.
type Harness struct {
	// New makes a Pusher whose server accepts correct requests.
	New func(t *testing.T) fallback.Pusher
	// Token is a good one as a device would register it.
	Token delivery.Registration
	// Bad are tokens that must not be registered.
	Bad []delivery.Registration
	// Hang makes the server take requests and not answer them, from now on.
	Hang func()
	// Sent tells the identities of the requests that the server has accepted: what
	// makes it, or the device, show one copy.
	Sent func() []string
}

// Run runs the tests.
func Run(t *testing.T, h Harness) {
	note := func(id string) *delivery.Notification {
		now := time.Now()
		return &delivery.Notification{ID: id, Account: "anna", Title: "Title", Body: "Body", Urgency: delivery.UrgencyHigh, Fallback: true, AcceptedAt: now, ExpiresAt: now.Add(time.Hour)}
	}
	request := func(t *testing.T, p fallback.Pusher, id string) fallback.Request {
		t.Helper()
		tok, err := p.Normalize(h.Token)
		if err != nil {
			t.Fatal(err)
		}
		return fallback.Request{
			App:    fallback.App{Server: tok.Server, Name: tok.App, Environment: tok.Environment},
			Device: "device", Registration: tok, Notification: note(id), Attempt: 1,
		}
	}
	start := func(t *testing.T) fallback.Pusher {
		t.Helper()
		p := h.New(t)
		t.Cleanup(func() {
			for range 2 { // Close may be called twice
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
		})
		return p
	}

	t.Run("Apps", func(t *testing.T) {
		p := start(t)
		apps := p.Apps()
		if len(apps) == 0 {
			t.Fatal("serves no app")
		}
		for i, a := range apps {
			if a.Server == "" || a.Server != apps[0].Server || a != p.Apps()[i] {
				t.Errorf("%+v", a)
			}
			if p.Concurrency(a) < 1 {
				t.Errorf("%s: no request may ever be made", a)
			}
		}
	})

	t.Run("Normalize", func(t *testing.T) {
		p := start(t)
		once, err := p.Normalize(h.Token)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := p.Normalize(once); err != nil || !reflect.DeepEqual(twice, once) {
			t.Errorf("a token has two spellings: %+v, %+v, %v", once, twice, err)
		}
		known := false
		for _, a := range p.Apps() {
			known = known || a == fallback.App{Server: once.Server, Name: once.App, Environment: once.Environment}
		}
		if !known {
			t.Errorf("%+v names none of %v", once, p.Apps())
		}
		for _, bad := range h.Bad {
			_, err := p.Normalize(bad)
			if err == nil {
				t.Errorf("%+v is taken", bad)
			} else if secret := leaks(err.Error(), bad); secret != "" {
				t.Errorf("the error tells %q of the registration: %v", secret, err)
			}
		}
	})

	t.Run("Fits", func(t *testing.T) {
		p := start(t)
		if err := p.Fits(note("n")); err != nil {
			t.Error(err)
		}
		n := note("n")
		n.Title, n.Body = strings.Repeat("t", 1024), strings.Repeat("\"<ü", 256)
		if err := p.Fits(n); err != nil {
			t.Errorf("what the API accepts: %v", err)
		}
		n.Category = strings.Repeat("c", 1<<20)
		if err := p.Fits(n); err == nil {
			t.Error("a megabyte fits")
		}
	})

	t.Run("Push", func(t *testing.T) {
		p := start(t)
		before := len(h.Sent())
		for range 2 {
			if _, err := p.Push(t.Context(), request(t, p, "same")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.Push(t.Context(), request(t, p, "other")); err != nil {
			t.Fatal(err)
		}
		sent := h.Sent()[before:]
		if len(sent) != 3 || sent[0] != sent[1] || sent[0] == sent[2] {
			t.Errorf("identities: %v", sent)
		}
	})

	t.Run("PushEndsWithItsContext", func(t *testing.T) {
		p := start(t)
		h.Hang()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		r := request(t, p, "hangs")
		returned := make(chan error, 1)
		go func() { _, err := p.Push(ctx, r); returned <- err }()
		select {
		case err := <-returned:
			var pe *fallback.PushError
			if !errors.As(err, &pe) || pe.Permanent || pe.TokenGone || pe.ConfigFault {
				t.Errorf("got %v, want a passing *PushError", err)
			} else if secret := leaks(err.Error(), r.Registration); secret != "" {
				t.Errorf("the error tells %q of the registration: %v", secret, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("Push does not end with its context")
		}
	})
}

// leaks returns a secret of r that text holds, "" if there is none. Of a token that is a
// URL the path and the query are secret, the host is not; a part of a secret is one, too.
func leaks(text string, r delivery.Registration) string {
	token, least := r.Token, 4
	if u, err := url.Parse(token); err == nil && u.Host != "" {
		token = u.Path + " " + u.RawQuery + " " + u.User.String()
		least = 8 // a short part is a word of the path
	}
	secrets := strings.FieldsFunc(token, func(c rune) bool { return strings.ContainsRune("/?&= :", c) })
	for _, key := range [][]byte{r.P256dh, r.Auth} {
		secrets = append(secrets, base64.RawURLEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key), hex.EncodeToString(key))
	}
	for _, secret := range secrets {
		// Long ones are often cut: their first characters tell enough.
		if secret = secret[:min(len(secret), 16)]; len(secret) >= least && strings.Contains(text, secret) {
			return secret
		}
	}
	return ""
}

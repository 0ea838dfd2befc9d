package broker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/crypto/bcrypt"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestAttachWithRulesThatWouldForbidNothing: in a server whose own hooks decide,
// auth.acl is refused and not ignored.
func TestAttachWithRulesThatWouldForbidNothing(t *testing.T) {
	var o broker.Options
	o.Store.Engine = config.EngineMemory
	o.Auth.ACL = []config.ACLEntry{{Filter: "secret/#", Access: config.AccessDeny}}
	if _, err := broker.Attach(mqtt.New(nil), o); err == nil || !strings.HasPrefix(err.Error(), "auth.acl: ") {
		t.Errorf("got %v", err)
	}
}

// aliceAlone are the options of a plugin with one user, whose password is "wonder".
func aliceAlone(t *testing.T) (o broker.Options) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("wonder"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(users, fmt.Appendf(nil, "users: [{name: alice, password_hash: %q}]\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Store.Engine = config.EngineMemory
	o.Auth.Mode, o.Auth.File.Path = config.AuthFile, users
	return o
}

// TestAttachAuthenticates: auth.mode holds in a plugin as it does in the program.
func TestAttachAuthenticates(t *testing.T) {
	o := aliceAlone(t)

	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := server.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	heartline, err := broker.Attach(server, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := heartline.Close(t.Context()); err != nil {
			t.Error(err)
		}
		server.Listeners.ClientsWg.Wait() // mochi's Close can hang where a client goes in between
		_ = server.Close()                // it has no error to return
	}()
	for password, want := range map[string]byte{
		"wonder": packets.CodeSuccess.Code, "wander": packets.ErrBadUsernameOrPassword.Code, "": packets.ErrBadUsernameOrPassword.Code,
	} {
		c, err := rawmqtt.Dial(tcp.Address(), 5)
		if err != nil {
			t.Fatal(err)
		}
		pk, err := c.Connect(rawmqtt.Connect{ID: "phone", Username: "alice", Password: password, Keepalive: 60})
		if pk.ReasonCode != want || want == packets.CodeSuccess.Code && err != nil {
			t.Errorf("password %q: reason code 0x%02x, want 0x%02x (%v)", password, pk.ReasonCode, want, err)
		}
		c.Close()
	}
}

// TestAPIHandler: a host's own authorization lets a request through as an admin's, and its refusal
// is a problem; without one the passwords of auth.mode count for what a device calls.
func TestAPIHandler(t *testing.T) {
	o := aliceAlone(t)
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	heartline, err := broker.Attach(server, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := heartline.Close(t.Context()); err != nil {
			t.Error(err)
		}
		_ = server.Close()
	}()
	for _, device := range []string{"phone", "watch"} {
		if err := heartline.PutDevice(t.Context(), "alice", device, nil); err != nil {
			t.Fatal(err)
		}
	}
	ours := heartline.APIHandler(func(r *http.Request) error {
		if r.Header.Get("X-Api-Key") != "secret" {
			return errors.New("send your key")
		}
		return nil
	})
	call := func(h http.Handler, method, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		change(r)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	key := func(r *http.Request) { r.Header.Set("X-Api-Key", "secret") }
	none := func(*http.Request) {}
	if w := call(ours, "GET", "/v1/devices", "", none); w.Code != 401 || w.Header().Get("Content-Type") != "application/problem+json" || !strings.Contains(w.Body.String(), "send your key") {
		t.Errorf("refused by the host: %d %s", w.Code, w.Body)
	}
	if w := call(ours, "POST", "/v1/notifications", `{"account":"alice","title":"x","id":"one"}`, key); w.Code != 202 {
		t.Errorf("a notification: %d %s", w.Code, w.Body)
	}
	if w := call(ours, "POST", "/v1/devices/phone/disconnect", "", key); w.Code != 404 { // it is not connected
		t.Errorf("a call of admins: %d %s", w.Code, w.Body)
	}
	own := heartline.APIHandler(nil)
	const ack = `{"device":"phone","status":"received"}`
	for password, want := range map[string]int{"wonder": 204, "wrong": 401} {
		if w := call(own, "POST", "/v1/notifications/one/acks", ack, func(r *http.Request) { r.SetBasicAuth("alice", password) }); w.Code != want {
			t.Errorf("an ack with the password %q: %d %s", password, w.Code, w.Body)
		}
	}
}

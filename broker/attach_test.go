package broker_test

import (
	"fmt"
	"log/slog"
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

// TestAttachAuthenticates: auth.mode holds in a plugin as it does in the program.
func TestAttachAuthenticates(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("wonder"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(users, fmt.Appendf(nil, "users: [{name: alice, password_hash: %q}]\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	var o broker.Options
	o.Store.Engine = config.EngineMemory
	o.Auth.Mode, o.Auth.File.Path = config.AuthFile, users

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

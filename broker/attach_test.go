package broker_test

import (
	"strings"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
)

// TestAttachWithRulesThatWouldForbidNothing: in a server whose own hooks decide,
// auth.acl is refused and not ignored.
func TestAttachWithRulesThatWouldForbidNothing(t *testing.T) {
	cfg := config.Default()
	cfg.Store.Engine = config.EngineMemory
	cfg.Auth.ACL = []config.ACLEntry{{Filter: "secret/#", Access: config.AccessDeny}}
	if _, err := broker.Attach(mqtt.New(nil), cfg); err == nil || !strings.HasPrefix(err.Error(), "auth.acl: ") {
		t.Errorf("got %v", err)
	}
}

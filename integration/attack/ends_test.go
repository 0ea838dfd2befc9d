package attack

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestPermissionEnds: a connection and an event stream end within seconds when the token
// that opened them has expired.
func TestPermissionEnds(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode = config.AuthJWT
		a.cfg.Auth.JWT = config.AuthFromJWT{SecretFile: a.write("secret", []byte(secret))}
	})
	// The clocks of issuer and server may be half a minute apart (docs/security.md).
	const leeway = 30 * time.Second
	expires := time.Now().Add(3 * time.Second)
	token := func(more string) string {
		return sign(secret, `{"alg":"HS256"}`, fmt.Sprintf(`{"sub":"bob","exp":%d%s}`, expires.Add(-leeway).Unix(), more))
	}
	rows.Add(2)
	c := a.dial("tcp", 5)
	if pk, err := c.Connect(rawmqtt.Connect{ID: "bob-phone", Password: token(""), Clean: true, Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
		t.Fatalf("bob: 0x%02x %v", pk.ReasonCode, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.broker.HTTPAddr()+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token(`,"heartline_role":"service"`))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the event stream: %s", resp.Status)
	}
	const within = time.Minute
	closer := time.AfterFunc(time.Until(expires)+within, func() { _ = resp.Body.Close() })
	defer closer.Stop()
	var last string
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			last = line
		}
	}
	if took := time.Since(expires); took < -2*time.Second || took >= within {
		t.Errorf("the event stream ended %v after its token, with %q", took, last)
	} else {
		t.Logf("the event stream ended %v after its token", took.Round(time.Millisecond))
	}
	pk, err := c.Read(within)
	if err != nil || pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("the connection: %+v 0x%02x %v", pk.FixedHeader, pk.ReasonCode, err)
	}
	if got := a.call("GET", "/v1/events", token(`,"heartline_role":"service"`), ""); got.status != http.StatusUnauthorized {
		t.Errorf("the expired token: %d", got.status)
	}
}

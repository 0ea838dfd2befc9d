package cmd

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTerminalMistakes(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("what\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--background", "--foreground"}, "[background foreground] were all set", 2},
		{[]string{"--ack", "shown"}, `--ack: must be displayed, read or received, got "shown"`, 2},
		{[]string{"--token-topic", "com.example.app"}, "a --token, which is missing", 2},
		{[]string{"--server", "http://localhost:8080"}, "mqtt://, mqtts://, ws:// or wss://", 2},
		{[]string{"--keepalive", "500ms"}, "keepalive: must be whole seconds", 2},
		{[]string{"--password-file", "missing"}, "--password-file: open missing", 2},
		{[]string{"--ca-file", garbage}, "holds no certificate in PEM", 2},
		{[]string{"--seen-file", garbage}, "line 1 is not one of ours", 1},
	} {
		got := command(t, nil, "", append([]string{"terminal", "--account", "alice", "--device", "phone"}, tt.args...)...)
		if got.code != tt.code || got.stdout != "" || !strings.Contains(got.stderr, tt.want) {
			t.Errorf("%q: got %+v, want %q", tt.args, got, tt.want)
		}
	}
	if got := command(t, nil, "", "terminal", "--account", "alice"); got.code != 2 || !strings.Contains(got.stderr, `"device" not set`) {
		t.Errorf("got %+v", got)
	}
}

// TestTerminalWithoutABroker: the first connection is to succeed, or it is said
// what to do.
func TestTerminalWithoutABroker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "mqtt://" + l.Addr().String()
	_ = l.Close()
	got := command(t, nil, "", "terminal", "--account", "alice", "--device", "phone", "--server", address)
	if got.code != 1 || !strings.Contains(got.stderr, "nothing listens on "+address+": start a server with") {
		t.Errorf("got %+v", got)
	}
}

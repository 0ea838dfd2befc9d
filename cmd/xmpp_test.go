package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/xmpp/xmpptest"
)

// TestXMPPCheck: each link is tried, each fault is named with its key and its remedy, and one
// fault is enough for the exit code.
func TestXMPPCheck(t *testing.T) {
	server := xmpptest.New(t, "push.example.org", "secret")
	server.SetHosts("example.org")
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad := write("good", "secret\n"), write("bad", "another")
	entry := func(domain, address, secret, host string) string {
		return "    - {domain: " + domain + ", address: '" + address + "', secret_file: " + secret + ", hosts: [" + host + "]}\n"
	}
	check := func(components string) outcome {
		t.Helper()
		return command(t, nil, "", "xmpp", "check", "--config", write("heartline.yaml", "xmpp:\n  components:\n"+components))
	}
	works := entry("push.example.org", server.Addr(), good, "example.org")
	if got := check(works); got.code != exitOK || !strings.Contains(got.stdout, "xmpp.components[0]: component push.example.org at "+server.Addr()+": connected") {
		t.Errorf("got %+v", got)
	}
	for name, tt := range map[string]struct{ entry, want string }{
		"wrong secret":   {entry("push.example.org", server.Addr(), bad, "example.net"), "secret"},
		"unknown domain": {entry("other.example.org", server.Addr(), good, "example.net"), "no component of this name"},
		"unknown host":   {entry("push.example.org", server.Addr(), good, "example.net"), "hosts: example.net is no host of this server"},
		"nobody there":   {entry("other.example.org", "127.0.0.1:1", good, "example.net"), "nothing listens there"},
	} {
		got := check(tt.entry)
		if got.code != exitFailure || !strings.Contains(got.stderr, "xmpp.components[0]: ") || !strings.Contains(got.stderr, tt.want) || !strings.Contains(got.stderr, "1 of 1 links cannot be had") {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	two := check(entry("push.example.org", server.Addr(), good, "example.org") + entry("other.example.org", "127.0.0.1:1", good, "example.net"))
	if two.code != exitFailure || !strings.Contains(two.stdout, "connected") || !strings.Contains(two.stderr, "1 of 2 links cannot be had") {
		t.Errorf("got %+v", two)
	}
	if got := command(t, nil, "", "xmpp", "check"); got.code != exitFailure || !strings.Contains(got.stderr, "xmpp.components is empty") {
		t.Errorf("got %+v", got)
	}
	if got := command(t, nil, "", "xmpp"); got.code != exitUsage || !strings.Contains(got.stderr, "xmpp check") {
		t.Errorf("got %+v", got)
	}
}

// TestDemoXMPPWithoutServers: the error says what to install.
func TestDemoXMPPWithoutServers(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	got := command(t, nil, "", "demo", "--xmpp")
	if got.code != exitFailure || !strings.Contains(got.stderr, "apt-get install ejabberd") || !strings.Contains(got.stderr, "apt-get install prosody") {
		t.Errorf("got %+v", got)
	}
}

package webpush

import (
	"net/netip"
	"strings"
	"testing"
)

func TestEndpoint(t *testing.T) {
	for _, tt := range []struct{ endpoint, want string }{
		{"https://push.example/x", "https://push.example/x"},
		{"https://PUSH.example:443/X?y=z", "https://push.example/X?y=z"},
		{"https://push.example:8443/x", "https://push.example:8443/x"},
		{"https://[2606:4700::1111]:443/x", "https://[2606:4700::1111]/x"},
		{"http://push.example/x", ""},
		{"https://user:password@push.example/x", ""},
		{"https://push.example/x#fragment", ""},
		{"https://push.example/x#", ""},
		{"https://push.example:22/x", ""},
		{"https://push.example:/x", ""},
		{"https://push.example:65536/x", ""},
		{"https:push.example", ""},
		{"https:///x", ""},
		{"//push.example/x", ""},
		{"https://push.exämple/x", ""},
		{"https://push.example\r\nHost: other/x", ""},
		{"https://[fe80::1%25eth0]/x", ""},
		{"", ""},
		{"https://push.example/" + strings.Repeat("x", maxEndpoint), ""},
	} {
		u, err := parseEndpoint(tt.endpoint)
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%q was taken", tt.endpoint)
		case tt.want == "" && len(tt.endpoint) > 8 && strings.Contains(err.Error(), tt.endpoint):
			t.Errorf("the error repeats the endpoint: %v", err)
		case tt.want != "" && (err != nil || u.String() != tt.want):
			t.Errorf("%q: got %v, %v; want %s", tt.endpoint, u, err, tt.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	g := &guard{}
	for address, want := range map[string]bool{
		"8.8.8.8": true, "64:ff9b::808:808": true, "2606:4700::1111": true,
		"127.0.0.1": false, "127.8.8.8": false, "0.0.0.0": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "192.0.0.8": false, "198.18.0.1": false, "224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::1": false, "::": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::127.0.0.1": false, "fe80::1": false, "fc00::1": false, "fec0::1": false, "ff02::1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a00:1": false, "64:ff9b::6440:1": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2001::1": false, "2001:db8::1": false,
	} {
		if got := g.address(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: allowed %v, want %v", address, got, want)
		}
	}
	g.private = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	if !g.address(netip.MustParseAddr("10.1.2.3")) || !g.address(netip.MustParseAddr("::ffff:10.1.2.3")) || g.address(netip.MustParseAddr("10.2.0.1")) {
		t.Error("allow_private must open its own range and no other")
	}
}

func TestHostPatterns(t *testing.T) {
	g := &guard{allow: []string{"*.push.example", "push.example.org", "p*.example.net", "ntfy.*"}}
	for host, want := range map[string]bool{
		"a.push.example": true, "a.b.push.example": true, "push.example": false, "evilpush.example": false,
		"push.example.org": true, "push.example.org.evil.example": false, "p1.example.net": true, "x1.example.net": false, "ntfy.sh": true, "ntfy.evil.example": false, "": false,
	} {
		if got := g.host(host); got != want {
			t.Errorf("%q: allowed %v, want %v", host, got, want)
		}
	}
}

package loopback_test

import (
	"testing"

	"github.com/heartline-mqtt/heartline/internal/loopback"
)

func TestHost(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "localhost": true, "LOCALHOST": true, "localhost.": true, "::ffff:127.0.0.1": true,
		"": false, ".": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "example.com": false, "localhost.example.com": false,
	} {
		if got := loopback.Host(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}

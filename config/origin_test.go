package config_test

import (
	"testing"

	"github.com/heartline-mqtt/heartline/config"
)

func TestOriginPattern(t *testing.T) {
	for entry, want := range map[string]string{
		"*":                              "*",
		"https://app.example.org":        "https://app.example.org",
		"https://app.example.org/":       "https://app.example.org",
		"HTTPS://App.example.org":        "https://app.example.org",
		"https://app.example.org:443":    "https://app.example.org",
		"http://app.example.org:80":      "http://app.example.org",
		"http://app.example.org:443":     "http://app.example.org:443",
		"https://*.example.org":          "https://*.example.org",
		"*.example.org":                  "*.example.org",
		"*.example.org:8443":             "*.example.org:8443",
		"localhost:*":                    "localhost:*",
		"http://192.0.2.7:3000":          "http://192.0.2.7:3000",
		"http://[::1]:3000":              "http://[::1]:3000",
		"[::1]":                          "[::1]",
		"http://[0:0:0:0:0:0:0:1]:3000/": "http://[::1]:3000",
		"capacitor://localhost":          "capacitor://localhost",
		"*://a.example":                  "*://a.example",
		"[::1]:*":                        "[::1]:*",
		// No browser sends these.
		"":                            "",
		"bogus origin":                "",
		"https://a.example/path":      "",
		"https://a.example//":         "",
		"https://a.example?q":         "",
		"https://a.example#f":         "",
		"https://u:p@a.example":       "",
		"https://":                    "",
		"https:/a.example":            "",
		"a.example/path":              "",
		"https://a.example:port":      "",
		"https://a.example:":          "",
		"http://[::1":                 "",
		"http://[::1%25eth0]":         "",
		"http://[192.0.2.7]":          "",
		"http://[*]":                  "",
		"http://::1":                  "",
		"https://a[bc].example":       "",
		"https://m\u00fcller.example": "",
		"null":                        "",
		"https://a.example https":     "",
	} {
		if got, ok := config.OriginPattern(entry); got != want || ok != (want != "") {
			t.Errorf("%q: %q %t, want %q", entry, got, ok, want)
		}
	}
}

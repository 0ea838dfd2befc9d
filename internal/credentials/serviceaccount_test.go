package credentials

import (
	"strings"
	"testing"
)

// TestParseServiceAccount: the usual mix-ups are named, and no secret is shown.
func TestParseServiceAccount(t *testing.T) {
	for text, want := range map[string]string{
		`{"project_info":{"project_number":"1"},"client":[]}`:                   "google-services.json",
		`{"installed":{"client_id":"x"}}`:                                       "OAuth client",
		`{"web":{"client_id":"x"}}`:                                             "OAuth client",
		`{"type":"authorized_user","refresh_token":"secret"}`:                   `"authorized_user"`,
		`-----BEGIN PRIVATE KEY-----secret`:                                     "not JSON",
		`{"type":"service_account","project_id":"P/..","private_key":"secret"}`: "project_id: ",
		`{"type":"service_account","project_id":"p"}`:                           "private_key: ",
		`{"type":"service_account","project_id":"p","token_uri":"http://x"}`:    "token_uri: ",
	} {
		_, err := ParseServiceAccount([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

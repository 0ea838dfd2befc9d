package credentials_test

import (
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/credentials"
)

func TestParseWebhookSecrets(t *testing.T) {
	good := "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" // of the Standard Webhooks libraries' tests
	made := credentials.NewWebhookSecret()
	for _, c := range []struct {
		file string
		want int
		err  string
	}{
		{good, 1, ""},
		{"# new\n" + made + "\r\n\n  " + good + "  \n", 2, ""},
		{"", 0, "must hold a secret, and is empty"},
		{"\n# none\n", 0, "must hold a secret, and is empty"},
		{good + "\nMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 0, "line 2: must begin with whsec_"},
		{"whsec_!!", 0, "line 1: must be base64"},
		{"whsec_c2hvcnQ=", 0, "line 1: must be 24 to 64 bytes in base64, got 5"},
		{"whsec_" + strings.Repeat("QUJD", 22), 0, "line 1: must be 24 to 64 bytes in base64, got 66"},
	} {
		got, err := credentials.ParseWebhookSecrets([]byte(c.file))
		if len(got) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%q: %d secrets, error %v; want %d, %q", c.file, len(got), err, c.want, c.err)
		}
		if err != nil && strings.Contains(c.file, "whsec_") && strings.Contains(err.Error(), "MfKQ9r8") {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
	if a, b := made, credentials.NewWebhookSecret(); a == b {
		t.Error("two secrets are the same")
	}
}

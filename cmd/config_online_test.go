package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
)

// TestConfigCheckOnline: Google is asked, nothing is sent, and a fault names the project
// and the way out.
func TestConfigCheckOnline(t *testing.T) {
	google, err := fcmsim.Start(fcmsim.Options{ControlAddress: "off"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = google.Close() }()
	dir := t.TempDir()
	account, ca := filepath.Join(dir, "account.json"), filepath.Join(dir, "ca.pem")
	for file, content := range map[string][]byte{account: google.ServiceAccount(), ca: google.CAPEM()} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{
		"HEARTLINE_FALLBACK_FCM_ENABLED=true", "HEARTLINE_FALLBACK_FCM_SERVICE_ACCOUNT_FILE=" + account,
		"HEARTLINE_FALLBACK_FCM_ENDPOINT=" + google.URL(), "HEARTLINE_FALLBACK_FCM_CA_FILE=" + ca,
	}
	google.SetOAuth(true, false)
	const project = "fcm: project heartline-demo, as "
	if r := command(t, env, "", "config", "check"); r.code != exitOK || !strings.HasPrefix(r.stdout, project) {
		t.Errorf("without --online nobody is asked: %+v", r)
	}
	google.SetOAuth(false, false)
	r := command(t, env, "", "config", "check", "--online")
	if r.code != exitOK || !strings.Contains(r.stdout, "fcm: Google accepts the credentials\n") {
		t.Errorf("got %+v", r)
	}
	if got := google.Shown("heartline-configuration-check"); len(got) != 0 {
		t.Errorf("something was shown: %v", got)
	}
	if err := google.Scripts.Add(fcmsim.Script{Status: 403, Body: `{"error":{"code":403,"status":"PERMISSION_DENIED","message":"Firebase Cloud Messaging API has not been used in this project before or it is disabled."}}`}); err != nil {
		t.Fatal(err)
	}
	r = command(t, env, "", "config", "check", "--online")
	if r.code != exitUsage || !strings.Contains(r.stderr, "fallback.fcm: project heartline-demo: ") || !strings.Contains(r.stderr, "it is disabled") {
		t.Errorf("the API is off: %+v", r)
	}
	google.SetOAuth(false, true)
	r = command(t, env, "", "config", "check", "--online")
	if r.code != exitUsage || !strings.Contains(r.stderr, "fallback.fcm: project heartline-demo: ") {
		t.Errorf("the key is revoked: %+v", r)
	}
}

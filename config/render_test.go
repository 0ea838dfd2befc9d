package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/config"
)

// TestExampleFile: `make example` writes the file again.
func TestExampleFile(t *testing.T) {
	path := filepath.Join("..", "heartline.example.yaml")
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(config.Example()) {
		t.Errorf("%s is not what the structs say; write it again with `make example`", path)
	}
	if c := load(t, config.Source{File: path}); !reflect.DeepEqual(c, config.Default()) {
		t.Errorf("it does not load as the defaults: %+v", c)
	}
}

func TestEveryKeyIsInTheExampleWithAComment(t *testing.T) {
	lines := strings.Split(string(config.Example()), "\n")
	for _, k := range config.Keys() {
		if k.EnvOnly {
			if !strings.Contains(string(config.Example()), k.Env) {
				t.Errorf("%s is not spoken of", k.Env)
			}
			continue
		}
		parts := strings.Split(k.Name, ".")
		want := strings.Repeat("  ", len(parts)-1) + parts[len(parts)-1] + ": " + k.Default
		found := false
		for i, line := range lines {
			// A key may share the comment of the one above it.
			if line == want && i > 0 && (strings.Contains(lines[i-1], "#") || i > 1 && !strings.HasSuffix(lines[i-1], ":")) {
				found = true
			}
		}
		if !found {
			t.Errorf("no commented line %q", want)
		}
	}
}

func TestTextThatYAMLWouldMisread(t *testing.T) {
	for _, s := range []string{"no", "null", "1e3", "0x1F", "~", "- a", "a: b", "a #b", "'", `"`, `\`, " a ", "2024-01-01", "é", "\u2028", "&a", "*a", "!a", "%a", "@a", "{}", "[]", "<<", "=", strings.Repeat("long words ", 40)} {
		c := config.Default()
		c.Fallback.FCM.Channel = s
		again := load(t, config.Source{File: write(t, "a.yaml", string(c.YAML()))})
		if again.Fallback.FCM.Channel != s {
			t.Errorf("%q is printed so that it reads %q", s, again.Fallback.FCM.Channel)
		}
	}
}

// TestPrintWebhookURL: what may be a secret in the URL of a webhook is not printed.
func TestPrintWebhookURL(t *testing.T) {
	cfg := config.Default()
	cfg.Receipts.Webhooks = []config.Webhook{{URL: "https://in:S3CRET@hooks.example/in?token=S3CRET", SecretFile: "secret"}}
	if text := string(cfg.YAML()); strings.Contains(text, "S3CRET") || !strings.Contains(text, "hooks.example/in") {
		t.Error(text)
	}
}

package credentials

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// WebhookSecretPrefix begins a secret of Standard Webhooks.
const WebhookSecretPrefix = "whsec_"

// Standard Webhooks ask for secrets of 24 to 64 bytes.
const (
	minWebhookSecret = 24
	maxWebhookSecret = 64
)

// ParseWebhookSecrets reads a file of secrets in the form of Standard Webhooks, one a
// line: whsec_ and base64. The first is the newest. Empty lines and lines that begin with
// # are skipped. The error names the line, and does not hold the secret.
func ParseWebhookSecrets(file []byte) ([][]byte, error) {
	var secrets [][]byte
	n := 0
	for line := range strings.Lines(string(file)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		text, ok := strings.CutPrefix(line, WebhookSecretPrefix)
		if !ok {
			return nil, fmt.Errorf("line %d: must begin with %s (heartline webhooks secret makes one)", n, WebhookSecretPrefix)
		}
		secret, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
		if err != nil {
			return nil, fmt.Errorf("line %d: must be base64 behind %s", n, WebhookSecretPrefix)
		}
		if len(secret) < minWebhookSecret || len(secret) > maxWebhookSecret {
			return nil, fmt.Errorf("line %d: must be %d to %d bytes in base64, got %d", n, minWebhookSecret, maxWebhookSecret, len(secret))
		}
		secrets = append(secrets, secret)
	}
	if len(secrets) == 0 {
		return nil, errors.New("must hold a secret, and is empty")
	}
	return secrets, nil
}

// NewWebhookSecret makes a secret of 32 random bytes in the form that ParseWebhookSecrets
// reads.
func NewWebhookSecret() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it never fails
	return WebhookSecretPrefix + base64.StdEncoding.EncodeToString(secret)
}

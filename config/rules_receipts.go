package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/loopback"
)

// EventNames are the events that a webhook can ask for (contract §2). A test compares
// them with package delivery, which this one does not import.
var EventNames = []string{
	"accepted", "published", "redelivered", "ack_timeout", "channel_lost", "nacked", "push_requested", "pushed", "push_failed", "push_retry",
	"token_removed", "fallback_timeout", "waiting", "received", "displayed", "message_sent", "message_received", "expired", "superseded",
	"cancelled", "token_suspended", "dismissal_sent", "dismissed", "read",
}

// ID returns what identifies the webhook: its name, or the host and path of its URL.
func (w *Webhook) ID() string {
	if w.Name != "" {
		return w.Name
	}
	u, err := url.Parse(w.URL)
	if err != nil {
		return ""
	}
	return u.Host + strings.TrimRight(u.Path, "/")
}

func isWebhookSecret(b []byte) error { _, err := credentials.ParseWebhookSecrets(b); return err }

// receiptsRules are those of receipts but for the entries of its list.
func receiptsRules() []rule {
	return []rule{
		span("receipts.retain", func(c *Config) time.Duration { return c.Receipts.Retain }, time.Minute, 8760*time.Hour),
	}
}

// webhookRules are those of the list, an entry each.
func webhookRules(c *Config) []rule {
	var out []rule
	always := func(*Config) bool { return true }
	seen := map[string]string{}
	for i, w := range c.Receipts.Webhooks {
		at := fmt.Sprintf("receipts.webhooks[%d].", i)
		for _, r := range []rule{
			needed(at+"url", "to the address that takes the events, as in https://backend.example.org/heartline", always, func(*Config) string { return w.URL }),
			webURL(at+"url", func(*Config) string { return w.URL }, "https", "http"),
			{at + "url", nil, func(*Config) (string, any) {
				u, err := url.Parse(w.URL)
				return unless(err != nil || u.Scheme != "http" || w.Insecure || loopback.Host(u.Hostname()),
					"must be https, unless insecure is true: everybody on the way can read the events", withoutPassword(w.URL))
			}},
			{at + "name", nil, func(*Config) (string, any) {
				id := w.ID()
				broken := len(id) > 128 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' })
				if broken {
					return "must be at most 128 bytes without spaces and control characters; set one if the URL's host and path are longer", id
				}
				if first := seen[id]; id != "" && first != "" && first != at {
					return "must not be the same as of " + strings.TrimSuffix(first, ".") + ": give each webhook a name of its own", id
				}
				seen[id] = at
				return "", nil
			}},
			needed(at+"secret_file", "to the file that holds the secret (heartline webhooks secret makes one)", always, func(*Config) string { return w.SecretFile }),
			{at + "secret_file", nil, func(*Config) (string, any) {
				if w.SecretFile == "" {
					return "", nil
				}
				content, broken := readNamed(w.SecretFile)
				if broken != "" {
					return broken, w.SecretFile
				}
				return parsed(isWebhookSecret(content), w.SecretFile)
			}},
			{at + "events", nil, func(*Config) (string, any) {
				for _, e := range w.Events {
					if !slices.Contains(EventNames, e) {
						return "must be names of events" + didYouMean(e, EventNames), e
					}
				}
				return "", nil
			}},
			{at + "accounts", nil, func(*Config) (string, any) {
				for _, a := range w.Accounts {
					if a == "" || len(a) > 256 {
						return "must be accounts, or patterns with *, of 1 to 256 bytes", a
					}
				}
				return "", nil
			}},
			certificates(at+"ca_file", always, func(*Config) string { return w.CAFile }),
			{at + "timeout", nil, func(*Config) (string, any) {
				return unless(w.Timeout == 0 || w.Timeout >= time.Second && w.Timeout <= time.Minute, "must be from 1s to 1m", w.Timeout)
			}},
		} {
			r.needs = append(r.needs, "receipts.webhooks")
			out = append(out, r)
		}
	}
	return out
}

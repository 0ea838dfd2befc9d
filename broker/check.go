package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/credentials"
)

// Check reads the files and secrets that a configuration names, as New does, and returns all
// mistakes of their content, joined. It connects to nobody.
func Check(cfg *config.Config) error {
	servers, pushErr := newPushServers(cfg.Fallback, pushServers{}, slog.New(slog.DiscardHandler))
	_, webhookErr := webhooksOf(cfg.Receipts)
	return errors.Join(auth.Check(cfg.Auth), checkTLS(cfg.MQTT.TLS), CheckNodes(cfg), pushErr, servers.discard(pushServers{}), webhookErr)
}

// checkTLS reads what no rule of package config does.
func checkTLS(c config.MQTTTLS) error {
	if c.Address == "" || c.CRLFile == "" {
		return nil
	}
	cas, err := os.ReadFile(c.ClientCAFile)
	if err == nil {
		_, err = readCRLs(c.CRLFile, cas)
	}
	if err != nil {
		return fmt.Errorf("mqtt.tls.crl_file: %w", err)
	}
	return nil
}

// CheckNodes returns why this version cannot be one of several nodes with a
// configuration; nil: it can, or is to be the only one.
func CheckNodes(cfg *config.Config) error {
	if cfg.Cluster.Address != "" && len(cfg.XMPP.Components) > 0 && cfg.XMPP.RegistrationKeyFile == "" {
		return errors.New("xmpp.registration_key_file: must name a file where cluster.address is set, with the same content on every node: each may have to check a push registration that another has signed")
	}
	return nil
}

// CheckPush returns a line for each credential for Google and for browsers that says whose
// it is, without secrets. With online it asks Google, too, whether they may be used;
// nothing is sent to anybody. Apple and the browsers' push services offer no such question.
func CheckPush(ctx context.Context, cfg *config.Config, online bool) (lines []string, err error) {
	if cfg.Fallback.FCM.Enabled {
		pusher, err := newFCM(cfg.Fallback.FCM)
		if err != nil {
			return nil, err
		}
		defer func() { _ = pusher.Close() }() // it has no error to return
		for _, app := range pusher.Apps() {
			lines = append(lines, fmt.Sprintf("fcm: project %s, as %s", app.Name, pusher.Email(app)))
		}
		if online {
			if err := pusher.Check(ctx); err != nil {
				return lines, err
			}
			lines = append(lines, "fcm: Google accepts the credentials")
		}
	}
	if c := cfg.Fallback.WebPush; c.Enabled {
		apps, err := webPushApps(c)
		if err != nil {
			return lines, err
		}
		for _, app := range apps {
			key, err := credentials.VAPIDPublicKey(app.Key)
			if err != nil {
				return lines, fmt.Errorf("fallback.webpush: %w", err)
			}
			lines = append(lines, "webpush: public key "+key)
		}
	}
	return lines, nil
}

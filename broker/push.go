package broker

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apns"
	"github.com/heartline-mqtt/heartline/fallback/fcm"
	"github.com/heartline-mqtt/heartline/fallback/webpush"
	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/text"
)

// newRouter makes the push router with the notification servers that are on; there may
// be none.
func newRouter(c config.Fallback, content func(delivery.Seq) (*delivery.Notification, error), onRequest func(string, time.Duration, error), log *slog.Logger) (_ *fallback.Router, err error) {
	opts := fallback.Options{Content: content, OnRequest: onRequest, CloseGrace: endGrace, Logger: log, Servers: map[string]fallback.Limits{
		delivery.ServerAPNs:    limits(c.APNs.Timeout, c.APNs.MaxConcurrent, c.APNs.Retry),
		delivery.ServerFCM:     limits(c.FCM.Timeout, c.FCM.MaxConcurrent, c.FCM.Retry),
		delivery.ServerWebPush: limits(c.WebPush.Timeout, c.WebPush.MaxConcurrent, c.WebPush.Retry),
	}}
	add := func(p fallback.Pusher, err error) error {
		if err == nil {
			opts.Pushers = append(opts.Pushers, p)
		}
		return err
	}
	if c.APNs.Enabled {
		err = errors.Join(err, add(newAPNs(c.APNs, log)))
	}
	if c.FCM.Enabled {
		err = errors.Join(err, add(newFCM(c.FCM)))
	}
	if c.WebPush.Enabled {
		err = errors.Join(err, add(newWebPush(c.WebPush)))
	}
	if err == nil {
		var r *fallback.Router
		if r, err = fallback.New(opts); err == nil {
			return r, nil
		}
	}
	for _, p := range opts.Pushers {
		err = errors.Join(err, p.Close())
	}
	return nil, err
}

func limits(timeout time.Duration, concurrent int, r config.Retry) fallback.Limits {
	return fallback.Limits{Timeout: timeout, MaxConcurrent: concurrent, RetryInitial: r.Initial, RetryMax: r.Max}
}

// formChecks check the form of a registration by its server. They need no
// configuration.
var formChecks = map[string]func(delivery.Registration) (delivery.Registration, error){
	delivery.ServerAPNs: apns.CheckForm, delivery.ServerFCM: fcm.CheckForm, delivery.ServerWebPush: webpush.CheckForm,
}

func checkRegistration(r delivery.Registration) error {
	check := formChecks[r.Server]
	if check == nil {
		return fmt.Errorf("a push registration must be for apns, fcm or webpush, not %.20q", r.Server)
	}
	if err := fallback.CheckNames(r); err != nil {
		return err
	}
	switch {
	case r.Kind == "": // delivery.KindAlert
	case r.Server == delivery.ServerAPNs && !delivery.ValidKind(r.Kind):
		return &delivery.FieldError{Field: "kind", Rule: delivery.KindRule, Got: text.Clip(r.Kind, delivery.MaxID)}
	case r.Server != delivery.ServerAPNs && r.Kind != delivery.KindAlert:
		return &delivery.FieldError{Field: "kind", Rule: "must be alert: the other kinds are Apple's", Got: text.Clip(r.Kind, delivery.MaxID)}
	}
	_, err := check(r)
	return err
}

// completeRegistration brings a registration into its one spelling and, if its server
// is on, completes it.
func completeRegistration(router *fallback.Router) func(delivery.Registration) (delivery.Registration, error) {
	return func(r delivery.Registration) (delivery.Registration, error) {
		if check := formChecks[r.Server]; check != nil {
			var err error
			if r, err = check(r); err != nil {
				return r, err
			}
		}
		return router.Complete(r)
	}
}

func newAPNs(c config.APNs, log *slog.Logger) (*apns.Client, error) {
	apple := apns.Config{
		DefaultEnvironment: c.Environment, Endpoint: c.Endpoint, CAFile: c.CAFile, Logger: log,
	}
	if c.KeyFile != "" || c.Key != "" || c.CertificateFile != "" {
		app := apns.App{
			Topic: c.Topic, KeyFile: c.KeyFile, KeyPEM: []byte(c.Key), KeyID: c.KeyID, TeamID: c.TeamID,
			CertificateFile: c.CertificateFile,
		}
		if err := certificatePassword(&app, c.CertificatePassword, c.CertificatePasswordFile); err != nil {
			return nil, err
		}
		apple.Apps = append(apple.Apps, app)
	}
	for _, a := range c.Apps {
		app := apns.App{
			Topic: a.Topic, Environment: a.Environment, KeyFile: a.KeyFile, KeyID: a.KeyID, TeamID: a.TeamID,
			CertificateFile: a.CertificateFile,
		}
		if app.Environment == "" {
			app.Environment = c.Environment
		}
		if err := certificatePassword(&app, "", a.CertificatePasswordFile); err != nil {
			return nil, err
		}
		apple.Apps = append(apple.Apps, app)
	}
	client, err := apns.New(apple)
	if err != nil {
		return nil, fmt.Errorf("fallback.apns: %w", err)
	}
	return client, nil
}

func newFCM(c config.FCM) (*fcm.Pusher, error) {
	roots, err := rootCAs("fallback.fcm.ca_file", c.CAFile)
	if err != nil {
		return nil, err
	}
	cfg := fcm.Config{Endpoint: c.Endpoint, MaxConcurrent: c.MaxConcurrent, RootCAs: roots}
	add := func(given config.Secret, file, style, channel string) error {
		text, err := config.ReadSecret(given, file)
		if err != nil {
			return fmt.Errorf("fallback.fcm: service account: %w", err)
		}
		cfg.Apps = append(cfg.Apps, fcm.App{ServiceAccount: text, Style: cmp.Or(style, c.Style), Channel: cmp.Or(channel, c.Channel)})
		return nil
	}
	if c.ServiceAccountFile != "" || c.ServiceAccount != "" {
		err = add(c.ServiceAccount, c.ServiceAccountFile, "", "")
	}
	for _, a := range c.Apps {
		err = errors.Join(err, add("", a.ServiceAccountFile, a.Style, a.Channel))
	}
	if err != nil {
		return nil, err
	}
	p, err := fcm.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("fallback.fcm: %w", err)
	}
	return p, nil
}

// webPushKey returns the application server key that pages subscribe with; "" where
// pushes to browsers are off.
func webPushKey(c config.WebPush) (string, error) {
	if !c.Enabled {
		return "", nil
	}
	apps, err := webPushApps(c)
	if err != nil {
		return "", err
	}
	return credentials.VAPIDPublicKey(apps[0].Key)
}

// webPushApps reads the keys, at least one. The first is that of subscriptions that
// name none.
func webPushApps(c config.WebPush) (apps []webpush.App, err error) {
	add := func(given config.Secret, file, contact string) error {
		text, err := config.ReadSecret(given, file)
		if err != nil {
			return fmt.Errorf("fallback.webpush: key: %w", err)
		}
		var key *ecdsa.PrivateKey
		if key, err = credentials.ParseVAPIDKey(text); err != nil {
			return fmt.Errorf("fallback.webpush: key %s: %w", file, err)
		}
		apps = append(apps, webpush.App{Key: key, Contact: cmp.Or(contact, c.Contact)})
		return nil
	}
	if c.KeyFile != "" || c.Key != "" {
		err = add(c.Key, c.KeyFile, "")
	}
	for _, a := range c.Apps {
		err = errors.Join(err, add("", a.KeyFile, a.Contact))
	}
	if err == nil && len(apps) == 0 {
		err = errors.New("fallback.webpush: no application server key")
	}
	return apps, err
}

func newWebPush(c config.WebPush) (*webpush.Pusher, error) {
	roots, err := rootCAs("fallback.webpush.ca_file", c.CAFile)
	if err != nil {
		return nil, err
	}
	cfg := webpush.Config{Allow: c.Allow, MaxConcurrent: c.MaxConcurrent, RootCAs: roots}
	for _, s := range c.AllowPrivate {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("fallback.webpush.allow_private: %w", err)
		}
		cfg.AllowPrivate = append(cfg.AllowPrivate, prefix)
	}
	if cfg.Apps, err = webPushApps(c); err != nil {
		return nil, err
	}
	return webpush.New(cfg)
}

// rootCAs returns the system's CAs and those of a file; nil, the system's, without one.
func rootCAs(key, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: %s holds no PEM certificate", key, file)
	}
	return roots, nil
}

func certificatePassword(app *apns.App, given config.Secret, file string) error {
	if app.CertificateFile == "" || given == "" && file == "" {
		return nil
	}
	password, err := config.ReadSecret(given, file)
	if err != nil {
		return fmt.Errorf("fallback.apns: password of certificate %s: %w", app.CertificateFile, err)
	}
	app.CertificatePassword = string(password)
	return nil
}

package broker

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
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

// pushServers are the notification servers that are on, by name. They are replaced whole,
// never changed.
type pushServers struct {
	pushers    map[string]fallback.Pusher
	configured map[string]pushConfig // what each was made from
	limits     map[string]fallback.Limits
}

// pushConfig tells one configuration of a server from another.
type pushConfig struct {
	section any    // of the configuration
	files   string // a hash over the files that it names
}

// newPushServers makes the notification servers that are on; there may be none. A server
// of before whose section and files have not changed is taken over. The error names every
// server that cannot be made.
func newPushServers(c config.Fallback, before pushServers, log *slog.Logger) (pushServers, error) {
	next := pushServers{pushers: map[string]fallback.Pusher{}, configured: map[string]pushConfig{}, limits: map[string]fallback.Limits{
		delivery.ServerAPNs:    limits(c.APNs.Timeout, c.APNs.MaxConcurrent, c.APNs.Retry),
		delivery.ServerFCM:     limits(c.FCM.Timeout, c.FCM.MaxConcurrent, c.FCM.Retry),
		delivery.ServerWebPush: limits(c.WebPush.Timeout, c.WebPush.MaxConcurrent, c.WebPush.Retry),
	}}
	var errs []error
	add := func(name string, on bool, section any, open func() (fallback.Pusher, error)) {
		if !on {
			return
		}
		now := pushConfig{section, filesHash(reflect.ValueOf(section))}
		next.configured[name] = now
		if p := before.pushers[name]; p != nil && reflect.DeepEqual(now, before.configured[name]) {
			next.pushers[name] = p
			return
		}
		p, err := open()
		if err != nil {
			errs = append(errs, err)
			return
		}
		next.pushers[name] = p
	}
	add(delivery.ServerAPNs, c.APNs.Enabled, c.APNs, func() (fallback.Pusher, error) { return newAPNs(c.APNs, before, log) })
	add(delivery.ServerFCM, c.FCM.Enabled, c.FCM, func() (fallback.Pusher, error) { return newFCM(c.FCM) })
	add(delivery.ServerWebPush, c.WebPush.Enabled, c.WebPush, func() (fallback.Pusher, error) { return newWebPush(c.WebPush, before) })
	if len(errs) > 0 {
		return pushServers{}, errors.Join(append(errs, next.discard(before))...)
	}
	return next, nil
}

// discard closes the pushers that are not taken over.
func (s pushServers) discard(before pushServers) (err error) {
	for name, p := range s.pushers {
		if before.pushers[name] != p {
			err = errors.Join(err, p.Close())
		}
	}
	return err
}

// list returns the pushers in a fixed order.
func (s pushServers) list() (all []fallback.Pusher) {
	for _, name := range slices.Sorted(maps.Keys(s.pushers)) {
		all = append(all, s.pushers[name])
	}
	return all
}

// changed returns the servers of next that are not those of s.
func (s pushServers) changed(next pushServers) (names []string) {
	for name, p := range next.pushers {
		if s.pushers[name] != p {
			names = append(names, name)
		}
	}
	return names
}

// filesHash is over the content of the files that a section of the configuration names:
// its keys that end in _file. A file that cannot be read is the maker's fault to report.
func filesHash(section reflect.Value) string {
	h := sha256.New()
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				if key := v.Type().Field(i).Tag.Get("key"); strings.HasSuffix(key, "_file") {
					content, _ := os.ReadFile(v.Field(i).String())
					sum := sha256.Sum256(content)
					_, _ = h.Write(sum[:])
					continue
				}
				walk(v.Field(i))
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		}
	}
	walk(section)
	return string(h.Sum(nil))
}

// newRouter makes the push router.
func newRouter(servers pushServers, content func(delivery.Seq) (*delivery.Notification, error), onRequest func(string, time.Duration, error), log *slog.Logger) (*fallback.Router, error) {
	r, err := fallback.New(fallback.Options{
		Pushers: servers.list(), Servers: servers.limits, Content: content, OnRequest: onRequest, CloseGrace: endGrace, Logger: log,
	})
	if err != nil {
		return nil, errors.Join(err, servers.discard(pushServers{}))
	}
	return r, nil
}

// pushesPossible asks for the pushes of a Core that has just started which have become possible: a
// notification server may have been off, or configured otherwise, until now.
func pushesPossible(core interface{ PushPossible(server, app string) }, router *fallback.Router) {
	for _, name := range router.Servers() {
		core.PushPossible(name, "")
	}
}

func limits(timeout time.Duration, concurrent int, r config.Retry) fallback.Limits {
	return fallback.Limits{Timeout: timeout, MaxConcurrent: concurrent, RetryInitial: r.Initial, RetryMax: r.Max}
}

// formChecks check the form of a registration by its server. They need no
// configuration.
var formChecks = map[string]func(delivery.Registration) (delivery.Registration, error){
	delivery.ServerAPNs: apns.CheckForm, delivery.ServerFCM: fcm.CheckForm, delivery.ServerWebPush: webpush.CheckForm,
}

// contentChecks check the overlays of a notification. They need no configuration: a server that
// is off may be on when the push is sent.
var contentChecks = []func(*delivery.Notification) error{apns.CheckContent, fcm.CheckContent, webpush.CheckContent}

// checkContent refuses content that no server could take, whichever are on, and content that is
// too long for one that is.
func checkContent(router *fallback.Router) func(*delivery.Notification) error {
	return func(n *delivery.Notification) error {
		for _, check := range contentChecks {
			if err := check(n); err != nil {
				return err
			}
		}
		return router.CheckPayload(n)
	}
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

func newAPNs(c config.APNs, before pushServers, log *slog.Logger) (*apns.Client, error) {
	former, _ := before.pushers[delivery.ServerAPNs].(*apns.Client)
	apple := apns.Config{
		DefaultEnvironment: c.Environment, Endpoint: c.Endpoint, CAFile: c.CAFile, Former: former, Logger: log,
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

func newWebPush(c config.WebPush, before pushServers) (*webpush.Pusher, error) {
	former, _ := before.pushers[delivery.ServerWebPush].(*webpush.Pusher)
	roots, err := rootCAs("fallback.webpush.ca_file", c.CAFile)
	if err != nil {
		return nil, err
	}
	cfg := webpush.Config{Allow: c.Allow, MaxConcurrent: c.MaxConcurrent, Former: former, RootCAs: roots}
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

package demo

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
	"github.com/heartline-mqtt/heartline/internal/credentials"
)

// bundleID is the app on the iPhones.
const bundleID = "com.example.heartline"

// servers are the stand-ins for the notification servers.
type servers struct {
	apns    *apnssim.Server
	fcm     *fcmsim.Server
	webpush *webpushsim.Server
}

// platform is a kind of device and its notification server.
type platform struct {
	device, server string
	register       func(n int) (delivery.Registration, error)
	received       func(token string) int // pushes
}

func startServers() (_ *servers, err error) {
	s := &servers{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start the stand-ins for the push services: %w", err), s.close())
		}
	}()
	if s.apns, err = apnssim.Start(apnssim.Options{Topics: []string{bundleID}}); err != nil {
		return nil, err
	}
	if s.fcm, err = fcmsim.Start(fcmsim.Options{}); err != nil {
		return nil, err
	}
	if s.webpush, err = webpushsim.Start(webpushsim.Options{}); err != nil {
		return nil, err
	}
	return s, nil
}

// close stops the servers that were started.
func (s *servers) close() error {
	var errs []error
	if s.webpush != nil {
		errs = append(errs, s.webpush.Close())
	}
	if s.fcm != nil {
		errs = append(errs, s.fcm.Close())
	}
	if s.apns != nil {
		errs = append(errs, s.apns.Close())
	}
	return errors.Join(errs...)
}

func (s *servers) platforms() []platform {
	return []platform{
		{
			"iphone", "Apple",
			func(n int) (delivery.Registration, error) {
				return delivery.Registration{Server: delivery.ServerAPNs, Token: strings.Repeat(fmt.Sprintf("%02x", n+1), 32)}, nil
			},
			func(token string) int { return len(s.apns.ReceivedFor(token)) },
		},
		{
			"android", "Google",
			func(n int) (delivery.Registration, error) {
				return delivery.Registration{Server: delivery.ServerFCM, Token: fmt.Sprintf("demo-android-%d", n+1)}, nil
			},
			func(token string) int { return len(s.fcm.Received(token)) },
		},
		{
			"browser", "the browser's push service", s.subscribe,
			func(endpoint string) int { return len(s.webpush.Received(endpoint)) },
		},
	}
}

// subscribe makes a browser's subscription, with the keys that a push is encrypted for.
func (s *servers) subscribe(int) (r delivery.Registration, err error) {
	sub, err := s.webpush.Subscribe("")
	if err != nil {
		return r, err
	}
	r = delivery.Registration{Server: delivery.ServerWebPush, Token: sub.Endpoint}
	if r.P256dh, err = base64.RawURLEncoding.DecodeString(sub.Keys.P256dh); err == nil {
		r.Auth, err = base64.RawURLEncoding.DecodeString(sub.Keys.Auth)
	}
	return r, err
}

// config is a configuration that pushes to the stand-ins and keeps everything in dir.
func (s *servers) config(dir string) (*config.Config, error) {
	ca := filepath.Join(dir, "ca.pem")
	cas := append(append(s.apns.CAPEM(), s.fcm.CAPEM()...), s.webpush.CAPEM()...)
	if err := os.WriteFile(ca, cas, 0o600); err != nil {
		return nil, fmt.Errorf("write the CA of the stand-ins: %w", err)
	}
	key := s.apns.Key()
	vapid, err := credentials.GenerateVAPIDKey()
	if err != nil {
		return nil, fmt.Errorf("make an application server key: %w", err)
	}
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", ""
	apns, fcm, webpush := &cfg.Fallback.APNs, &cfg.Fallback.FCM, &cfg.Fallback.WebPush
	apns.Enabled, apns.Key, apns.KeyID, apns.TeamID = true, config.Secret(key.PEM), key.KeyID, key.TeamID
	apns.Topic, apns.Endpoint, apns.CAFile = bundleID, s.apns.URL(), ca
	fcm.Enabled, fcm.ServiceAccount, fcm.Endpoint, fcm.CAFile = true, config.Secret(s.fcm.ServiceAccount()), s.fcm.URL(), ca
	webpush.Enabled, webpush.Key, webpush.Contact, webpush.CAFile = true, config.Secret(vapid), "mailto:demo@example.com", ca
	webpush.AllowPrivate = []string{"127.0.0.0/8"}
	return cfg, nil
}

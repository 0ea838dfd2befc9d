package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/hosts"
)

// requestRules are those of every notification server's requests.
func requestRules(at string, get func(*Config) (timeout time.Duration, concurrent int, retry Retry)) []rule {
	return []rule{
		span(at+"timeout", func(c *Config) time.Duration { d, _, _ := get(c); return d }, time.Millisecond, 5*time.Minute),
		count(at+"max_concurrent", func(c *Config) int { _, n, _ := get(c); return n }, 1, 100_000),
		span(at+"retry.initial", func(c *Config) time.Duration { _, _, r := get(c); return r.Initial }, time.Millisecond, time.Hour),
		{at + "retry.max", []string{at + "retry.initial"}, func(c *Config) (string, any) {
			_, _, r := get(c)
			return unless(r.Max >= r.Initial, fmt.Sprintf("must not be shorter than %sretry.initial (%s)", at, formatDuration(r.Initial)), r.Max)
		}},
	}
}

// hostAlone: an endpoint's path is the server's own.
func hostAlone(key string, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		u, err := url.Parse(get(c))
		return unless(err != nil || u.Path+u.RawQuery+u.Fragment == "" || u.Path == "/" && u.RawQuery+u.Fragment == "",
			"must be a host and a port alone, as in https://127.0.0.1:2197", withoutPassword(get(c)))
	}}
}

// oneOf: a secret comes from its file or from the environment.
func oneOf(key, variable string, get func(*Config) (file string, value Secret)) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		file, value := get(c)
		return unless(file == "" || value == "", "must not be set together with "+variable, file)
	}}
}

// holds: a file holds what parse takes.
func holds(key string, when func(*Config) bool, get func(*Config) string, parse func([]byte) error) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		if !when(c) || get(c) == "" {
			return "", nil
		}
		content, broken := readNamed(get(c))
		if broken != "" {
			return broken, get(c)
		}
		return parsed(parse(content), get(c))
	}}
}

// contains: a secret from the environment is what parse takes. It is not shown.
func contains(key string, when func(*Config) bool, get func(*Config) Secret, parse func([]byte) error) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		if !when(c) || get(c) == "" {
			return "", nil
		}
		return parsed(parse([]byte(get(c))), nil)
	}}
}

func parsed(err error, got any) (string, any) {
	if err != nil {
		return err.Error(), got
	}
	return "", nil
}

func isServiceAccount(b []byte) error { _, err := credentials.ParseServiceAccount(b); return err }
func isVAPIDKey(b []byte) error       { _, err := credentials.ParseVAPIDKey(b); return err }

// fcmRules are those of fallback.fcm but for the entries of its apps.
func fcmRules() []rule {
	type c = *Config
	on := func(c c) bool { return c.Fallback.FCM.Enabled }
	return append([]rule{
		{"fallback.fcm", []string{"fallback.fcm.enabled", "fallback.fcm.service_account_file", "fallback.fcm.apps"}, func(c c) (string, any) {
			f := c.Fallback.FCM
			return unless(!f.Enabled || set(f.ServiceAccountFile)+set(string(f.ServiceAccount))+len(f.Apps) > 0,
				"must have service_account_file (or HEARTLINE_FALLBACK_FCM_SERVICE_ACCOUNT) where it is enabled, or entries in apps", nil)
		}},
		oneOf("fallback.fcm.service_account_file", "HEARTLINE_FALLBACK_FCM_SERVICE_ACCOUNT", func(c c) (string, Secret) {
			return c.Fallback.FCM.ServiceAccountFile, c.Fallback.FCM.ServiceAccount
		}),
		holds("fallback.fcm.service_account_file", on, func(c c) string { return c.Fallback.FCM.ServiceAccountFile }, isServiceAccount),
		contains("fallback.fcm.service_account", on, func(c c) Secret { return c.Fallback.FCM.ServiceAccount }, isServiceAccount),
		word("fallback.fcm.style", func(c c) string { return c.Fallback.FCM.Style }, StyleNotification, StyleData),
		webURL("fallback.fcm.endpoint", func(c c) string { return c.Fallback.FCM.Endpoint }, "https"),
		hostAlone("fallback.fcm.endpoint", func(c c) string { return c.Fallback.FCM.Endpoint }),
		certificates("fallback.fcm.ca_file", on, func(c c) string { return c.Fallback.FCM.CAFile }),
	}, requestRules("fallback.fcm.", func(c c) (time.Duration, int, Retry) {
		f := c.Fallback.FCM
		return f.Timeout, f.MaxConcurrent, f.Retry
	})...)
}

// fcmAppRules are those of the list, an entry each.
func fcmAppRules(c *Config) []rule {
	var out []rule
	on := func(c *Config) bool { return c.Fallback.FCM.Enabled }
	for i, a := range c.Fallback.FCM.Apps {
		at := fmt.Sprintf("fallback.fcm.apps[%d].", i)
		for _, r := range []rule{
			needed(at+"service_account_file", "for a further project", on, func(*Config) string { return a.ServiceAccountFile }),
			holds(at+"service_account_file", on, func(*Config) string { return a.ServiceAccountFile }, isServiceAccount),
			word(at+"style", func(*Config) string { return a.Style }, "", StyleNotification, StyleData),
		} {
			r.needs = append(r.needs, "fallback.fcm.apps")
			out = append(out, r)
		}
	}
	return out
}

// webPushRules are those of fallback.webpush but for the entries of its lists.
func webPushRules() []rule {
	type c = *Config
	on := func(c c) bool { return c.Fallback.WebPush.Enabled }
	withKey := func(c c) bool { return on(c) && (c.Fallback.WebPush.KeyFile != "" || c.Fallback.WebPush.Key != "") }
	return append([]rule{
		{"fallback.webpush", []string{"fallback.webpush.enabled", "fallback.webpush.key_file", "fallback.webpush.apps"}, func(c c) (string, any) {
			w := c.Fallback.WebPush
			return unless(!w.Enabled || set(w.KeyFile)+set(string(w.Key))+len(w.Apps) > 0,
				"must have key_file (or HEARTLINE_FALLBACK_WEBPUSH_KEY) where it is enabled, or entries in apps; heartline webpush-key makes a key", nil)
		}},
		oneOf("fallback.webpush.key_file", "HEARTLINE_FALLBACK_WEBPUSH_KEY", func(c c) (string, Secret) {
			return c.Fallback.WebPush.KeyFile, c.Fallback.WebPush.Key
		}),
		holds("fallback.webpush.key_file", on, func(c c) string { return c.Fallback.WebPush.KeyFile }, isVAPIDKey),
		contains("fallback.webpush.key", on, func(c c) Secret { return c.Fallback.WebPush.Key }, isVAPIDKey),
		needed("fallback.webpush.contact", "where fallback.webpush has a key", withKey, func(c c) string { return c.Fallback.WebPush.Contact }),
		contact("fallback.webpush.contact", func(c c) string { return c.Fallback.WebPush.Contact }),
		certificates("fallback.webpush.ca_file", on, func(c c) string { return c.Fallback.WebPush.CAFile }),
	}, requestRules("fallback.webpush.", func(c c) (time.Duration, int, Retry) {
		w := c.Fallback.WebPush
		return w.Timeout, w.MaxConcurrent, w.Retry
	})...)
}

func contact(key string, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		if get(c) == "" {
			return "", nil
		}
		return parsed(credentials.CheckContact(get(c)), get(c))
	}}
}

// webPushAppRules are those of the lists, an entry each.
func webPushAppRules(c *Config) []rule {
	var out []rule
	on := func(c *Config) bool { return c.Fallback.WebPush.Enabled }
	for i, pattern := range c.Fallback.WebPush.Allow {
		out = append(out, rule{fmt.Sprintf("fallback.webpush.allow[%d]", i), []string{"fallback.webpush.allow"}, func(*Config) (string, any) {
			return parsed(hosts.Check(pattern), pattern)
		}})
	}
	for i, prefix := range c.Fallback.WebPush.AllowPrivate {
		out = append(out, rule{fmt.Sprintf("fallback.webpush.allow_private[%d]", i), []string{"fallback.webpush.allow_private"}, func(*Config) (string, any) {
			_, err := netip.ParsePrefix(prefix)
			return unless(err == nil, "must be an address range, as in 10.0.0.0/8", prefix)
		}})
	}
	for i, a := range c.Fallback.WebPush.Apps {
		at := fmt.Sprintf("fallback.webpush.apps[%d].", i)
		for _, r := range []rule{
			needed(at+"key_file", "for a further key", on, func(*Config) string { return a.KeyFile }),
			holds(at+"key_file", on, func(*Config) string { return a.KeyFile }, isVAPIDKey),
			{at + "contact", []string{"fallback.webpush.contact"}, func(c *Config) (string, any) {
				return unless(!on(c) || a.Contact != "" || c.Fallback.WebPush.Contact != "", "must be set, or fallback.webpush.contact", nil)
			}},
			contact(at+"contact", func(*Config) string { return a.Contact }),
		} {
			r.needs = append(r.needs, "fallback.webpush.apps")
			out = append(out, r)
		}
	}
	return out
}

package broker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/config"
)

// Reloading is what a running broker takes a changed configuration from.
type Reloading struct {
	// Load reads the configuration with all its files. Its error names every mistake.
	// Nil: the broker cannot reload.
	Load func() (*config.Config, error)
	// Level is that of the logger. Nil: log.level stays.
	Level *slog.LevelVar
}

// live lists the keys that take effect in a running broker; a pattern that ends in .* is
// for a whole section. Users, tokens, key sets, revocation lists and certificates are not
// among them: their files are watched, and a reload reads them again.
func live() []string {
	return []string{
		"auth.acl", "mqtt.limits.*",
		"delivery.ack", "delivery.ack_window", "delivery.fallback_window", "delivery.ttl", "delivery.max_outstanding_per_device",
		"delivery.max_inflight_per_device", "delivery.forget_device_after",
		"fallback.*", "receipts.*", "log.level",
	}
}

func isLive(key string) bool {
	return slices.ContainsFunc(live(), func(pattern string) bool {
		section, ok := strings.CutSuffix(pattern, "*")
		return key == pattern || ok && strings.HasPrefix(key, section)
	})
}

var errNoReload = errors.New("this server was started without a configuration to reload")

// Reload takes up the changes of the configuration. A configuration with a mistake is
// refused whole, and the one in force stays. No connection is dropped. Keys that need
// a restart are named in the log.
func (b *Broker) Reload(ctx context.Context) error {
	b.reloads.Lock()
	defer b.reloads.Unlock()
	if b.reloading.Load == nil {
		b.log.Warn("reload refused", "error", errNoReload)
		return errNoReload
	}
	next, err := b.reloading.Load()
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			b.log.Error("reload refused, keeping the previous configuration", "error", line)
		}
		return err
	}
	if err := b.reloadFiles(next); err != nil {
		b.log.Error("reload refused, keeping the previous configuration", "error", err)
		return err
	}
	webhooks, err := webhooksOf(next.Receipts)
	servers, pushErr := newPushServers(next.Fallback, b.servers, b.log)
	if err = errors.Join(err, pushErr); err == nil {
		err = b.reloadReceipts(ctx, next, webhooks)
	}
	if err == nil {
		err = b.router.Reconfigure(servers.list(), servers.limits)
	}
	if err != nil {
		b.log.Error("reload refused, keeping the previous configuration", "error", err)
		return errors.Join(err, servers.discard(b.servers))
	}
	b.reloadPush(servers)
	changed := config.Changed(b.cfg, next)
	restart := slices.DeleteFunc(slices.Clone(changed), isLive)
	b.core.Reconfigure(deliveryOptions(next, false).Settings())
	b.reloadRules(next)
	if !b.auth.Open() && slices.Contains(changed, "auth.acl") {
		sayTopicsClosed(next.Auth.ACL, b.log)
	}
	if level := b.reloading.Level; level != nil {
		if err := level.UnmarshalText([]byte(next.Log.Level)); err != nil {
			return err // not reached: the configuration has been checked
		}
	}
	b.log.Info("configuration reloaded", "changed_since_start", strings.Join(changed, " "))
	if len(restart) > 0 {
		b.log.Warn("these changes take effect at the next start", "keys", strings.Join(restart, " "))
	}
	return nil
}

// reloadFiles reads users, keys, revocation lists and certificates again. The watch takes up
// their changes, too, but a reload must not be reported as done while one cannot be read.
func (b *Broker) reloadFiles(next *config.Config) error {
	changed := config.Changed(b.cfg, next)
	// The next start reads the files that the configuration names instead.
	replaced := func(key string) bool {
		return slices.ContainsFunc(changed, func(c string) bool { return c == key || strings.HasPrefix(c, key+".") })
	}
	return errors.Join(b.auth.Reload(replaced), b.files.Reload(replaced))
}

// reloadPush asks again for the pushes that the former notification servers did not serve.
func (b *Broker) reloadPush(servers pushServers) {
	changed := b.servers.changed(servers)
	b.servers = servers
	for _, name := range changed {
		b.log.Info("notification server configured", "server", name)
		b.core.PushPossible(name, "")
	}
}

// reloadRules takes up changed rules and limits of MQTT, and those of XMPP.
func (b *Broker) reloadRules(next *config.Config) {
	b.hook.Reconfigure(hookRules(next))
	b.hub.Reconfigure(hubBounds(next.MQTT.Limits))
	for _, g := range b.gates {
		g.Reconfigure(next.MQTT.Limits.Devices, next.Delivery.AckWindow)
	}
}

// reloadByAPI tells the caller every mistake by its key.
func (b *Broker) reloadByAPI(ctx context.Context) error {
	err := b.Reload(ctx)
	findings, ok := errors.AsType[config.Errors](err)
	if !ok {
		return err
	}
	refused := &api.ReloadError{}
	for _, f := range findings {
		refused.Faults = append(refused.Faults, api.ReloadFault{Key: f.Key, Rule: f.Rule})
	}
	return refused
}

package broker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/newcomers"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// newGates makes one Gate for each component. They are not connected yet.
func newGates(cfg *config.Config, core xmpp.Core, list *newcomers.List, log *slog.Logger) ([]*xmpp.Gate, error) {
	if len(cfg.XMPP.Components) == 0 {
		return nil, nil
	}
	key, err := registrationKey(cfg)
	if err != nil {
		return nil, err
	}
	_, several := core.(nodeCore)
	var gates []*xmpp.Gate
	for i, c := range cfg.XMPP.Components {
		o, err := XMPPOptions(cfg, c)
		if err != nil {
			return nil, fmt.Errorf("xmpp.components[%d].secret_file: %w", i, err)
		}
		o.Key, o.Newcomers, o.Standby, o.Logger = key, list, several, log
		gates = append(gates, xmpp.New(core, o))
	}
	return gates, nil
}

// XMPPOptions translates one component of the configuration, but for the registration key
// and the log.
func XMPPOptions(cfg *config.Config, c config.XMPPComponent) (xmpp.Options, error) {
	secret, err := config.ReadSecret("", c.SecretFile)
	if err != nil {
		return xmpp.Options{}, err
	}
	x := cfg.XMPP
	return xmpp.Options{
		Domain: c.Domain, Address: c.Address, Secret: secret, ReadSecret: func() ([]byte, error) { return config.ReadSecret("", c.SecretFile) }, Hosts: c.Hosts,
		NotifyAll: x.NotifyOn == config.NotifyAll, Title: x.Title, ShowBody: x.ShowBody, ShowSender: x.ShowSender, MinInterval: x.MinInterval,
		MaxDevices:    cfg.MQTT.Limits.Devices,
		MaxStanzaSize: int(x.MaxStanzaSize), WriteTimeout: x.WriteTimeout, PingInterval: x.PingInterval,
		ReconnectInitial: x.Reconnect.Initial, ReconnectMax: x.Reconnect.Max, Hold: cfg.Delivery.AckWindow,
	}, nil
}

// registrationKeyFile is the name in data_dir of the key that is made where none is
// configured.
const registrationKeyFile = "xmpp-registration-key"

// registrationKey reads the key of push registrations, or makes one. It is on the disk
// before it signs anything.
func registrationKey(cfg *config.Config) ([]byte, error) {
	name := cfg.XMPP.RegistrationKeyFile
	if name == "" && stateDir(cfg) == "" {
		return []byte(rand.Text()), nil // the registry does not outlive the process either
	}
	if name == "" {
		name = filepath.Join(stateDir(cfg), registrationKeyFile)
		if err := makeKey(name); err != nil {
			return nil, fmt.Errorf("make the registration key of xmpp: %w", err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("xmpp.registration_key_file: %w", err)
	}
	key := strings.TrimRight(string(b), "\r\n")
	if len(key) < 16 {
		return nil, fmt.Errorf("xmpp.registration_key_file: %s must hold at least 16 bytes: restore it from a backup, or remove it, and every app must register again", name)
	}
	return []byte(key), nil
}

// makeKey writes a new key unless there is one. A crash leaves no half of it.
func makeKey(name string) (err error) {
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), registrationKeyFile+".*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.WriteString(rand.Text() + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// XMPPStats are the figures of each of xmpp.components, in their order.
func (h *Heartline) XMPPStats() []xmpp.Stats {
	all := make([]xmpp.Stats, len(h.gates))
	for i, g := range h.gates {
		all[i] = g.Stats()
	}
	return all
}

// xmppFigures are the metrics of the components.
func (h *Heartline) xmppFigures(s scrape) {
	for _, st := range h.XMPPStats() {
		if st.Holds { // of several nodes one has the link
			s.gauge("xmpp_link_up", "1 while the component is connected to its XMPP server; the node that is to be connected tells it.", bit(st.Up), "domain", st.Domain)
		}
		s.gauge("xmpp_queue", "Stanzas waiting to be written.", float64(st.Queue), "domain", st.Domain)
		s.gauge("xmpp_devices", "Devices that are up over XMPP.", float64(st.Devices), "domain", st.Domain)
		s.counter("xmpp_dropped_total", "Answers dropped because the queue was full, and requests over the limit of one user.", float64(st.Dropped), "domain", st.Domain)
		for k, n := range st.Stanzas {
			s.counter("xmpp_stanzas_total", "Stanzas by direction and kind.", float64(n), "domain", st.Domain, "direction", k.Direction, "kind", k.Kind)
		}
		for outcome, n := range st.Publishes {
			s.counter("xmpp_publishes_total", "Publishes of the XMPP server (XEP-0357) by outcome.", float64(n), "domain", st.Domain, "outcome", outcome)
		}
	}
}

// xmppReady adds the links to the checks of /readyz. A link that is down refuses no
// notification.
func (h *Heartline) xmppReady(r *overview.Readiness) {
	for _, g := range h.gates {
		part := "xmpp " + g.Domain()
		switch up, cause := g.Up(); {
		case up:
			r.Add(part, "up")
		case g.Holds() || h.node == nil:
			r.Fault(part, "down: "+cause)
		default:
			h.node.linkReady(r, part, g.Domain())
		}
	}
}

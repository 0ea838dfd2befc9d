package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmppkit"
)

// visit is one path being played by one user of an XMPP server.
type visit struct {
	*stage
	server *xmppkit.Server
	user   string
	client *xmppkit.Client
	sender *xmppkit.Client // another user
}

// xmppPath is one of the ways through the loop over XMPP.
type xmppPath struct {
	path
	play func(*visit) error
}

var xmppPaths = []xmppPath{
	{paths[0], func(v *visit) error { return v.journey("Hello", delivery.EventReceived) }},
	{
		path{
			title: "the phone has lost its network, and nobody knows: a push after the ack window",
			want: []delivery.EventKind{
				delivery.EventAccepted, delivery.EventPublished, delivery.EventAckTimeout, delivery.EventPushRequested,
				delivery.EventPushed, delivery.EventReceived,
			},
			push: 1,
		},
		func(v *visit) error {
			v.client.HalfOpen()
			if err := v.journey("Are you there?", delivery.EventPushed); err != nil {
				return err
			}
			v.say("the network returns, and %s answers", v.user)
			v.client.Return()
			return v.until(delivery.EventReceived)
		},
	},
	{paths[2], func(v *visit) error {
		if err := v.leave(); err != nil {
			return err
		}
		if err := v.journey("While you were away", delivery.EventPushed); err != nil {
			return err
		}
		return v.comeBack()
	}},
	{paths[3], func(v *visit) error {
		v.client.HalfOpen()
		if err := v.journey("Once more", delivery.EventRedelivered); err != nil {
			return err
		}
		v.say("the network returns, and %s answers", v.user)
		v.client.Return()
		return v.until(delivery.EventReceived)
	}},
	{
		path{
			title: "the session is dead: the server pushes our own stanza back, which ends the ack window and is no notification",
			want: []delivery.EventKind{
				delivery.EventAccepted, delivery.EventPublished, delivery.EventNacked, delivery.EventPushRequested,
				delivery.EventPushed, delivery.EventReceived,
			},
			push: 1,
		},
		func(v *visit) error {
			session := v.client.Session()
			v.say("the connection of %s is reset; the server keeps the session for it", v.user)
			v.client.Kill()
			if err := v.journey("Still there?", delivery.EventPushed); err != nil {
				return err
			}
			v.say("%s resumes the session, and answers", v.user)
			if err := v.login(session); err != nil {
				return err
			}
			return v.until(delivery.EventReceived)
		},
	},
	{
		path{
			title: "another user writes to one who is absent: the server's publish becomes a notification",
			want:  paths[2].want, push: 1,
		},
		func(v *visit) error {
			if err := v.leave(); err != nil {
				return err
			}
			v.say("a user of the server writes to %s", v.dev.account)
			if err := v.sender.Send("<message type='chat' id='hi' to='" + v.dev.account + "'><body>Hi!</body></message>"); err != nil {
				return err
			}
			if err := v.until(delivery.EventPushed); err != nil {
				return err
			}
			page, _, err := v.broker.Core().List(v.ctx, delivery.Filter{Account: v.dev.account, Limit: 10})
			if err != nil {
				return err
			}
			if len(page) != 1 {
				return fmt.Errorf("one message became %d notifications", len(page))
			}
			v.id = page[0].ID
			return v.comeBack()
		},
	},
}

// RunXMPP plays the paths over XMPP, on each of ejabberd and Prosody that is installed. It
// returns an error unless each went as contract §2 says, and one that wraps
// xmppkit.ErrMissing where neither is installed. It takes about 20 s a server. edit changes the
// windows of the delivery, for a machine that is too busy for the default ones; nil leaves them.
func RunXMPP(ctx context.Context, out io.Writer, edit func(*config.Delivery)) error {
	var missing []error
	for _, kind := range []string{xmppkit.Prosody, xmppkit.Ejabberd} {
		if err := xmppkit.Installed(kind); err != nil {
			missing = append(missing, err)
			continue
		}
		if err := runXMPP(ctx, out, kind, edit); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	if len(missing) == 2 {
		return fmt.Errorf("no XMPP server to play on; install one: %w", errors.Join(missing...))
	}
	return nil
}

func runXMPP(ctx context.Context, out io.Writer, kind string, edit func(*config.Delivery)) (err error) {
	fmt.Fprintf(out, "Starting %s, a broker, a stand-in for Apple's push service and a phone for each path.\n", kind)
	dir, err := os.MkdirTemp("", "heartline-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	own := filepath.Join(dir, kind)
	if err := os.Mkdir(own, 0o700); err != nil {
		return err
	}
	users := []string{"anna", "ben", "clara", "dora", "emil", "frida", "gustav"}
	server, err := xmppkit.Start(ctx, kind, own, xmppkit.Options{Users: users})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	servers, err := startServers()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.close()) }()
	cfg, err := servers.config(dir)
	if err != nil {
		return err
	}
	secret := filepath.Join(dir, "xmpp-secret")
	if err := os.WriteFile(secret, []byte(server.Secret), 0o600); err != nil {
		return fmt.Errorf("write the component's secret: %w", err)
	}
	if edit != nil {
		edit(&cfg.Delivery)
	}
	cfg.MQTT.Address = ""
	cfg.XMPP.Components = []config.XMPPComponent{{Domain: server.Component, Address: server.ComponentAddress, SecretFile: secret, Hosts: []string{server.Host}}}
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	if err := b.Start(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s takes components at %s and clients at %s.\n", kind, server.ComponentAddress, server.ClientAddress)
	sender, err := xmppkit.Dial(ctx, server.Account(users[len(xmppPaths)], "phone"), true, nil)
	if err != nil {
		return err
	}
	defer sender.Close()
	visits := make([]*visit, len(xmppPaths))
	for i := range xmppPaths {
		account := users[i] + "@" + server.Host
		st, err := newStageFor(ctx, b, servers.platforms()[0], i, newDevice(account, xmpp.DeviceID(account, "phone")))
		if err != nil {
			return err
		}
		st.over = xmppMeanings
		visits[i] = &visit{stage: st, server: server, user: users[i], sender: sender}
		go visits[i].run(xmppPaths[i])
	}
	failed := 0
	for i, p := range xmppPaths {
		fmt.Fprintf(out, "\n%d. Where %s\n", i+1, p.title)
		for line := range visits[i].lines {
			fmt.Fprintf(out, "   %s\n", line)
		}
		if err := visits[i].err; err != nil {
			failed++
			fmt.Fprintf(out, "   WRONG: %v\n", err)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d paths did not go as they should", failed, len(xmppPaths))
	}
	fmt.Fprintf(out, "\nAll %d paths went as they should over %s.\n\n", len(xmppPaths), kind)
	return nil
}

func (v *visit) run(p xmppPath) {
	defer close(v.lines)
	defer v.events.Close()
	ctx, cancel := context.WithTimeout(v.ctx, 3*time.Minute)
	defer cancel()
	v.ctx = ctx
	if v.err = v.enter(); v.err == nil {
		if v.err = p.play(v); v.err == nil {
			v.err = v.check(p.path)
		}
	}
	if v.client != nil {
		v.client.Kill()
	}
}

// enter logs in, registers for push and announces the device.
func (v *visit) enter() error {
	if err := v.linked(); err != nil {
		return err
	}
	if err := v.login(nil); err != nil {
		return err
	}
	v.say("%s logs in, registers for push and announces the phone", v.user)
	if _, err := v.client.Register(v.server.Component, "phone", v.reg.Token); err != nil {
		return fmt.Errorf("register for push: %w", err)
	}
	return v.announce()
}

func (v *visit) login(session *xmppkit.Session) (err error) {
	v.client, err = xmppkit.Dial(v.ctx, v.server.Account(v.user, "phone"), true, session)
	return err
}

func (v *visit) announce() error {
	if err := v.client.Announce(v.server.Component, "phone"); err != nil {
		return err
	}
	return v.await("the phone's channel", func() bool { return v.up() })
}

func (v *visit) up() bool {
	d, err := v.broker.Core().Device(v.dev.account, v.dev.id)
	return err == nil && d.Up
}

// leave logs out, and returns when Heartline knows.
func (v *visit) leave() error {
	v.say("%s logs out", v.user)
	v.client.Close()
	return v.await("the end of the phone's channel", func() bool { return !v.up() })
}

func (v *visit) comeBack() error {
	v.say("%s logs in again, and announces the phone", v.user)
	if err := v.login(nil); err != nil {
		return err
	}
	if err := v.client.Announce(v.server.Component, "phone"); err != nil {
		return err
	}
	return v.until(delivery.EventReceived)
}

// journey has a backend notify the user, and waits for an event.
func (v *visit) journey(title string, kind delivery.EventKind) error {
	if err := v.notify(title); err != nil {
		return err
	}
	return v.until(kind)
}

// linked waits for Heartline's link to the server.
func (v *visit) linked() error {
	return v.await("the link to the server", func() bool {
		all := v.broker.XMPPStats()
		return len(all) == 1 && all[0].Up
	})
}

func (v *visit) await(what string, done func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-v.ctx.Done():
			return fmt.Errorf("%s did not come: %w", what, v.ctx.Err())
		}
	}
	return nil
}

// xmppMeanings are those of events that mean something else over XMPP.
var xmppMeanings = map[delivery.EventKind]string{
	delivery.EventPublished:  "the pseudo-notification is on its way as an IQ",
	delivery.EventAckTimeout: "no result of the IQ within the ack window",
	delivery.EventNacked:     "the server says that the session is dead",
	delivery.EventReceived:   "the IQ's result: delivered",
}

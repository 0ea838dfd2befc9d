// Package demo plays the loop's four paths once, on embedded parts: a broker with
// a durable store in a directory that is thrown away, the stand-in for Apple's
// server, and four devices. It is `heartline demo`.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// bundleID is the app that all four devices run.
const bundleID = "com.example.heartline"

// path is one of the four ways through the loop.
type path struct {
	title string
	play  func(*stage) error
	want  []delivery.EventKind
	push  int // requests that Apple is to have seen
}

var paths = []path{
	{
		"the channel is up, and the device acknowledges: no push",
		online,
		[]delivery.EventKind{delivery.EventAccepted, delivery.EventPublished, delivery.EventReceived}, 0,
	},
	{
		"the channel is up, and no ack comes: a push after the ack window",
		silent,
		[]delivery.EventKind{
			delivery.EventAccepted, delivery.EventPublished, delivery.EventAckTimeout, delivery.EventPushRequested,
			delivery.EventPushed, delivery.EventReceived,
		}, 1,
	},
	{
		"the device is offline: a push at once, and delivery over the channel when it returns",
		offline,
		[]delivery.EventKind{
			delivery.EventAccepted, delivery.EventPushRequested, delivery.EventPushed, delivery.EventPublished, delivery.EventReceived,
		}, 1,
	},
	{
		"the push goes unanswered: a second look at the channel, and delivery over it",
		unanswered,
		[]delivery.EventKind{
			delivery.EventAccepted, delivery.EventPublished, delivery.EventAckTimeout, delivery.EventPushRequested,
			delivery.EventPushed, delivery.EventFallbackTimeout, delivery.EventRedelivered, delivery.EventReceived,
		}, 1,
	},
}

// Run plays the four paths, tells them line by line, and returns an error unless
// each went as contract §2 says. It takes about 15 s: the windows are the real
// ones.
func Run(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprintln(out, "Starting a broker, a stand-in for Apple's server and four devices in this process.")
	dir, err := os.MkdirTemp("", "heartline-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	sim, err := apnssim.Start(apnssim.Options{Topics: []string{bundleID}})
	if err != nil {
		return fmt.Errorf("start the stand-in for Apple's server: %w", err)
	}
	defer func() { err = errors.Join(err, sim.Close()) }()
	cfg, err := Config(dir, sim)
	if err != nil {
		return err
	}
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	if err := b.Start(); err != nil {
		return err
	}
	fmt.Fprintf(out, "The broker is at %s, the stand-in for Apple's server at %s, the store in %s.\n", b.MQTTAddr(), sim.URL(), dir)

	// All four play at once, so that their windows run side by side; they are told
	// one after the other.
	stages := make([]*stage, len(paths))
	for i, p := range paths {
		stages[i] = newStage(ctx, b, sim, i+1)
		go stages[i].run(p)
	}
	failed := 0
	for i, p := range paths {
		fmt.Fprintf(out, "\n%d. Where %s\n", i+1, p.title)
		for line := range stages[i].lines {
			fmt.Fprintf(out, "   %s\n", line)
		}
		if stages[i].err != nil {
			failed++
			fmt.Fprintf(out, "   WRONG: %v\n", stages[i].err)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d paths did not go as they should", failed, len(paths))
	}
	fmt.Fprintf(out, "\nAll four paths went as they should: four notifications, four acknowledged, three pushes, no duplicate.\n")
	return nil
}

// Config is a configuration that pushes to sim and keeps everything in dir.
func Config(dir string, sim *apnssim.Server) (*config.Config, error) {
	ca := filepath.Join(dir, "apns-ca.pem")
	if err := os.WriteFile(ca, sim.CAPEM(), 0o600); err != nil {
		return nil, fmt.Errorf("write the simulator's CA: %w", err)
	}
	key := sim.Key()
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", ""
	apns := &cfg.Fallback.APNs
	apns.Enabled, apns.Key, apns.KeyID, apns.TeamID = true, config.Secret(key.PEM), key.KeyID, key.TeamID
	apns.Topic, apns.Endpoint, apns.CAFile = bundleID, sim.URL(), ca
	return cfg, nil
}

// stage is one path being played.
type stage struct {
	ctx    context.Context
	broker *broker.Broker
	sim    *apnssim.Server
	dev    *device
	token  string
	events *delivery.Subscription
	seen   []delivery.AccountEvent
	lines  chan string
	err    error // read after lines is closed
	id     string
}

func newStage(ctx context.Context, b *broker.Broker, sim *apnssim.Server, n int) *stage {
	account := []string{"", "anna", "ben", "clara", "dora"}[n]
	return &stage{
		ctx: ctx, broker: b, sim: sim, dev: newDevice(account, account+"-phone"), token: strings.Repeat(fmt.Sprintf("%02x", n), 32),
		events: b.Core().Subscribe(1024), lines: make(chan string, 64), // enough for every line: a path never waits to be told
	}
}

func (s *stage) say(format string, args ...any) {
	s.lines <- time.Now().Format("15:04:05.000  ") + fmt.Sprintf(format, args...)
}

func (s *stage) run(p path) {
	defer close(s.lines)
	defer s.events.Close()
	defer s.dev.disconnect()
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	s.ctx = ctx
	if s.err = s.register(); s.err == nil {
		if s.err = p.play(s); s.err == nil {
			s.err = s.check(p)
		}
	}
}

// register makes the device known, with its push token.
func (s *stage) register() error {
	token := &delivery.Registration{Server: delivery.ServerAPNs, Token: s.token}
	return s.broker.Core().PutDevice(s.ctx, s.dev.account, s.dev.id, token)
}

func (s *stage) connect(silent bool) error {
	s.say("%s connects and subscribes", s.dev.id)
	return s.dev.connect(s.broker.MQTTAddr(), "heartline/devices/"+s.dev.id+"/notifications", silent)
}

func (s *stage) notify(title string) error {
	s.say("a backend says: tell %s %q", s.dev.account, title)
	n, err := s.broker.Notify(s.ctx, delivery.Request{Account: s.dev.account, Title: title, Body: "from the demo"})
	if err == nil {
		s.id = n.ID
	}
	return err
}

var meanings = map[delivery.EventKind]string{
	delivery.EventAccepted:        "it is on the disk",
	delivery.EventPublished:       "the pseudo-notification is on its way over the channel",
	delivery.EventRedelivered:     "it is sent over the channel again",
	delivery.EventAckTimeout:      "no PUBACK within the ack window of 3 s",
	delivery.EventPushRequested:   "the push is recorded, then asked for",
	delivery.EventPushed:          "Apple's server has accepted the push",
	delivery.EventFallbackTimeout: "still no ack 10 s after the push: look at the channel again",
	delivery.EventReceived:        "the device's PUBACK: delivered",
}

// until waits for an event of this path's notification, telling all on the way.
func (s *stage) until(kind delivery.EventKind) error {
	for {
		select {
		case e, ok := <-s.events.C:
			if !ok {
				return errors.New("the broker stopped")
			}
			if e.Account != s.dev.account {
				continue
			}
			s.seen = append(s.seen, e)
			detail := ""
			if e.Detail != "" {
				detail = " (" + e.Detail + ")"
			}
			s.say("  %-16s %s%s", e.Kind, meanings[e.Kind], detail)
			if e.Kind == kind {
				return nil
			}
		case <-s.ctx.Done():
			return fmt.Errorf("%v did not come: %w", kind, s.ctx.Err())
		}
	}
}

// check compares the stored timeline, and what Apple saw, with what §2 says.
func (s *stage) check(p path) error {
	v, err := s.broker.Timeline(s.ctx, s.id)
	if err != nil {
		return err
	}
	var got []delivery.EventKind
	for _, e := range v.Timeline {
		got = append(got, e.Kind)
	}
	if !slices.Equal(got, p.want) {
		return fmt.Errorf("the timeline is %v, want %v", got, p.want)
	}
	if v.State != delivery.StateAcked {
		return fmt.Errorf("the notification is %v, want acked", v.State)
	}
	if n := len(s.sim.ReceivedFor(s.token)); n != p.push {
		return fmt.Errorf("Apple's server has seen %d pushes, want %d", n, p.push)
	}
	return nil
}

func online(s *stage) error {
	if err := s.connect(false); err != nil {
		return err
	}
	if err := s.notify("Hello"); err != nil {
		return err
	}
	return s.until(delivery.EventReceived)
}

func silent(s *stage) error {
	if err := s.connect(true); err != nil {
		return err
	}
	if err := s.notify("Are you there?"); err != nil {
		return err
	}
	if err := s.until(delivery.EventPushed); err != nil {
		return err
	}
	s.say("%s sends the PUBACK it kept back; the connection has stayed up", s.dev.id)
	if err := s.dev.speak(); err != nil {
		return err
	}
	return s.until(delivery.EventReceived)
}

func offline(s *stage) error {
	if err := s.notify("While you were away"); err != nil {
		return err
	}
	if err := s.until(delivery.EventPushed); err != nil {
		return err
	}
	if err := s.connect(false); err != nil {
		return err
	}
	return s.until(delivery.EventReceived)
}

func unanswered(s *stage) error {
	if err := s.connect(true); err != nil {
		return err
	}
	if err := s.notify("Once more"); err != nil {
		return err
	}
	if err := s.until(delivery.EventPushed); err != nil {
		return err
	}
	s.say("nobody looks at the phone; it still holds its connection")
	s.dev.listenAgain()
	return s.until(delivery.EventReceived)
}

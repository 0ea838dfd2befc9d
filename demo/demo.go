// Package demo plays the loop's four paths once, on embedded parts: a broker with
// a durable store in a directory that is thrown away, stand-ins for Apple's, Google's
// and the browsers' push services (servers.go), and for each path an iPhone, an Android
// phone and a browser. It is `heartline demo`.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/delivery"
)

// path is one of the four ways through the loop.
type path struct {
	title string
	play  func(*stage) error
	want  []delivery.EventKind
	push  int // requests that each device's notification server must have received
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
	fmt.Fprintln(out, "Starting a broker, stand-ins for Apple's, Google's and the browsers' push services, and twelve devices in this process.")
	dir, err := os.MkdirTemp("", "heartline-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	servers, err := startServers()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.close()) }()
	cfg, err := servers.config(dir)
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
	fmt.Fprintf(out, "The broker is at %s, Apple's server at %s, Google's at %s, the browsers' at %s, the store in %s.\n",
		b.MQTTAddr(), servers.apns.URL(), servers.fcm.URL(), servers.webpush.URL(), dir)

	// All play at once, so that their windows run side by side; they are told one after
	// the other, the iPhone's line by line.
	stages := make([][]*stage, len(paths))
	for i := range paths {
		for _, platform := range servers.platforms() {
			st, err := newStage(ctx, b, platform, i)
			if err != nil {
				return err
			}
			stages[i] = append(stages[i], st)
		}
	}
	for i, p := range paths {
		for _, st := range stages[i] {
			go st.run(p)
		}
	}
	failed, pushes := 0, 0
	for i, p := range paths {
		fmt.Fprintf(out, "\n%d. Where %s\n", i+1, p.title)
		for n, st := range stages[i] {
			for line := range st.lines {
				if n == 0 {
					fmt.Fprintf(out, "   %s\n", line)
				}
			}
			switch {
			case st.err != nil:
				failed++
				fmt.Fprintf(out, "   WRONG: %s: %v\n", st.dev.id, st.err)
			case n > 0:
				fmt.Fprintf(out, "   %s, the same way: %s\n", st.dev.id, st.told())
			}
			pushes += p.push
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d stories did not go as they should", failed, len(paths)*len(stages[0]))
	}
	fmt.Fprintf(out, "\nAll four paths went as they should, on an iPhone, an Android phone and in a browser: twelve notifications, twelve acknowledged, %d pushes, no duplicate.\n", pushes)
	return nil
}

// stage is one path being played by one device.
type stage struct {
	ctx    context.Context
	broker *broker.Broker
	on     platform
	reg    delivery.Registration
	dev    *device
	events *delivery.Subscription
	seen   []delivery.AccountEvent
	lines  chan string
	err    error // read after lines is closed
	id     string
	over   map[delivery.EventKind]string // meanings in place of those of MQTT
}

func newStage(ctx context.Context, b *broker.Broker, on platform, path int) (*stage, error) {
	name := []string{"anna", "ben", "clara", "dora"}[path]
	return newStageFor(ctx, b, on, path, newDevice(name+"@"+on.device, name+"-"+on.device))
}

func newStageFor(ctx context.Context, b *broker.Broker, on platform, path int, dev *device) (*stage, error) {
	reg, err := on.register(path)
	if err != nil {
		return nil, fmt.Errorf("make a registration of %s: %w", on.device, err)
	}
	return &stage{
		ctx: ctx, broker: b, on: on, reg: reg, dev: dev,
		events: b.Core().Subscribe(1024), lines: make(chan string, 64), // enough for every line: a path never waits to be told
	}, nil
}

// told lists the events that the device has seen, with the push service by name.
func (s *stage) told() string {
	var names []string
	for _, e := range s.seen {
		name := e.Kind.String()
		if e.Kind == delivery.EventPushed {
			name += " by " + s.on.server
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
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

// register makes the device known, with its push registration.
func (s *stage) register() error {
	return s.broker.Core().PutDevice(s.ctx, s.dev.account, s.dev.id, &s.reg)
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
	delivery.EventPushed:          "the push service has accepted the push",
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
			meaning := meanings[e.Kind]
			if over := s.over[e.Kind]; over != "" {
				meaning = over
			}
			s.say("  %-16s %s%s", e.Kind, meaning, detail)
			if e.Kind == kind {
				return nil
			}
		case <-s.ctx.Done():
			return fmt.Errorf("%v did not come: %w", kind, s.ctx.Err())
		}
	}
}

// check compares the stored timeline, and the pushes received, with contract §2.
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
	if n := s.on.received(s.reg.Token); n != p.push {
		return fmt.Errorf("the push service of %s has received %d pushes, want %d", s.on.server, n, p.push)
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

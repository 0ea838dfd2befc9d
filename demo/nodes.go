package demo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/pgkit"
	"github.com/heartline-mqtt/heartline/wire"
)

// NodesOptions say how the nodes of RunNodes are run.
type NodesOptions struct {
	// Program is this program's file, which each node runs as `serve --config FILE`.
	Program string
	// Environ is the environment of the nodes. Variables that would configure them are
	// left out.
	Environ []string
	// Postgres is the URL of a database in which the demo makes a schema, and removes it at
	// the end; "": a PostgreSQL of its own.
	Postgres string
}

// users are those of the accounts; all but the first are notified while their owner is
// dead.
var users = []string{"anna", "ben", "clara", "dora", "emil", "frida", "gustav", "hanna", "ida", "jan", "kurt"}

// RunNodes plays several nodes over one PostgreSQL: the device at one node, the backend at
// another, a third owns the account and is killed in mid-delivery. It returns an error
// unless every notification that was accepted has been delivered, and one that wraps
// pgkit.ErrMissing where there is no PostgreSQL. It takes about 20 s: the lease is the
// default.
func RunNodes(ctx context.Context, out io.Writer, o NodesOptions) (err error) {
	dir, err := os.MkdirTemp("", "heartline-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f := &fleet{dir: dir, program: o.Program, url: o.Postgres, schema: "heartline_demo_" + strings.ToLower(rand.Text()[:10])}
	for _, kv := range o.Environ {
		if !strings.HasPrefix(kv, "HEARTLINE_") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			f.environ = append(f.environ, kv)
		}
	}
	if f.url == "" {
		fmt.Fprintln(out, "Starting a PostgreSQL in a directory that is thrown away.")
		pg, wrong := pgkit.Start(ctx, "fsync = on")
		if wrong != nil {
			return fmt.Errorf("start a PostgreSQL: %w", wrong)
		}
		defer func() { err = errors.Join(err, pg.Close()) }()
		f.url = pg.URL("admin", "postgres", "")
	}
	if f.sim, err = apnssim.Start(apnssim.Options{Topics: []string{bundleID}}); err != nil {
		return fmt.Errorf("start the stand-in for Apple's push service: %w", err)
	}
	defer func() { err = errors.Join(err, f.sim.Close()) }()
	defer func() { err = errors.Join(err, f.close()) }()
	s := &story{fleet: f, ctx: ctx, out: out}
	defer s.end()
	for _, act := range []func() error{s.open, s.apart, s.crash, s.back, s.judge} {
		if err := act(); err != nil {
			return err
		}
	}
	return nil
}

// story is the demo of several nodes.
type story struct {
	*fleet
	ctx    context.Context
	out    io.Writer
	phones []*phone // the first is Anna's
	lease  time.Duration

	mu       sync.Mutex
	accepted []told
}

// told is a notification that a node has accepted.
type told struct {
	id string
	to *phone
}

func (s *story) say(format string, args ...any) {
	fmt.Fprintln(s.out, "   "+time.Now().Format("15:04:05.000  ")+fmt.Sprintf(format, args...))
}

// title begins an act.
func (s *story) title(text string) { fmt.Fprintf(s.out, "\n%s\n", text) }

// open starts the nodes.
func (s *story) open() error {
	cfg := config.Default()
	cfg.Store.Engine, cfg.Store.Postgres.URL, cfg.Store.Postgres.Schema = config.EnginePostgres, config.Secret(s.url), s.schema
	s.lease = cfg.Cluster.Lease
	ctx, cancel := context.WithTimeout(s.ctx, nodePatience)
	defer cancel()
	var err error
	if s.db, err = broker.OpenDatabase(ctx, cfg, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "The database is at %s.\nStarting three nodes, each a process of its own, and a stand-in for Apple's push service.\n", s.db.Place())
	for _, name := range []string{"a", "b", "c"} {
		if _, err := s.start(s.ctx, name); err != nil {
			return err
		}
	}
	owned, err := s.shares(s.ctx, "a", "b", "c")
	if err != nil {
		return err
	}
	for _, m := range s.nodes {
		fmt.Fprintf(s.out, "   node %s: process %d, MQTT at %s, HTTP at %s, owns %d of 1024 partitions of the accounts\n", m.name, m.cmd.Process.Pid, m.mqtt, m.http, owned[m.name])
	}
	return s.meet()
}

// meet finds accounts that node a owns, and has their phones connect to the others.
func (s *story) meet() error {
	for n := 0; len(s.phones) < len(users); n++ {
		name := users[len(s.phones)]
		if n > 0 {
			name = fmt.Sprint(name, n)
		}
		account := name + "@example.org"
		_, owner, err := s.db.Owner(s.ctx, account)
		if err != nil {
			return err
		}
		if owner != "a" {
			continue
		}
		p := newPhone(account, name+"-iphone", len(s.phones))
		p.node = []string{"b", "c"}[len(s.phones)%2]
		at := s.node(p.node)
		token := map[string]any{"apns": map[string]any{"token": p.token, "topic": bundleID, "environment": "production"}}
		if err := at.call(s.ctx, http.MethodPut, "/v1/accounts/"+account+"/devices/"+p.id, token, nil); err != nil {
			return err
		}
		s.phones = append(s.phones, p)
	}
	return nil
}

func (s *story) connect(p *phone) error {
	return p.connect(s.node(p.node).mqtt, "heartline/devices/"+p.id+"/notifications", false)
}

// notify has a backend post at a node until that has accepted it.
func (s *story) notify(p *phone, at *member, title string) (id string, err error) {
	s.mu.Lock()
	id = fmt.Sprintf("demo-%d", len(s.accepted)+1)
	s.accepted = append(s.accepted, told{id, p})
	s.mu.Unlock()
	body := map[string]any{"id": id, "account": p.account, "title": title, "body": "from the demo"}
	return id, until(s.ctx, "the acceptance of "+id+" by node "+at.name, func() (bool, error) {
		err := at.call(s.ctx, http.MethodPost, "/v1/notifications", body, nil)
		return err == nil, err
	})
}

// sees waits for an event in a notification's timeline, as a node tells.
func (s *story) sees(event, id string, at *member) (v wire.NotificationView, err error) {
	err = until(s.ctx, event+" in the timeline of "+id, func() (bool, error) {
		v = wire.NotificationView{}
		err := at.call(s.ctx, http.MethodGet, "/v1/notifications/"+id, nil, &v)
		return slices.ContainsFunc(v.Timeline, func(e wire.TimelineEvent) bool { return e.Event == event }), err
	})
	return v, err
}

// timeline tells a notification's.
func (s *story) timeline(v wire.NotificationView) {
	for _, e := range v.Timeline {
		at, detail := e.Time, ""
		if t, err := time.Parse(time.RFC3339, e.Time); err == nil {
			at = t.Local().Format("15:04:05.000")
		}
		if e.Detail != "" {
			detail = " (" + e.Detail + ")"
		}
		fmt.Fprintf(s.out, "   %s    %-16s %s%s\n", at, e.Event, nodeMeanings[e.Event], detail)
	}
}

// apart plays a notification that three nodes have a part in.
func (s *story) apart() error {
	anna := s.phones[0]
	s.title("1. Where the device is at one node, the backend at another, and a third owns the account")
	part, owner, err := s.db.Owner(s.ctx, anna.account)
	if err != nil {
		return err
	}
	s.say("node %s owns %s: partition %d", owner, anna.account, part)
	s.say("%s connects to node %s and subscribes", anna.id, anna.node)
	if err := s.connect(anna); err != nil {
		return err
	}
	s.say("a backend says to node c: tell %s %q", anna.account, "Hello")
	id, err := s.notify(anna, s.node("c"), "Hello")
	if err != nil {
		return err
	}
	v, err := s.sees("received", id, s.node("b"))
	if err != nil {
		return err
	}
	s.say("node b, asked for its timeline, says:")
	s.timeline(v)
	return nil
}

// crash kills the owner in mid-delivery.
func (s *story) crash() error {
	anna, b, c := s.phones[0], s.node("b"), s.node("c")
	s.title("2. Where the owner is killed while a notification is on its way")
	for _, p := range s.phones[1:] {
		if err := s.connect(p); err != nil {
			return err
		}
	}
	anna.hush()
	s.say("%s is in a tunnel: its connection to node %s stays, its acks do not come through", anna.id, anna.node)
	s.say("a backend says to node c: tell %s %q", anna.account, "The train is late")
	id, err := s.notify(anna, c, "The train is late")
	if err != nil {
		return err
	}
	if err := anna.hears(s.ctx, id); err != nil {
		return err
	}
	if _, err := s.sees("published", id, c); err != nil {
		return err
	}
	a := s.node("a")
	s.say("the pseudo-notification is on its way, and node a waits for the ack: kill -9 of node a, process %d", a.cmd.Process.Pid)
	a.kill()
	killed := time.Now()
	anna.listenAgain()
	s.say("%s is out of the tunnel; backends notify %d other accounts of node a, at nodes b and c", anna.id, len(s.phones)-1)
	others := len(s.phones) - 1
	answers, errs := make(chan time.Duration, others), make(chan error, others)
	for i, p := range s.phones[1:] {
		go func() {
			_, err := s.notify(p, []*member{b, c}[i%2], "Meanwhile")
			answers <- time.Since(killed)
			errs <- err
		}()
	}
	var took []time.Duration
	for range others {
		took = append(took, <-answers)
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	slices.Sort(took)
	s.say("they are accepted: the first %.1f s after the kill, the last %.1f s (the lease is %s)", took[0].Seconds(), took[others-1].Seconds(), s.lease)
	v, err := s.sees("received", id, c)
	if err != nil {
		return err
	}
	s.say("%s has %q; node c, asked for the timeline, says:", anna.id, "The train is late")
	s.timeline(v)
	owned, err := s.shares(s.ctx, "b", "c")
	if err != nil {
		return err
	}
	s.say("node b owns %d partitions now, node c %d", owned["b"], owned["c"])
	return nil
}

// back starts the killed node again.
func (s *story) back() error {
	anna := s.phones[0]
	s.title("3. Where the node comes back")
	began := time.Now()
	a, err := s.start(s.ctx, "a")
	if err != nil {
		return err
	}
	s.say("node a runs again, as process %d", a.cmd.Process.Pid)
	owned, err := s.shares(s.ctx, "a", "b", "c")
	if err != nil {
		return err
	}
	s.say("%.1f s after its start it owns %d partitions, which the others have handed over", time.Since(began).Seconds(), owned["a"])
	s.say("a backend says to node a: tell %s %q", anna.account, "Welcome back")
	id, err := s.notify(anna, a, "Welcome back")
	if err != nil {
		return err
	}
	if _, err := s.sees("received", id, a); err != nil {
		return err
	}
	s.say("%s, still connected to node %s, has it", anna.id, anna.node)
	return nil
}

// judge counts.
func (s *story) judge() error {
	var wrong []error
	for _, n := range s.accepted {
		v, err := s.sees("received", n.id, s.node("b"))
		if err == nil && v.State != "acked" {
			err = fmt.Errorf("%s is %s, not acked", n.id, v.State)
		}
		wrong = append(wrong, err)
		wrong = append(wrong, n.to.heardWell(n.id))
	}
	pushes := 0
	for _, p := range s.phones {
		of := map[string]int{}
		for _, r := range s.sim.ReceivedFor(p.token) {
			if r.Status == http.StatusOK {
				of[r.CollapseID]++
				pushes++
			}
		}
		for id, n := range of {
			if n > 1 {
				wrong = append(wrong, fmt.Errorf("%s was pushed %d times", id, n))
			}
		}
	}
	status, err := s.db.Status(s.ctx)
	if err != nil {
		return err
	}
	if n := status.Unaccounted(); n != 0 {
		wrong = append(wrong, fmt.Errorf("%d deliveries are unaccounted for in the database", n))
	}
	if err := errors.Join(wrong...); err != nil {
		return fmt.Errorf("not all went as it should: %w", err)
	}
	fmt.Fprintf(s.out, "\n%d notifications accepted, all acknowledged by their devices, none lost, %d pushed.\n", len(s.accepted), pushes)
	return nil
}

// end disconnects the phones.
func (s *story) end() {
	for _, p := range s.phones {
		p.disconnect()
	}
}

// phone is a device that keeps a ledger.
type phone struct {
	*device
	token string
	node  string // that it is connected to

	ledger  sync.Mutex
	copies  map[string]int // by notification
	first   map[string]int // of these, how many did not say that they are copies
	changed chan struct{}  // closed at each change
}

func newPhone(account, id string, n int) *phone {
	p := &phone{
		device: newDevice(account, id), token: strings.Repeat(fmt.Sprintf("%02x", n+1), 32),
		copies: map[string]int{}, first: map[string]int{}, changed: make(chan struct{}),
	}
	p.heard = p.note
	return p
}

func (p *phone) note(pk packets.Packet) {
	var n wire.Pseudo
	if err := json.Unmarshal(pk.Payload, &n); err != nil {
		return // judge misses it
	}
	p.ledger.Lock()
	defer p.ledger.Unlock()
	p.copies[n.ID]++
	if !n.Redelivery {
		p.first[n.ID]++
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// hush has the phone keep its acks back.
func (p *phone) hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
}

// hears waits for a notification.
func (p *phone) hears(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	for {
		p.ledger.Lock()
		n, changed := p.copies[id], p.changed
		p.ledger.Unlock()
		if n > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s did not come to %s: %w", id, p.device.id, ctx.Err())
		}
	}
}

// heardWell reports whether a notification came, and once at most without saying that it
// is a copy.
func (p *phone) heardWell(id string) error {
	p.ledger.Lock()
	defer p.ledger.Unlock()
	switch {
	case p.copies[id] == 0:
		return fmt.Errorf("%s did not come to %s", id, p.device.id)
	case p.first[id] > 1:
		return fmt.Errorf("%s came to %s %d times without saying that it is a copy", id, p.device.id, p.first[id])
	}
	return nil
}

// nodeMeanings are those of events by their names.
var nodeMeanings = map[string]string{
	"accepted":       "it is on the disk",
	"published":      "the pseudo-notification is on its way over the channel",
	"redelivered":    "it is sent over the channel again",
	"ack_timeout":    "no PUBACK within the ack window of 3 s",
	"channel_lost":   "the owner has lost the channel",
	"push_requested": "the push is recorded, then asked for",
	"pushed":         "the push service has accepted the push",
	"received":       "the device's PUBACK: delivered",
}

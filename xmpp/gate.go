package xmpp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/backoff"
	"github.com/heartline-mqtt/heartline/internal/seldom"
	"github.com/heartline-mqtt/heartline/wire"
)

// Options describe one component. Zero values stand for the defaults of the
// configuration's section xmpp.
type Options struct {
	Domain  string   // the component's name at the server
	Address string   // host:port of the server's component port
	Secret  []byte   // shared with the server
	Hosts   []string // whose users are accounts
	Key     []byte   // signs the secrets of push registrations

	NotifyAll   bool          // publishes without a body become notifications, too
	Title       string        // of a notification that a publish becomes
	ShowBody    bool          // the server's text goes into its body
	ShowSender  bool          // the sender goes into its subtitle
	MinInterval time.Duration // of such notifications of one device

	MaxStanzaSize    int
	WriteTimeout     time.Duration
	PingInterval     time.Duration
	PingTimeout      time.Duration
	ReconnectInitial time.Duration
	ReconnectMax     time.Duration
	// Hold is how long stanzas wait for a link that is down: the ack window. A shorter
	// flap costs no push.
	Hold   time.Duration
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	if o.Title == "" {
		o.Title = "New message"
	}
	if o.MaxStanzaSize <= 0 {
		o.MaxStanzaSize = 512 << 10
	}
	set(&o.MinInterval, time.Second)
	set(&o.WriteTimeout, 10*time.Second)
	set(&o.PingInterval, 30*time.Second)
	set(&o.PingTimeout, 10*time.Second)
	set(&o.ReconnectInitial, time.Second)
	set(&o.ReconnectMax, 30*time.Second)
	set(&o.Hold, 3*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Bounds.
const (
	maxQueue   = 8192 // outbound stanzas
	maxCalls   = 1024 // calls that wait for the store
	flushAt    = 64 << 10
	perUser    = 10 // presences and requests a second of one user, or of one foreign domain
	maxLimits  = 10_000
	maxGivenUp = 1000 // IQs of one channel whose late answer still acks
)

// Gate is one component: the devices of one XMPP server. Its methods are safe for
// concurrent use.
type Gate struct {
	core   *delivery.Core
	opts   Options
	log    *slog.Logger
	seldom seldom.Log
	counts *counters
	prefix string // of the ids of our IQs: another for each process, so that an answer to an earlier one is no answer to ours

	ctx      context.Context
	cancel   context.CancelFunc
	once     sync.Once
	tasks    sync.WaitGroup
	calls    chan func() // for serve: they wait for the store
	kick     chan struct{}
	stopping chan struct{}

	// Touched by run alone.
	restored bool
	limits   map[string]*rate.Limiter

	mu       sync.Mutex
	started  bool
	quiesced bool
	link     *link
	cause    string      // why there is no link
	held     *time.Timer // ends the wait for a link
	overdue  bool        // that wait is over
	seq      uint64
	queue    []item
	channels map[string]*channel // by full JID: those that count as up
	devices  map[string]*channel // the same by device
	// givenUp holds channels whose session the server cannot reach. A client that
	// resumes it announces nothing: its next stanza brings the channel back.
	givenUp map[string]*channel
	pings   map[string]chan struct{}
	bursts  map[string]*burst // publishes, by device
}

// item is one stanza to be written.
type item struct {
	raw []byte
	req *request
}

// request is an IQ of ours to a device.
type request struct {
	id      string
	seq     uint64
	channel *channel
	pub     delivery.Publication
	written bool
	done    bool   // answered, or given up
	subject string // the notification's ID, once read
}

// New returns a Gate that is not connected yet.
func New(core *delivery.Core, o Options) *Gate {
	o = o.withDefaults()
	g := &Gate{
		core: core, opts: o, log: o.Logger.With("component", o.Domain), counts: newCounters(), prefix: rand.Text()[:8] + "-",
		calls: make(chan func(), maxCalls), kick: make(chan struct{}, 1), stopping: make(chan struct{}), cause: "not connected yet",
		limits: map[string]*rate.Limiter{}, channels: map[string]*channel{}, devices: map[string]*channel{},
		givenUp: map[string]*channel{}, pings: map[string]chan struct{}{}, bursts: map[string]*burst{},
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// Start connects and keeps connected until Stop. It returns at once.
func (g *Gate) Start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started || g.ctx.Err() != nil {
		return
	}
	g.started = true
	g.holdLocked()
	g.tasks.Go(g.run)
	g.tasks.Go(g.write)
	g.tasks.Go(g.serve)
}

// Quiesce refuses the server's publishes from now on, for a passing reason. Acks still count.
func (g *Gate) Quiesce() {
	g.mu.Lock()
	g.quiesced = true
	g.mu.Unlock()
}

// Stop closes the link and returns when nothing runs any more. Devices stay registered, and
// their addresses remembered. It is safe before Start, twice, and twice at once.
func (g *Gate) Stop() {
	g.Quiesce()
	g.once.Do(func() {
		g.mu.Lock()
		for _, b := range g.bursts {
			b.timer.Stop()
		}
		if g.held != nil {
			g.held.Stop()
		}
		started := g.started
		g.mu.Unlock()
		if close(g.stopping); !started {
			g.cancel()
		}
	})
	g.tasks.Wait()
}

// Up reports whether the link is up, and if not, why.
func (g *Gate) Up() (up bool, cause string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.link != nil, g.cause
}

// Domain returns the component's name.
func (g *Gate) Domain() string { return g.opts.Domain }

// run dials, reads until the link ends, and dials again.
func (g *Gate) run() {
	failures, last := 0, ""
	for g.ctx.Err() == nil {
		l, err := dial(g.ctx, &g.opts)
		if err == nil {
			failures, last = 0, ""
			err = g.attend(l)
		}
		if g.ctx.Err() != nil {
			return
		}
		cause := (&LinkError{Domain: g.opts.Domain, Address: g.opts.Address, Err: err}).Words()
		if failed, ok := errors.AsType[*LinkError](err); ok {
			cause = failed.Words()
		}
		g.mu.Lock()
		g.cause = cause
		g.mu.Unlock()
		if cause != last { // once, not at each attempt
			g.log.Warn("connection to the XMPP server lost, redialing", "address", g.opts.Address, "error", cause)
			last = cause
		}
		select {
		case <-time.After(backoff.Jitter(backoff.Doubled(g.opts.ReconnectInitial, g.opts.ReconnectMax, failures))):
		case <-g.ctx.Done():
		}
		failures++
	}
}

// attend handles the stanzas of a link until it ends.
func (g *Gate) attend(l *link) error {
	stop := context.AfterFunc(g.ctx, func() { _ = l.conn.Close() })
	defer stop()
	if err := g.up(l); err != nil {
		_ = l.conn.Close()
		g.down()
		return err
	}
	ctx, cancel := context.WithCancel(g.ctx)
	var watch sync.WaitGroup
	var deaf error
	watch.Go(func() { deaf = g.ping(ctx, l) })
	var err error
	for {
		var e *element
		if e, err = l.in.next(); err != nil {
			break
		}
		g.handle(e)
	}
	_ = l.conn.Close()
	g.down()
	cancel()
	watch.Wait()
	if deaf != nil {
		err = deaf
	}
	return err
}

// up puts a link into use. Unanswered requests of the last one are written again, in their
// order and before the queue: the answers may have been lost with the link.
func (g *Gate) up(l *link) error {
	g.mu.Lock()
	g.link, g.cause = l, ""
	overdue := g.overdue
	g.overdue = false
	if g.held != nil {
		g.held.Stop()
		g.held = nil
	}
	g.requeueLocked()
	again := make([]*channel, 0, len(g.channels))
	for _, c := range g.channels {
		again = append(again, c)
	}
	g.mu.Unlock()
	g.wake()
	g.log.Info("connected to the XMPP server", "address", g.opts.Address, "devices", len(again))
	if overdue { // the core has given up what it had sent
		for _, c := range again {
			if err := g.online(c.account, c.device, c.full); err != nil {
				g.seldom.Info(g.log, "device not brought up again", "device", c.device, "error", err)
			}
		}
	}
	if g.restored {
		return nil
	}
	if err := g.restore(); err != nil {
		return fmt.Errorf("read the devices that were online: %w", err)
	}
	g.restored = true
	return nil
}

// down takes the link out of use. Channels stay up: their addresses are right when it is
// back, or the server says otherwise within a millisecond.
func (g *Gate) down() {
	g.mu.Lock()
	g.link = nil
	g.holdLocked()
	g.mu.Unlock()
}

func (g *Gate) holdLocked() {
	if g.held == nil && !g.overdue && g.ctx.Err() == nil {
		g.held = time.AfterFunc(g.opts.Hold, g.giveUp)
	}
}

// giveUp ends the wait for a link: requests that wait for it, or for an answer over the last
// one, are refused, so that their deliveries are pushed.
func (g *Gate) giveUp() {
	g.mu.Lock()
	if g.link != nil || g.ctx.Err() != nil {
		g.mu.Unlock()
		return
	}
	g.overdue, g.held, g.queue = true, nil, nil
	var refs []delivery.Ref
	for _, c := range g.channels {
		refs = append(refs, c.giveUpLocked()...)
	}
	g.mu.Unlock()
	for _, r := range refs {
		r.Nacked("the link to the XMPP server is down")
	}
}

// restore brings up the devices that a former process left online. It costs no stanza; the
// server's first answer tells those that have gone since.
func (g *Gate) restore() error {
	for after := ""; ; {
		page, err := g.core.AllDevices(after, 500)
		if err != nil {
			return err
		}
		for _, d := range page {
			after = d.ID
			if d.Via == delivery.ViaXMPP && d.Address != "" && g.local(d.Address) {
				if err := g.online(d.Account, d.ID, d.Address); err != nil {
					g.seldom.Info(g.log, "device not brought up", "device", d.ID, "error", err)
				}
			}
		}
		if len(page) < 500 {
			return nil
		}
	}
}

// ping asks the server for a sign of life and closes a link that gives none.
func (g *Gate) ping(ctx context.Context, l *link) error {
	tick := time.NewTicker(g.opts.PingInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		answered := make(chan struct{})
		g.mu.Lock()
		id := g.nextIDLocked()
		g.pings[id] = answered
		g.mu.Unlock()
		b := appendIQ(nil, "get", g.opts.Domain, g.opts.Hosts[0], id, false)
		g.send(append(b, "<ping xmlns='"+nsPing+"'/></iq>"...))
		timeout := time.NewTimer(g.opts.PingTimeout)
		select {
		case <-answered:
		case <-ctx.Done():
		case <-timeout.C:
		}
		timeout.Stop()
		g.mu.Lock()
		_, deaf := g.pings[id]
		delete(g.pings, id)
		g.mu.Unlock()
		if deaf && ctx.Err() == nil {
			_ = l.conn.Close()
			return fmt.Errorf("the server has not answered a ping in %s", g.opts.PingTimeout)
		}
	}
}

func (g *Gate) nextIDLocked() string {
	g.seq++
	return g.prefix + strconv.FormatUint(g.seq, 36)
}

// serve runs calls that may wait for the store, in their order.
func (g *Gate) serve() {
	for {
		select {
		case call := <-g.calls:
			call()
		case <-g.ctx.Done():
			return
		}
	}
}

// call hands one to serve. Without room the sender is told to try later.
func (g *Gate) call(e *element, fn func()) {
	select {
	case g.calls <- fn:
	default:
		g.fail(e, fault{"wait", "resource-constraint", "the server is busy"})
	}
}

// handle sorts a stanza by its shape.
func (g *Gate) handle(e *element) {
	kind, from := e.attr("type"), e.attr("from")
	g.counts.stanza("in", stanzaKind(e))
	answer := e.name.Local == "iq" && (kind == "result" || kind == "error")
	if answer {
		g.answered(e, from, kind == "result")
		return
	}
	if kind == "error" && e.name.Local != "presence" {
		return // never answered: two errors would answer each other for ever
	}
	publish := e.name.Local == "iq" && isDomain(from) && e.child(nsPubSub, "pubsub") != nil
	if publish && slices.Contains(g.opts.Hosts, from) {
		g.published(e, from) // without a limit: it speaks for all users of the host
		return
	}
	if !g.allowed(from) {
		g.counts.drop()
		if e.name.Local == "iq" {
			g.fail(e, fault{"wait", "resource-constraint", "too many requests"})
		}
		return
	}
	if e.name.Local != "presence" {
		g.resumed(from)
	}
	switch e.name.Local {
	case "presence":
		g.onPresence(e, from, kind)
	case "iq":
		if publish {
			g.published(e, from) // it cannot have the secret of one of our accounts
			return
		}
		g.onRequest(e, from, kind)
	}
}

func stanzaKind(e *element) string {
	switch k := e.name.Local; k {
	case "iq", "presence", "message":
		return k
	}
	return "other"
}

// allowed limits what one user, or all users of one foreign domain, can ask for.
func (g *Gate) allowed(from string) bool {
	key := bare(from)
	if !g.local(from) {
		key = hostOf(from)
	}
	l := g.limits[key]
	if l == nil {
		if len(g.limits) >= maxLimits {
			clear(g.limits)
		}
		l = rate.NewLimiter(perUser, 2*perUser)
		g.limits[key] = l
	}
	return l.Allow()
}

func (g *Gate) onPresence(e *element, from, kind string) {
	switch kind {
	case "":
		device := e.child(nsHeartline, "device")
		if device == nil || !isFull(from) || !g.local(from) {
			return
		}
		if err := g.announced(from, device.attr("id")); err != nil {
			g.seldom.Info(g.log, "device not brought up", "account", bare(from), "error", err)
			b := append([]byte(nil), "<presence type='error'"...)
			b = append(appendAttr(appendAttr(b, "from", g.opts.Domain), "to", from), '>')
			b = appendErrorElement(b, faultOf(err))
			g.send(append(b, "</presence>"...))
		}
	case "unavailable", "error":
		g.gone(from, "presence "+kind)
	}
}

func (g *Gate) onRequest(e *element, from, kind string) {
	if kind != "get" && kind != "set" {
		return
	}
	g.mu.Lock()
	c := g.channels[from]
	g.mu.Unlock()
	switch {
	case kind == "get":
		g.onGet(e, from)
	case e.child(nsCommands, "command") != nil && g.local(from):
		g.call(e, func() { g.onCommand(e, from) })
	case c != nil && e.child(nsHeartline, "ack") != nil:
		g.call(e, func() { g.answer(e, g.onAck(c, e.child(nsHeartline, "ack"))) })
	case c != nil && e.child(nsHeartline, "state") != nil:
		c.heartbeat()
		g.answer(e, g.onState(c, e.child(nsHeartline, "state")))
	case c != nil && e.child(nsHeartline, "sign-out") != nil:
		g.call(e, func() { g.answer(e, g.onSignOut(c)) })
	default:
		g.fail(e, fault{kind: "cancel", condition: "service-unavailable"})
	}
}

func (g *Gate) onAck(c *channel, ack *element) error {
	kind, err := wire.ParseAckStatus(ack.attr("status"))
	if err != nil {
		return err
	}
	err = g.core.AckByID(ack.attr("id"), c.device, c.account, kind)
	c.heartbeat() // after the ack, or it would be published again
	return err
}

func (g *Gate) onState(c *channel, state *element) error {
	app := delivery.AppBackground
	switch s := state.attr("app"); s {
	case "foreground":
		app = delivery.AppForeground
	case "background":
	default:
		return &delivery.FieldError{Field: "app", Rule: "must be foreground or background", Got: clip(s)}
	}
	if p := c.presenceNow(); p != nil {
		return p.SetApp(app)
	}
	return nil
}

// onSignOut forgets the device. When the result comes, that is on the disk.
func (g *Gate) onSignOut(c *channel) error {
	ctx, cancel := context.WithTimeout(g.ctx, storePatience)
	defer cancel()
	if err := g.core.SignOut(ctx, c.device, c.account); err != nil {
		return err
	}
	g.log.Info("device signed out", "device", c.device, "account", c.account)
	g.forget(c)
	return nil
}

// storePatience is how long a request of a device may wait for the disk.
const storePatience = 5 * time.Second

// answer answers a request of a device.
func (g *Gate) answer(e *element, err error) {
	if err != nil {
		g.fail(e, faultOf(err))
		return
	}
	g.send(appendIQ(nil, "result", to(e, g.opts.Domain), e.attr("from"), e.attr("id"), true))
}

// to is the address that a stanza was sent to, which its answer comes from: the domain, or
// something in it. The server has checked that; a wrong one would end the link.
func to(e *element, domain string) string {
	if a := e.attr("to"); hostOf(a) == domain {
		return a
	}
	return domain
}

func (g *Gate) fail(e *element, f fault) {
	g.send(appendFault(nil, to(e, g.opts.Domain), e.attr("from"), e.attr("id"), f))
}

// faultOf turns an error of the core into one for a client.
func faultOf(err error) fault {
	switch {
	case errors.Is(err, delivery.ErrInvalid):
		return fault{"modify", "bad-request", clip(err.Error())}
	case errors.Is(err, delivery.ErrNotYours), errors.Is(err, delivery.ErrNotFound):
		return fault{"cancel", "item-not-found", clip(err.Error())}
	case errors.Is(err, delivery.ErrForeignDevice):
		return fault{"cancel", "forbidden", "another account holds the device"}
	default: // the store fails, or the process is stopping
		return fault{"wait", "resource-constraint", "try again later"}
	}
}

// send queues a stanza that is no request of ours.
func (g *Gate) send(b []byte) {
	g.mu.Lock()
	full := len(g.queue) >= maxQueue || g.link == nil // an answer over another link has no use
	if !full {
		g.queue = append(g.queue, item{raw: b})
	}
	g.mu.Unlock()
	if full {
		g.counts.drop()
		return
	}
	g.counts.stanza("out", "answer")
	g.wake()
}

func (g *Gate) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// write drains the queue until Stop, then ends the stream.
func (g *Gate) write() {
	for {
		last := false
		select {
		case <-g.kick:
		case <-g.stopping:
			last = true
		}
		g.mu.Lock()
		l := g.link
		g.mu.Unlock()
		if l != nil && last {
			late := time.AfterFunc(stopGrace, func() { _ = l.conn.Close() })
			defer late.Stop()
		}
		if l != nil {
			g.flush(l)
		}
		if last {
			if l != nil {
				_ = l.write([]byte("</stream:stream>")) // the connection ends in any case
			}
			g.cancel()
			return
		}
	}
}

// stopGrace is how long Stop waits for the last answers to be written.
const stopGrace = 500 * time.Millisecond

// flush writes the whole queue, many stanzas with one call.
func (g *Gate) flush(l *link) {
	var buf []byte
	for {
		g.mu.Lock()
		if g.link != l || len(g.queue) == 0 {
			g.mu.Unlock()
			return
		}
		taken := g.queue
		g.queue = nil
		for _, it := range taken {
			if it.req != nil {
				it.req.written = true // before the answer can come
			}
		}
		g.mu.Unlock()
		for i, it := range taken {
			if it.req == nil {
				buf = append(buf, it.raw...)
			} else {
				buf = g.appendRequest(buf, it.req)
			}
			if len(buf) < flushAt && i < len(taken)-1 {
				continue
			}
			if err := l.write(buf); err != nil {
				_ = l.conn.Close() // run requeues what is unanswered
				return
			}
			buf = buf[:0]
		}
	}
}

// appendRequest appends a request with its content. One whose content cannot be read is
// refused on its own.
func (g *Gate) appendRequest(b []byte, r *request) []byte {
	g.mu.Lock()
	done := r.done
	g.mu.Unlock()
	if done {
		return b
	}
	name, body, id, err := g.content(r.pub)
	if err != nil {
		g.mu.Lock()
		done = r.done
		r.done = true
		delete(r.channel.open, r.id)
		g.mu.Unlock()
		if !done {
			r.pub.Nacked("not sent: " + err.Error())
		}
		return b
	}
	g.mu.Lock()
	r.subject, r.pub.Notification = id, nil // read again if it is written again
	g.mu.Unlock()
	g.counts.stanza("out", name)
	return appendCarrier(b, g.opts.Domain, r.channel.full, r.id, name, body)
}

package bench

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What publishers send, and how.
const (
	// ModeTopics is ordinary MQTT: each device has a topic. For any broker.
	ModeTopics = "topics"
	// ModeNotifications is notifications over MQTT (contract §3).
	ModeNotifications = "notifications"
	// ModeHTTP is a POST /v1/notifications for each (contract §4).
	ModeHTTP = "http"
	// ModeBatch is one POST /v1/notifications/batch of each publisher, a line for each.
	ModeBatch = "batch"
)

// Until when a message is in flight.
const (
	WindowAccepted  = "accepted"  // until its sender has the broker's answer
	WindowDelivered = "delivered" // until its device has it, too
)

// Options are what a run does. Every one of them is a flag of `heartline bench`.
type Options struct {
	Address     string      // of the broker, host:port
	TLS         *tls.Config // nil: plain TCP
	Version     byte        // of MQTT: 4 (3.1.1) or 5
	API         *url.URL    // with ModeHTTP and ModeBatch
	APITLS      *tls.Config // with https
	APIToken    []byte
	Mode        string
	TopicPrefix string // of Heartline's own topics
	Prefix      string // what identifiers of clients begin with
	// PublisherAddress is of the broker that publishers connect to; "": Address.
	PublisherAddress string
	// Device gives each device its identifier; nil: Prefix and a number.
	Device func(i int) string

	Username, PublisherUsername string // "" with notifications: each device is its own account
	Password, PublisherPassword []byte
	Keepalive                   time.Duration

	Devices    int
	Offline    float64 // share of the devices, 0 to 1
	Silent     float64 // share of the online devices that never acknowledge
	Publishers int
	Inflight   int     // of each publisher
	Rate       float64 // messages a second in all; 0 is as fast as it goes
	Payload    int     // bytes
	Window     string

	Count    int           // messages in all, or
	Duration time.Duration // of the measured time, after
	Warmup   time.Duration
	Idle     time.Duration // before anything is sent
	Storm    time.Duration // time between reconnect storms; 0: none
	Return   bool          // the devices that were offline come back at the end
	Patience time.Duration // how long nothing may happen before what is missing counts as lost

	Dialers   int // connections that are made at a time, but for storms
	ServerPID int // of a broker on this machine; 0: it is not watched
	// Progress gets lines for people about the run.
	Progress func(format string, args ...any)
}

// Defaults are the flags' defaults.
func Defaults() Options {
	return Options{
		Address: "127.0.0.1:1883", Version: version5, Mode: ModeNotifications, TopicPrefix: "heartline", Prefix: "bench",
		Keepalive: time.Minute, Devices: 200, Publishers: 8, Inflight: 64, Payload: 256, Window: WindowAccepted,
		Warmup: time.Second, Patience: 10 * time.Second, Dialers: 64,
	}
}

func (o *Options) keepalive() uint16 { return uint16(o.Keepalive / time.Second) }

// keepsSessions says whether a device's session is to outlive its connection.
func (o *Options) keepsSessions() bool { return o.Offline > 0 || o.Storm > 0 }

func modes() []string { return []string{ModeNotifications, ModeTopics, ModeHTTP, ModeBatch} }

func (o *Options) overHTTP() bool { return o.Mode == ModeHTTP || o.Mode == ModeBatch }

// lanes are the senders that send in order: over HTTP, one call at a time, each
// publisher has as many as it has calls under way.
func (o *Options) lanes() int {
	if o.Mode == ModeHTTP {
		return o.Publishers * o.Inflight
	}
	return o.Publishers
}

func (o *Options) idleOnly() bool { return o.Publishers == 0 }

func versionName(version byte) string {
	if version == version311 {
		return "MQTT 3.1.1"
	}
	return "MQTT 5"
}

// Validate names every flag that is wrong.
func (o *Options) Validate() error {
	var all []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			all = append(all, fmt.Errorf(format, args...))
		}
	}
	_, _, err := net.SplitHostPort(o.Address)
	check(err == nil, "--server: must name a host and a port, got %q", o.Address)
	check(o.Version == version311 || o.Version == version5, "--mqtt-version: must be 3.1.1 or 5")
	check(slices.Contains(modes(), o.Mode), "--mode: must be one of %s, got %q", strings.Join(modes(), ", "), o.Mode)
	check(!o.overHTTP() || o.API != nil && o.API.Host != "", "--http: name the API with this mode")
	check(!bytes.ContainsFunc(o.APIToken, func(r rune) bool { return r <= ' ' || r >= 0x7f }), "--token-file: holds characters that no token has (the value is not shown)")
	check(o.Window == WindowAccepted || o.Window == WindowDelivered, "--window: must be %s or %s, got %q", WindowAccepted, WindowDelivered, o.Window)
	check(o.Window == WindowAccepted || o.Offline == 0, "--window delivered: would wait for the devices of --offline; leave one of them out")
	check(o.Prefix != "" && len(o.Prefix) <= 64 && !strings.ContainsAny(o.Prefix, "/+#~\"\\"), "--prefix: must be 1 to 64 characters without / + # ~ \" and \\, got %q", o.Prefix)
	check(o.Keepalive >= time.Second && o.Keepalive <= math.MaxUint16*time.Second, "--keepalive: must be 1s to %ds, got %s", math.MaxUint16, o.Keepalive)
	check(o.Devices >= 1 && o.Devices <= 1_000_000, "--devices: must be 1 to 1000000, got %d", o.Devices)
	check(o.Offline >= 0 && o.Offline <= 1, "--offline: is a share, 0 to 1, got %g", o.Offline)
	check(o.Silent >= 0 && o.Silent <= 1, "--silent: is a share, 0 to 1, got %g", o.Silent)
	check(o.Publishers >= 0 && o.Publishers <= 10_000, "--publishers: must be 0 to 10000, got %d", o.Publishers)
	check(o.Inflight >= 1 && o.Inflight <= math.MaxUint16, "--inflight: must be 1 to %d, got %d", math.MaxUint16, o.Inflight)
	check(o.Rate >= 0 && !math.IsInf(o.Rate, 0), "--rate: must be 0 (as fast as it goes) or more, got %g", o.Rate)
	check(o.Count >= 0, "--count: must be 1 or more, got %d", o.Count)
	check(o.Duration >= 0 && o.Warmup >= 0 && o.Idle >= 0 && o.Storm >= 0, "--duration, --warmup, --idle and --storm: must not be negative")
	check(o.Count == 0 || o.Duration == 0, "--count and --duration: give one of them")
	check(o.idleOnly() || o.Count > 0 || o.Duration > 0, "--count, --duration: say how many messages, or how long")
	check(!o.idleOnly() || o.Count == 0, "--count: nobody sends with --publishers 0")
	check(o.Patience > 0, "--patience: must be more than 0, got %s", o.Patience)
	check(o.Dialers >= 1, "--dialers: must be 1 or more, got %d", o.Dialers)
	check(!o.Return || o.Offline > 0, "--return: no device is offline; say how many with --offline")
	none := *o
	none.Payload = 0
	smallest := (&run{o: &none}).smallestPayload()
	check(o.Payload >= smallest && o.Payload <= 1<<20, "--payload: must be %d to %d bytes with this mode, got %d", smallest, 1<<20, o.Payload)
	check(o.Mode == ModeTopics || o.Payload <= 2048, "--payload: title and body of a notification are at most 2048 bytes, got %d", o.Payload)
	return errors.Join(all...)
}

// run is one run under way.
type run struct {
	o       *Options
	dialer  *net.Dialer
	account *account
	devices []*device
	senders []sender
	serving sync.WaitGroup // goroutines of devices and publishers
	back    sync.WaitGroup // devices that a storm has sent away

	mu      sync.Mutex
	dropped int64
	first   struct{ dropped, refused string }
}

func (r *run) connectionLost(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dropped++; r.first.dropped == "" {
		r.first.dropped = err.Error()
	}
}

func (r *run) refused(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first.refused = cmp.Or(r.first.refused, why)
}

func (r *run) dialError(name string, err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens on %s: start a broker, or name another with --server", r.o.Address)
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("%s: %w: this process may not open so many connections; raise the limit (ulimit -n) or lower --devices", name, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// Run does what the options say. Where it fails midway there is no result.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	r := &run{o: &o, dialer: &net.Dialer{KeepAlive: -1}}
	r.account = newAccount(rand.Uint32(), o.Devices, o.lanes(), o.Window == WindowDelivered)
	for i := range o.Devices {
		r.devices = append(r.devices, r.newDevice(i))
	}
	for i := range o.lanes() {
		r.senders = append(r.senders, r.newSender(i))
	}
	return r.do(ctx)
}

func (r *run) newSender(i int) sender {
	switch r.o.Mode {
	case ModeHTTP:
		return r.newCaller(i)
	case ModeBatch:
		return r.newBatch(i)
	}
	return r.newPublisher(i)
}

func (r *run) newDevice(i int) *device {
	o := r.o
	id := fmt.Sprintf("%s-%06d", o.Prefix, i)
	if o.Device != nil {
		id = o.Device(i)
	}
	d := &device{link: link{r: r, address: o.Address, name: "device " + id, id: id}, inbox: inbox{device: i}}
	switch o.Mode {
	case ModeTopics:
		d.target = o.Prefix + "/" + id
		d.filter = d.target
	default:
		d.target = o.TopicPrefix + "/accounts/" + cmp.Or(o.Username, id) + "/notifications"
		d.filter = o.TopicPrefix + "/devices/" + id + "/notifications"
	}
	// Shares are spread evenly: of every so many devices one is.
	spread := func(share float64, i int) (before int, is bool) {
		before = int(float64(i) * share)
		return before, int(float64(i+1)*share) > before
	}
	var offline int
	if offline, d.offline = spread(o.Offline, i); !d.offline {
		_, d.silent = spread(o.Silent, i-offline)
	}
	r.account.kept[i] = d.offline || d.silent // a broker may stop sending to who never acknowledges
	return d
}

// payload is made of a message's stamp, with what its mode needs around it, and
// filled up.
func (r *run) appendPayload(b []byte, d *device, s stamp) []byte {
	end := len(b) + r.o.Payload
	if r.o.Mode == ModeTopics {
		return fillUp(appendStamp(b, s), end)
	}
	b = append(b, '{')
	if r.o.overHTTP() {
		b = append(append(append(b, `"account":"`...), cmp.Or(r.o.Username, d.id)...), `",`...)
	}
	if r.o.Username != "" { // one account has them all
		b = append(append(append(b, `"devices":["`...), d.id...), `"],`...)
	}
	b = append(b, `"title":"bench","body":"`...)
	b = fillUp(appendStamp(b, s), end-2)
	return append(b, `"}`...)
}

func (r *run) smallestPayload() int {
	return len(r.appendPayload(nil, &device{link: link{id: r.o.Prefix + "-000000"}}, stamp{}))
}

func fillUp(b []byte, end int) []byte {
	const x = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
	for len(b) < end {
		b = append(b, x[:min(len(x), end-len(b))]...)
	}
	return b
}

func (r *run) do(ctx context.Context) (_ *Result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for _, d := range r.devices {
			d.leave()
		}
		for _, p := range r.senders {
			p.leave()
		}
		r.serving.Wait()
	}()
	res := &Result{Mode: r.o.Mode, Devices: r.o.Devices, Publishers: r.o.Publishers, Inflight: r.o.Inflight, Payload: r.o.Payload, Rate: r.o.Rate}
	var offline []*device
	var online []*device
	for _, d := range r.devices {
		if d.offline {
			offline = append(offline, d)
		} else {
			online = append(online, d)
		}
		if d.silent {
			res.Silent++
		}
	}
	res.Offline = len(offline)
	if r.o.ServerPID != 0 {
		if _, err := processUsage(r.o.ServerPID); err != nil {
			return nil, err
		}
	}

	r.o.Progress("connecting %d devices", r.o.Devices)
	begun := time.Now()
	if err := r.connect(ctx, r.devices, r.o.Dialers); err != nil {
		return nil, err
	}
	for _, d := range offline {
		d.leave()
	}
	res.Connect = milliseconds(time.Since(begun))
	for _, d := range online {
		r.serving.Go(func() { d.serve(ctx) })
	}
	r.serving.Go(func() { r.heartbeats(ctx, online) })

	if hold := r.o.Idle; hold > 0 || r.o.idleOnly() {
		hold = max(hold, r.o.Duration)
		r.o.Progress("idle for %s", hold)
		before := r.serverUsage()
		if err := wait(ctx, hold); err != nil {
			return nil, err
		}
		if r.o.ServerPID != 0 {
			res.Idle = newUsage(before, r.serverUsage(), hold, 0)
		}
	}
	if !r.o.idleOnly() {
		if err := r.load(ctx, res, online); err != nil {
			return nil, err
		}
	}
	if r.o.Return {
		if err := r.comeBack(ctx, res, offline); err != nil {
			return nil, err
		}
	}
	r.finish(res)
	return res, ctx.Err()
}

// connect connects devices, so many at a time, and fails with the first that does.
func (r *run) connect(ctx context.Context, devices []*device, dialers int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *device)
	var dialing sync.WaitGroup
	for range min(dialers, len(devices)) {
		dialing.Go(func() {
			for d := range next {
				if err := d.connect(ctx); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
feed:
	for _, d := range devices {
		select {
		case next <- d:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	dialing.Wait()
	return context.Cause(ctx)
}

// heartbeats pings everybody twice in a keepalive, a few at a time.
func (r *run) heartbeats(ctx context.Context, online []*device) {
	const ticks = 64
	tick := time.NewTicker(r.o.Keepalive / 2 / ticks)
	defer tick.Stop()
	for n := 0; ; n = (n + 1) % ticks {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := n; i < len(online); i += ticks {
			online[i].ping()
		}
		for i := n; i < len(r.senders); i += ticks {
			r.senders[i].ping()
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (r *run) serverUsage() usage {
	if r.o.ServerPID == 0 {
		return usage{}
	}
	u, err := processUsage(r.o.ServerPID)
	if err != nil {
		r.connectionLost(err) // the process has gone, and so have the connections
	}
	return u
}

// moment holds the counts and the resources used up to a time.
type moment struct {
	at          int64
	counts      counts
	last        int64
	server, own usage
}

func (r *run) moment() moment {
	m := moment{at: r.account.now(), server: r.serverUsage(), own: ownUsage()}
	m.counts, m.last = r.account.counts()
	return m
}

// load sends, and waits until every message has arrived.
func (r *run) load(ctx context.Context, res *Result, online []*device) error {
	var connecting sync.WaitGroup
	errs := make([]error, len(r.senders))
	for i, p := range r.senders {
		connecting.Go(func() { errs[i] = p.connect(ctx) })
	}
	connecting.Wait()
	if err := firstOf(errs); err != nil {
		return err
	}
	for _, p := range r.senders {
		r.serving.Go(p.receive)
	}

	r.o.Progress("sending")
	r.account.begun = r.account.now()
	if r.o.Duration > 0 {
		r.account.from.Store(r.account.begun + int64(r.o.Warmup))
		r.account.to.Store(r.account.begun + int64(r.o.Warmup+r.o.Duration))
	}
	from := r.moment()
	load, failed := context.WithCancelCause(ctx) // ends with the first sender that fails
	defer failed(nil)
	stop := make(chan struct{})
	var sending sync.WaitGroup
	sent := make(chan struct{})
	for i, p := range r.senders {
		sending.Go(func() {
			if errs[i] = p.send(stop); errs[i] != nil {
				failed(errs[i])
			}
		})
	}
	go func() {
		sending.Wait()
		close(sent)
	}()
	storms := r.startStorms(ctx, online, stop)

	var err error
	var to moment
	if r.o.Duration > 0 {
		if err = wait(load, r.o.Warmup); err == nil {
			from = r.moment()
			err = wait(load, r.o.Duration)
			to = r.moment()
		}
	} else {
		err = r.until(load, sent, func() bool { return false })
	}
	close(stop)
	<-sent
	res.Storms = <-storms
	if err := cmp.Or(context.Cause(load), err, firstOf(errs)); err != nil {
		return err
	}

	r.o.Progress("waiting for the acks in flight")
	if err := r.until(ctx, nil, r.settled); err != nil {
		return err
	}
	for _, s := range r.senders {
		if err := s.broken(); err != nil {
			return err
		}
	}
	if r.o.Duration == 0 {
		if to = r.moment(); to.last > 0 {
			to.at = to.last
		}
	}
	took, n := time.Duration(to.at-from.at), to.counts.delivered-from.counts.delivered
	res.Measured = milliseconds(took)
	res.Throughput = float64(n) / took.Seconds()
	res.Accepted = float64(to.counts.accepted-from.counts.accepted) / took.Seconds()
	each := max(n, to.counts.accepted-from.counts.accepted) // with devices offline, little is delivered
	res.Generator = *newUsage(from.own, to.own, took, each)
	if r.o.ServerPID != 0 {
		res.Server = newUsage(from.server, to.server, took, each)
	}
	delivery, accept, lag := r.account.histograms()
	res.Delivery, res.Accept, res.Lag = newLatency(delivery), newLatency(accept), newLatency(lag)
	return nil
}

// firstOf is the first error; the others are mostly the same.
func firstOf(errs []error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	return errs[i]
}

// until waits until done is closed or reached, and gives up where nothing has
// happened for a while.
func (r *run) until(ctx context.Context, done <-chan struct{}, reached func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var seen counts
	for since := time.Now(); ; {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if reached() {
			return nil
		}
		switch now, _ := r.account.counts(); {
		case now != seen:
			seen, since = now, time.Now()
		case time.Since(since) > r.o.Patience:
			r.o.Progress("nothing has happened for %s", r.o.Patience)
			return nil
		}
	}
}

// settled says whether the broker has answered everything, and everything has come
// that is to come.
func (r *run) settled() bool {
	for _, p := range r.senders {
		if p.underWay() > 0 {
			return false
		}
	}
	c, _ := r.account.counts()
	return c.came >= c.due
}

// startStorms has all devices reconnect at once, again and again until stop.
func (r *run) startStorms(ctx context.Context, online []*device, stop <-chan struct{}) <-chan []Storm {
	done := make(chan []Storm, 1)
	if r.o.Storm == 0 {
		done <- nil
		return done
	}
	r.serving.Go(func() {
		var storms []Storm
		defer func() { done <- storms }()
		for {
			select {
			case <-stop:
				return
			case <-ctx.Done():
				return
			case <-time.After(r.o.Storm):
			}
			begun := time.Now()
			r.back.Add(len(online))
			for _, d := range online {
				d.storms.Add(1)
			}
			for _, d := range online {
				d.drop()
			}
			back := make(chan struct{})
			go func() {
				r.back.Wait()
				close(back)
			}()
			select {
			case <-back:
			case <-ctx.Done():
				return
			}
			storms = append(storms, Storm{Devices: len(online), Subscribed: milliseconds(time.Since(begun))})
		}
	})
	return done
}

// comeBack connects the devices that were offline, all at once.
func (r *run) comeBack(ctx context.Context, res *Result, offline []*device) error {
	missing := func() (n int64) {
		r.account.missing(func(i int) bool { return r.devices[i].offline }, func(*lane, uint64) { n++ })
		return n
	}
	kept := missing()
	before, _ := r.account.counts()
	r.o.Progress("%d devices come back", len(offline))
	begun, at := time.Now(), r.account.now()
	var subscribed time.Duration
	var mu sync.Mutex
	var connecting sync.WaitGroup
	for _, d := range offline {
		connecting.Add(1)
		r.serving.Go(func() {
			_, ok := d.reconnect(ctx)
			mu.Lock()
			subscribed = max(subscribed, time.Since(begun))
			mu.Unlock()
			connecting.Done()
			if ok {
				d.serve(ctx)
			}
		})
	}
	connecting.Wait()
	err := r.until(ctx, nil, func() bool {
		c, _ := r.account.counts()
		return c.delivered-before.delivered >= kept && missing() == 0
	})
	after, last := r.account.counts()
	res.Return = &Storm{
		Devices: len(offline), Subscribed: milliseconds(subscribed),
		Delivered: milliseconds(time.Duration(last - at)), Messages: after.delivered - before.delivered,
	}
	return err
}

// finish settles the account.
func (r *run) finish(res *Result) {
	c, _ := r.account.counts()
	stays := func(i int) bool { return r.devices[i].silent || r.devices[i].offline && !r.o.Return }
	r.account.missing(stays, func(*lane, uint64) { res.Totals.Kept++ })
	r.account.missing(func(i int) bool { return !stays(i) }, func(l *lane, seq uint64) {
		if res.Totals.Lost++; res.Totals.Lost <= 5 {
			res.Lost = append(res.Lost, fmt.Sprintf("message %d of publisher %d, for device %s", seq, l.index, r.devices[l.device(seq)].id))
		}
	})
	t := &res.Totals
	t.Sent, t.Accepted, t.Refused, t.Unanswered = c.sent, c.accepted, c.refused, c.sent-c.accepted-c.refused
	t.Delivered, t.Duplicated, t.Repeated, t.OutOfOrder = c.delivered, c.duplicated, c.repeated, c.outOfOrder
	t.Misrouted, t.Foreign = c.misrouted, c.foreign
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Dropped, res.Dropped, res.Refused = r.dropped, r.first.dropped, r.first.refused
}

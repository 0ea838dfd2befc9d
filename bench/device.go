package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is one MQTT connection, of a device or a publisher.
type link struct {
	r       *run
	address string // of the broker
	name    string // for errors
	id      string // client identifier

	mu   sync.Mutex
	conn net.Conn // nil: there is none

	buf        []byte // what was read; buf[start:end] is still to be parsed
	start, end int
}

// dialTimeout also has to do for thousands that come at once.
const dialTimeout = time.Minute

func (l *link) dial(ctx context.Context, c connect) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	if l.r.o.TLS != nil {
		conn, err = (&tls.Dialer{NetDialer: l.r.dialer, Config: l.r.o.TLS}).DialContext(ctx, "tcp", l.address)
	} else {
		conn, err = l.r.dialer.DialContext(ctx, "tcp", l.address)
	}
	if err != nil {
		return l.r.dialError(l.name, err)
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)                              // a connection that cannot says so when it is used
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends what is under way
	defer stop()
	if _, err := conn.Write(appendConnect(nil, c)); err != nil {
		_ = conn.Close() // of no use any more
		return fmt.Errorf("%s: send CONNECT to %s: %w", l.name, l.address, err)
	}
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	l.start, l.end = 0, 0
	p, err := l.next()
	if err != nil {
		l.drop()
		return fmt.Errorf("%s: no CONNACK from %s: %w: is it an MQTT broker, and does it take %s?", l.name, l.address, err, versionName(c.version))
	}
	reason, err := parseConnack(p)
	if err == nil && reason != 0 {
		err = fmt.Errorf("the broker refuses the connection: %s", reasonText(c.version, reason))
	}
	if err != nil {
		l.drop()
		return fmt.Errorf("%s: %w", l.name, err)
	}
	return conn.SetDeadline(time.Time{})
}

// next is the next packet, which is good until the call after.
func (l *link) next() (packet, error) {
	for {
		p, size, err := split(l.buf[l.start:l.end])
		if err != nil {
			return p, err
		}
		if size > 0 {
			l.start += size
			return p, nil
		}
		if err := l.fill(); err != nil {
			return p, err
		}
	}
}

// buffered is next without waiting.
func (l *link) buffered() (p packet, ok bool, err error) {
	p, size, err := split(l.buf[l.start:l.end])
	l.start += size
	return p, size > 0, err
}

// fill reads once.
func (l *link) fill() error {
	switch {
	case l.start == l.end:
		l.start, l.end = 0, 0
	case l.start > 0 && l.end == len(l.buf):
		l.end = copy(l.buf, l.buf[l.start:l.end])
		l.start = 0
	}
	if l.end == len(l.buf) {
		l.buf = append(l.buf, make([]byte, max(len(l.buf), bufferSize))...)
	}
	n, err := l.conn.Read(l.buf[l.end:])
	l.end += n
	if n > 0 {
		return nil
	}
	return err
}

// bufferSize is what a connection begins with: two or three notifications.
const bufferSize = 1 << 10

// drop closes the connection without a word, as a device does that is gone.
func (l *link) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.Close() // gone is gone
	}
}

// leave says DISCONNECT first.
func (l *link) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = l.conn.Write([]byte{typeDisconnect << 4, 0}) // gone either way
		_ = l.conn.Close()
	}
}

// ping is a heartbeat. Its answer is read with everything else.
func (l *link) ping() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_, _ = l.conn.Write([]byte{typePingreq << 4, 0}) // who reads hears of the error
	}
}

// device is one that subscribes, reads, and acknowledges.
type device struct {
	link
	inbox
	filter  string // what it subscribes to
	target  string // what publishers publish to, to reach it
	offline bool
	storms  atomic.Int64 // reconnects that were ordered
	acks    []byte
}

// subscribeID is far from where brokers begin to count: mochi refuses a SUBSCRIBE
// whose packet identifier it has given to a message under way to the same client.
const subscribeID = 0x7fff

// connect connects and subscribes.
func (d *device) connect(ctx context.Context) error {
	o := d.r.o
	c := connect{version: o.Version, clientID: d.id, username: o.Username, password: o.Password, keepalive: o.keepalive(), clean: !o.keepsSessions()}
	if c.username == "" && o.Mode != ModeTopics {
		c.username = d.id // its account
	}
	if o.keepsSessions() {
		c.sessionExpiry = 3600
	}
	if err := d.dial(ctx, c); err != nil {
		return err
	}
	if _, err := d.conn.Write(appendSubscribe(nil, o.Version, subscribeID, d.filter)); err != nil {
		d.drop()
		return fmt.Errorf("%s: send SUBSCRIBE: %w", d.name, err)
	}
	_ = d.conn.SetReadDeadline(time.Now().Add(dialTimeout))
	if err := d.read(true); err != nil {
		d.drop()
		return fmt.Errorf("%s: subscribe to %s: %w", d.name, d.filter, err)
	}
	return d.conn.SetReadDeadline(time.Time{})
}

// serve is a device's life from its first connection to the end of the run.
func (d *device) serve(ctx context.Context) {
	for handled := int64(0); ; {
		err := d.read(false)
		d.drop()
		if ctx.Err() != nil {
			return
		}
		if d.storms.Load() == handled { // nobody has asked for that
			d.r.connectionLost(fmt.Errorf("%s: %w", d.name, err))
		}
		storms, ok := d.reconnect(ctx)
		if !ok {
			return
		}
		for ; handled < storms; handled++ {
			d.r.back.Done()
		}
		if d.storms.Load() != handled { // ordered meanwhile, and perhaps of the connection before
			d.drop()
		}
	}
}

// reconnect tries until it is connected or the run ends. It returns the number of
// storms that had been ordered when it began to.
func (d *device) reconnect(ctx context.Context) (storms int64, ok bool) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		storms = d.storms.Load()
		err := d.connect(ctx)
		if err == nil {
			return storms, true
		}
		if ctx.Err() != nil {
			return 0, false
		}
		d.r.connectionLost(err)
		select {
		case <-ctx.Done():
			return 0, false
		case <-time.After(wait):
		}
	}
}

// read reads until the connection ends, or the SUBACK has come where that is asked
// for. All packets of one read are acknowledged in one write.
func (d *device) read(untilSuback bool) error {
	for {
		at := d.r.account.now()
		subscribed := false
		for !subscribed {
			p, ok, err := d.buffered()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if subscribed, err = d.take(p, at); err != nil {
				return err
			}
		}
		if len(d.acks) > 0 {
			if _, err := d.conn.Write(d.acks); err != nil {
				return err
			}
			d.acks = d.acks[:0]
		}
		if subscribed && untilSuback {
			return nil
		}
		if err := d.fill(); err != nil {
			return err
		}
	}
}

// take takes one packet and reports whether it was the SUBACK.
func (d *device) take(p packet, at int64) (subscribed bool, err error) {
	switch p.kind() {
	case typePublish:
		id, payload, err := parsePublish(p, d.r.o.Version)
		if err != nil {
			return false, err
		}
		d.r.account.arrived(&d.inbox, payload, at)
		if id != 0 && !d.silent {
			d.acks = appendPuback(d.acks, id)
		}
	case typeSuback:
		code, err := parseSuback(p, d.r.o.Version)
		if err == nil && code != 1 {
			err = fmt.Errorf("the broker does not grant QoS 1: %s", reasonText(version5, code))
		}
		return err == nil, err
	case typeDisconnect:
		reason := byte(0)
		if len(p.body) > 0 {
			reason = p.body[0]
		}
		return false, fmt.Errorf("the broker disconnects it: %s", reasonText(version5, reason))
	case typePingresp:
	default:
		return false, fmt.Errorf("%w: of type %d, which a device is not sent", errMalformed, p.kind())
	}
	return false, nil
}

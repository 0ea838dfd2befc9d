package xmpp

import (
	"context"
	"crypto/sha1" //nolint:gosec // XEP-0114 §3 asks for it
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
)

// dialTimeout bounds the connection and the handshake together.
const dialTimeout = 10 * time.Second

// link is one connection to the server, authenticated (XEP-0114 §3). One goroutine
// reads, another writes.
type link struct {
	conn         net.Conn
	in           *reader
	writeTimeout time.Duration
	over         context.Context     //nolint:containedctx // ends with the link
	room         *semaphore.Weighted // for stanzas that are ready and not written, in bytes
	heard        chan struct{}       // has an element since a stanza was read
}

func newLink(conn net.Conn, maxStanza int, writeTimeout time.Duration) *link {
	return &link{
		conn: conn, in: newReader(conn, maxStanza), writeTimeout: writeTimeout, room: semaphore.NewWeighted(maxReady), heard: make(chan struct{}, 1),
	}
}

// hear notes that a stanza was read.
func (l *link) hear() {
	select {
	case l.heard <- struct{}{}:
	default:
	}
}

// maxReady bounds the bytes of requests that are ready and not written: each is read again
// for the next link.
const maxReady = 16 << 20

// LinkError says why there is no link, for the operator.
type LinkError struct {
	Domain, Address string
	Err             error
}

func (e *LinkError) Error() string {
	return fmt.Sprintf("component %s at %s: %s", e.Domain, e.Address, e.Words())
}

// Unwrap returns the cause.
func (e *LinkError) Unwrap() error { return e.Err }

// Words names the fault and the remedy.
func (e *LinkError) Words() string {
	if s, ok := errors.AsType[*StreamError](e.Err); ok {
		switch s.Condition {
		case "not-authorized":
			return "the server refuses the secret, or has no component of this name: compare secret_file and domain with the server's configuration (not-authorized)"
		case "host-unknown":
			return "the server has no component of this name: compare domain with the server's configuration (host-unknown)"
		case "conflict":
			return "another process is connected as this component, or the server has a virtual host of this name (conflict)"
		case "invalid-from":
			return "the server refused a sender outside the component's domain (invalid-from)"
		case "system-shutdown":
			return "the server is shutting down"
		}
		return e.Err.Error()
	}
	if errors.Is(e.Err, syscall.ECONNREFUSED) {
		return "nothing listens there: is the server running, and its component port (ejabberd_service, component_ports) configured?"
	}
	if t, ok := errors.AsType[net.Error](e.Err); ok && t.Timeout() {
		return "no answer in time: is this the server's component port?"
	}
	return e.Err.Error()
}

// dial connects and authenticates. The error is a *LinkError.
func dial(ctx context.Context, o *Options) (*link, error) {
	fail := func(err error) (*link, error) {
		if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
			err = ctx.Err()
		}
		return nil, &LinkError{Domain: o.Domain, Address: o.Address, Err: err}
	}
	deadline := time.Now().Add(dialTimeout)
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // it fails the read
	defer stop()
	l := newLink(conn, o.MaxStanzaSize, o.WriteTimeout)
	if err := l.handshake(o, deadline); err != nil {
		_ = conn.Close()
		return fail(err)
	}
	return l, nil
}

func (l *link) handshake(o *Options, deadline time.Time) error {
	if err := l.conn.SetDeadline(deadline); err != nil {
		return err
	}
	b := append([]byte(nil), "<?xml version='1.0'?><stream:stream xmlns='"+nsAccept+"' xmlns:stream='"+nsStream+"'"...)
	if _, err := l.conn.Write(append(appendAttr(b, "to", o.Domain), '>')); err != nil {
		return err
	}
	id, err := l.in.header()
	if err != nil {
		return err
	}
	sum := sha1.Sum(append([]byte(id), o.Secret...)) //nolint:gosec // XEP-0114 §3 asks for it
	if _, err := l.conn.Write([]byte("<handshake>" + hex.EncodeToString(sum[:]) + "</handshake>")); err != nil {
		return err
	}
	e, err := l.in.next()
	if err != nil {
		return err
	}
	if e.name.Local != "handshake" {
		return fmt.Errorf("the server answered the handshake with <%s>", clip(e.name.Local))
	}
	return l.conn.SetDeadline(time.Time{})
}

// write sends whole stanzas.
func (l *link) write(b []byte) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.writeTimeout)); err != nil {
		return err
	}
	_, err := l.conn.Write(b)
	return err
}

// HostError says why a domain cannot be one of hosts.
type HostError struct{ Host, Condition string }

func (e *HostError) Error() string {
	if e.Condition == "" {
		return fmt.Sprintf("hosts: %s gives no answer: is it a host of this server, and spelled as there?", e.Host)
	}
	return fmt.Sprintf("hosts: %s is no host of this server: compare hosts with the server's configuration (%s)", e.Host, e.Condition)
}

// hostPatience is how long Check waits for the hosts. A server that looks a domain up in
// the DNS takes its time.
const hostPatience = 10 * time.Second

// askHosts sends a query of service discovery (XEP-0030) to each of the hosts. The server
// looks for a domain that it does not have elsewhere, and finds none.
func (l *link) askHosts(o *Options) error {
	var b []byte
	waiting := map[string]bool{}
	for i, host := range o.Hosts {
		waiting[host] = true
		b = appendIQ(b, "get", o.Domain, host, "check-"+strconv.Itoa(i), false)
		b = append(b, "<query xmlns='"+nsInfo+"'/></iq>"...)
	}
	if err := l.write(b); err != nil {
		return &LinkError{Domain: o.Domain, Address: o.Address, Err: err}
	}
	if err := l.conn.SetReadDeadline(time.Now().Add(hostPatience)); err != nil {
		return err
	}
	l.in.passOver = func(string) bool { return true }
	var faults []error
	for len(waiting) > 0 {
		e, err := l.in.next()
		if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
			break
		}
		if err != nil {
			return &LinkError{Domain: o.Domain, Address: o.Address, Err: err}
		}
		host := e.attr("from")
		if !waiting[host] || e.name.Local != "iq" || !strings.HasPrefix(e.attr("id"), "check-") {
			continue // of a user: this link is the component's while it lasts
		}
		delete(waiting, host)
		if e.attr("type") == "error" && foreignHost(e.condition()) {
			faults = append(faults, &HostError{host, clip(e.condition())})
		}
	}
	for _, host := range o.Hosts {
		if waiting[host] {
			faults = append(faults, &HostError{Host: host})
		}
	}
	return errors.Join(faults...)
}

// foreignHost reports whether an error says that a domain is none of the server's. A host
// without service discovery gives others.
func foreignHost(condition string) bool {
	switch condition {
	case "remote-server-not-found", "remote-server-timeout", "item-not-found", "not-allowed", "internal-server-error":
		return true
	}
	return false
}

// Check connects once and asks each of the hosts; the error is a *LinkError, or a join of
// *HostError, and names the fault. The notes warn of
// settings that work and will surprise. It disconnects a Prosody that is told to replace older
// connections (component_conflict_resolve), so that a running Heartline dials again.
func Check(ctx context.Context, o Options) (notes []string, err error) {
	o = o.withDefaults()
	l, err := dial(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = l.write([]byte("</stream:stream>"))
		_ = l.conn.Close()
	}()
	if err := l.askHosts(&o); err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, &LinkError{Domain: o.Domain, Address: o.Address, Err: err}
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost") {
		if _, err := net.DefaultResolver.LookupHost(ctx, o.Domain); err != nil {
			notes = append(notes, o.Domain+" does not resolve on this machine: an ejabberd here deletes the push registration of every user who is sent a message while Heartline is away; add `127.0.0.1 "+o.Domain+"` to its hosts file (docs/xmpp.md)")
		}
	}
	return notes, nil
}

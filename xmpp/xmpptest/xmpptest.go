// Package xmpptest plays the server's side of XEP-0114 for tests: it accepts a
// component, checks its secret, and gives the test what the component sends. It shares no
// code with package xmpp.
//
// One goroutine accepts and one reads, each until Close. It imports nothing of ours.
package xmpptest

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // XEP-0114 §3 asks for it
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Stanza is one that the component has sent.
type Stanza struct {
	XMLName  xml.Name
	Type     string   `xml:"type,attr"`
	From     string   `xml:"from,attr"`
	To       string   `xml:"to,attr"`
	ID       string   `xml:"id,attr"`
	Children []Stanza `xml:",any"`
	Text     string   `xml:",chardata"`
	Raw      string   `xml:",innerxml"`
}

// Child returns the first child of a name; the zero Stanza where there is none.
func (s *Stanza) Child(name string) *Stanza {
	for i := range s.Children {
		if s.Children[i].XMLName.Local == name {
			return &s.Children[i]
		}
	}
	return new(Stanza)
}

// Server accepts a component again and again, one at a time.
type Server struct {
	Domain  string
	tb      testing.TB
	socket  net.Listener
	running sync.WaitGroup
	links   chan *Link

	mu     sync.Mutex
	secret string
	hosts  []string
	refuse string // stream error for the next handshakes
	failed int    // handshakes that were refused
	open   *Link
}

// Patience is how long Next and Accept wait.
const Patience = 2 * time.Minute

// New listens on loopback until the test ends.
func New(tb testing.TB, domain, secret string) *Server {
	tb.Helper()
	socket, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{Domain: domain, secret: secret, tb: tb, socket: socket, links: make(chan *Link, 64)}
	s.running.Go(s.accept)
	tb.Cleanup(s.Close)
	return s
}

// Addr returns host:port.
func (s *Server) Addr() string { return s.socket.Addr().String() }

// Refuse has handshakes answered with a stream error; "" accepts again.
func (s *Server) Refuse(condition string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = condition
}

// Refused returns how many handshakes have failed.
func (s *Server) Refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// SetSecret changes the component's secret; a link that is open stays.
func (s *Server) SetSecret(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secret = secret
}

// SetHosts names the domains whose users the server has. Questions what a domain is
// (XEP-0030) are answered by the server, and not passed on to the test.
func (s *Server) SetHosts(hosts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts = hosts
}

// asked answers a question what a domain is.
func (s *Server) asked(l *Link, q *Stanza) bool {
	if q.Type != "get" || q.Child("query").XMLName.Space != "http://jabber.org/protocol/disco#info" {
		return false
	}
	s.mu.Lock()
	known := slices.Contains(s.hosts, q.To)
	s.mu.Unlock()
	if known {
		l.Sendf("<iq type='result' from='%s' to='%s' id='%s'><query xmlns='http://jabber.org/protocol/disco#info'><identity category='server' type='im'/></query></iq>", q.To, q.From, q.ID)
	} else {
		l.Error(*q, "cancel", "remote-server-not-found")
	}
	return true
}

// Close ends everything.
func (s *Server) Close() {
	_ = s.socket.Close()
	s.mu.Lock()
	if s.open != nil {
		_ = s.open.conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Accept waits for the component.
func (s *Server) Accept() *Link {
	s.tb.Helper()
	select {
	case l := <-s.links:
		return l
	case <-time.After(Patience):
		s.tb.Fatal("the component did not connect")
		return nil
	}
}

// Newest waits for a link of the component that is open, and drops those before it. Its
// user knows that the component does not connect again by itself.
func (s *Server) Newest() *Link {
	s.tb.Helper()
	for {
		l := s.Accept()
		select {
		case <-l.ended:
		default:
			return l
		}
	}
}

func (s *Server) accept() {
	for {
		conn, err := s.socket.Accept()
		if err != nil {
			return
		}
		l := &Link{tb: s.tb, conn: conn, dec: xml.NewDecoder(conn), in: make(chan Stanza, 1<<16), ended: make(chan struct{})}
		s.mu.Lock()
		s.open = l
		refuse, secret := s.refuse, s.secret
		s.mu.Unlock()
		if err := l.handshake(s.Domain, secret, refuse); err != nil {
			_ = conn.Close()
			s.mu.Lock()
			s.failed++
			s.mu.Unlock()
			continue
		}
		s.running.Go(func() { l.read(s.asked) })
		s.links <- l
	}
}

// Link is one connection of the component.
type Link struct {
	tb   testing.TB
	conn net.Conn
	dec  *xml.Decoder
	in   chan Stanza

	ended chan struct{} // closed with the connection
}

func (l *Link) handshake(domain, secret, refuse string) error {
	start, err := l.start()
	if err != nil {
		return err
	}
	to := ""
	for _, a := range start.Attr {
		if a.Name.Local == "to" {
			to = a.Value
		}
	}
	id := " id='3BF96D32'"
	if to != domain {
		id = "" // as Prosody does
	}
	l.Send("<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' from='" + to + "'" + id + ">")
	switch {
	case refuse != "":
	case to != domain:
		refuse = "host-unknown"
	default:
		if start, err = l.start(); err != nil {
			return err
		}
		var digest string
		if err := l.dec.DecodeElement(&digest, start); err != nil {
			return err
		}
		sum := sha1.Sum([]byte("3BF96D32" + secret)) //nolint:gosec // XEP-0114 §3 asks for it
		if digest != hex.EncodeToString(sum[:]) {
			refuse = "not-authorized"
		}
	}
	if refuse != "" {
		l.Send("<stream:error><" + refuse + " xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
		return errors.New(refuse)
	}
	l.Send("<handshake/>")
	return nil
}

func (l *Link) start() (*xml.StartElement, error) {
	for {
		t, err := l.dec.Token()
		if err != nil {
			return nil, err
		}
		if start, ok := t.(xml.StartElement); ok {
			return &start, nil
		}
	}
}

func (l *Link) read(answered func(*Link, *Stanza) bool) {
	defer close(l.in)
	defer close(l.ended)
	for {
		start, err := l.start()
		if err != nil {
			return
		}
		var s Stanza
		if l.dec.DecodeElement(&s, start) != nil {
			return
		}
		if !answered(l, &s) {
			l.in <- s
		}
	}
}

// Send sends XML as it is.
func (l *Link) Send(xml string) {
	_, _ = l.conn.Write([]byte(xml)) // a component that has gone shows in what it does not answer
}

// Sendf is Send with values that are escaped.
func (l *Link) Sendf(format string, values ...string) {
	args := make([]any, len(values))
	for i, v := range values {
		var b bytes.Buffer
		if err := xml.EscapeText(&b, []byte(v)); err != nil {
			l.tb.Error(err)
		}
		args[i] = b.String()
	}
	l.Send(fmt.Sprintf(format, args...))
}

// Close breaks the connection.
func (l *Link) Close() { _ = l.conn.Close() }

// Next waits for the next stanza.
func (l *Link) Next() Stanza {
	l.tb.Helper()
	select {
	case s, ok := <-l.in:
		if !ok {
			l.tb.Fatal("the component's connection has ended")
		}
		return s
	case <-time.After(Patience):
		l.tb.Fatal("the component sent nothing")
	}
	return Stanza{}
}

// Ended waits until the component's connection has ended and drops earlier stanzas.
func (l *Link) Ended() {
	l.tb.Helper()
	timeout := time.After(Patience)
	for {
		select {
		case _, ok := <-l.in:
			if !ok {
				return
			}
		case <-timeout:
			l.tb.Fatal("the component did not end the connection")
		}
	}
}

// Result answers an IQ of the component as the client that it went to.
func (l *Link) Result(s Stanza) {
	l.Sendf("<iq type='result' from='%s' to='%s' id='%s'/>", s.To, s.From, s.ID)
}

// Error answers an IQ of the component with an error.
func (l *Link) Error(s Stanza, kind, condition string) {
	l.Sendf("<iq type='error' from='%s' to='%s' id='%s'><error type='"+kind+"'><"+condition+" xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>", s.To, s.From, s.ID)
}

// Announce is the directed presence of a client.
func (l *Link) Announce(full, domain, deviceID string) {
	l.Sendf("<presence from='%s' to='%s'><device xmlns='urn:heartline:1' id='%s'/></presence>", full, domain, deviceID)
}

// Publish is a push of XEP-0357 as ejabberd sends it; an empty body is one without a
// form.
func (l *Link) Publish(id, host, domain, node, secret, sender, body string) {
	summary := ""
	if body != "" {
		summary = "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:xmpp:push:summary</value></field><field var='last-message-sender'><value>" + sender + "</value></field><field var='last-message-body'><value>" + body + "</value></field></x>"
	}
	l.Sendf("<iq type='set' from='%s' to='%s' id='%s'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='%s'><item><notification xmlns='urn:xmpp:push:0'>"+summary+
		"</notification></item></publish><publish-options><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field><field var='secret'><value>%s</value></field></x></publish-options></pubsub></iq>",
		host, domain, id, node, secret)
}

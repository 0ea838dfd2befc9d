package xmppkit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// Stanza is one that the client has received.
type Stanza struct {
	XMLName  xml.Name
	Type     string     `xml:"type,attr"`
	From     string     `xml:"from,attr"`
	ID       string     `xml:"id,attr"`
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []Stanza   `xml:",any"`
	Text     string     `xml:",chardata"`
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

func (s *Stanza) attr(name string) string {
	for _, a := range s.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// Received is a notification, a message or a dismissal for the client.
type Received struct {
	Kind string // notification, message or dismissal
	JSON string
}

// Account says how a client logs in.
type Account struct {
	Address, Host, User, Password, Resource string
}

// Session is what a later Client resumes (XEP-0198).
type Session struct {
	id       string
	received int
}

// Client is a plain XMPP client that speaks Heartline's namespace: the smallest one that a
// device needs. It answers each IQ of Heartline with a result.
type Client struct {
	Full string // its full JID
	// Received gets what Heartline sends, after its answer is on the way.
	Received chan Received

	conn    *pausable
	dec     *xml.Decoder
	running sync.WaitGroup

	mu       sync.Mutex
	n        int
	waiting  map[string]chan Stanza
	managed  bool // XEP-0198 is on
	session  Session
	isClosed chan struct{}
}

// pausable is a connection whose reader can be stopped: a phone that has lost its network.
type pausable struct {
	net.Conn
	mu     sync.Mutex
	paused chan struct{} // nil: it reads; closed to go on
}

func (p *pausable) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.mu.Lock()
	wait := p.paused
	p.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return n, err
}

// timeout is how long the server may take to answer, on a machine with other work.
const timeout = 2 * time.Minute

// Dial logs a client in. With managed it enables XEP-0198; with a session it resumes that,
// and Full is then the session's.
func Dial(ctx context.Context, a Account, managed bool, resume *Session) (_ *Client, err error) {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", a.Address)
	if err != nil {
		return nil, err
	}
	c := &Client{
		Received: make(chan Received, 4096), conn: &pausable{Conn: conn}, waiting: map[string]chan Stanza{}, isClosed: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("log in as %s@%s: %w", a.User, a.Host, err), conn.Close())
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if err := c.open(a.Host); err != nil {
		return nil, err
	}
	login := base64.StdEncoding.EncodeToString([]byte("\x00" + a.User + "\x00" + a.Password))
	if _, err := c.ask("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>"+login+"</auth>", "success"); err != nil {
		return nil, err
	}
	if err := c.open(a.Host); err != nil {
		return nil, err
	}
	if resume != nil {
		if _, err := c.ask("<resume xmlns='urn:xmpp:sm:3' previd='"+resume.id+"' h='"+strconv.Itoa(resume.received)+"'/>", "resumed"); err != nil {
			return nil, err
		}
		c.managed, c.session, c.Full = true, *resume, a.User+"@"+a.Host+"/"+a.Resource
	} else if err := c.bind(a, managed); err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	c.running.Go(c.read)
	return c, nil
}

func (c *Client) bind(a Account, managed bool) error {
	s, err := c.ask("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>"+a.Resource+"</resource></bind></iq>", "iq")
	if err != nil {
		return err
	}
	if c.Full = s.Child("bind").Child("jid").Text; c.Full == "" {
		return fmt.Errorf("the server did not bind a resource: %+v", s)
	}
	if _, err := c.ask("<iq type='set' id='session'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>", "iq"); err != nil {
		return err
	}
	if managed {
		if s, err = c.ask("<enable xmlns='urn:xmpp:sm:3' resume='true'/>", "enabled"); err != nil {
			return err
		}
		c.managed, c.session = true, Session{id: s.attr("id")}
		if s.ID != "" {
			c.session.id = s.ID
		}
	}
	return nil
}

// open opens the stream and reads its features.
func (c *Client) open(host string) error {
	c.dec = xml.NewDecoder(c.conn)
	if err := c.Send("<?xml version='1.0'?><stream:stream to='" + host + "' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"); err != nil {
		return err
	}
	if _, err := c.start(); err != nil { // the header
		return err
	}
	_, err := c.next("features")
	return err
}

func (c *Client) start() (*xml.StartElement, error) {
	for {
		t, err := c.dec.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			return &t, nil
		case xml.EndElement:
			return nil, net.ErrClosed
		}
	}
}

// next reads elements until one has the name; one that fails is the error.
func (c *Client) next(name string) (*Stanza, error) {
	for {
		start, err := c.start()
		if err != nil {
			return nil, err
		}
		s := new(Stanza)
		if err := c.dec.DecodeElement(s, start); err != nil {
			return nil, err
		}
		switch s.XMLName.Local {
		case name:
			return s, nil
		case "failure", "failed", "error":
			return nil, fmt.Errorf("the server answered %s", s.XMLName.Local)
		}
	}
}

func (c *Client) ask(xml, answer string) (*Stanza, error) {
	if err := c.Send(xml); err != nil {
		return nil, err
	}
	return c.next(answer)
}

// Send sends XML as it is.
func (c *Client) Send(xml string) error {
	_, err := c.conn.Write([]byte(xml))
	return err
}

func (c *Client) read() {
	defer close(c.isClosed)
	for {
		start, err := c.start()
		if err != nil {
			return
		}
		var s Stanza
		if c.dec.DecodeElement(&s, start) != nil {
			return
		}
		c.handle(s)
	}
}

func (c *Client) handle(s Stanza) {
	c.mu.Lock()
	switch s.XMLName.Local {
	case "iq", "message", "presence":
		c.session.received++
	}
	h, wait := c.session.received, c.waiting[s.ID]
	c.mu.Unlock()
	switch {
	case s.XMLName.Local == "r":
		_ = c.Send("<a xmlns='urn:xmpp:sm:3' h='" + strconv.Itoa(h) + "'/>") // the reader sees the end
	case s.XMLName.Local != "iq":
	case s.Type == "result" || s.Type == "error":
		if wait != nil {
			wait <- s
		}
	default:
		c.answer(s)
	}
}

// answer acknowledges a notification, as a device does after storing it.
func (c *Client) answer(s Stanza) {
	for _, kind := range []string{"notification", "message", "dismissal"} {
		if x := s.Child(kind); x.XMLName.Space == "urn:heartline:1" {
			_ = c.Send("<iq type='result' to='" + escape(s.From) + "' id='" + escape(s.ID) + "'/>") // the reader sees the end
			c.Received <- Received{kind, x.Text}
			return
		}
	}
	_ = c.Send("<iq type='error' to='" + escape(s.From) + "' id='" + escape(s.ID) + "'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a Buffer takes everything
	return b.String()
}

// IQ sends a request and returns its answer; an error stanza is an error.
func (c *Client) IQ(kind, to, body string) (*Stanza, error) {
	c.mu.Lock()
	c.n++
	id := "c" + strconv.Itoa(c.n)
	wait := make(chan Stanza, 1)
	c.waiting[id] = wait
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	if to != "" {
		to = " to='" + escape(to) + "'"
	}
	if err := c.Send("<iq type='" + kind + "' id='" + id + "'" + to + ">" + body + "</iq>"); err != nil {
		return nil, err
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case s := <-wait:
		if s.Type == "error" {
			return nil, fmt.Errorf("the answer is an error: %+v", *s.Child("error"))
		}
		return &s, nil
	case <-c.isClosed:
		return nil, net.ErrClosed
	case <-late.C:
		return nil, errors.New("no answer to an IQ")
	}
}

// Announce brings the device up: presence directed to Heartline's component.
func (c *Client) Announce(component, deviceID string) error {
	return c.Send("<presence to='" + component + "'><device xmlns='urn:heartline:1' id='" + escape(deviceID) + "'/></presence>")
}

// Register registers the device's APNs token (XEP-0050) and has the client's server publish to
// Heartline when it cannot reach the client (XEP-0357).
func (c *Client) Register(component, deviceID, token string) (node string, err error) {
	s, err := c.IQ("set", component, "<command xmlns='http://jabber.org/protocol/commands' node='register-push-apns' action='execute'><x xmlns='jabber:x:data' type='submit'>"+
		field("token", token)+field("device-id", deviceID)+"</x></command>")
	if err != nil {
		return "", err
	}
	values := map[string]string{}
	for _, f := range s.Child("command").Child("x").Children {
		values[f.attr("var")] = f.Child("value").Text
	}
	_, err = c.IQ("set", "", "<enable xmlns='urn:xmpp:push:0' jid='"+escape(values["jid"])+"' node='"+escape(values["node"])+"'><x xmlns='jabber:x:data' type='submit'>"+
		field("FORM_TYPE", "http://jabber.org/protocol/pubsub#publish-options")+field("secret", values["secret"])+"</x></enable>")
	return values["node"], err
}

func field(name, value string) string {
	return "<field var='" + name + "'><value>" + escape(value) + "</value></field>"
}

// Session returns what a later Dial resumes.
func (c *Client) Session() *Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.session
	return &s
}

// HalfOpen stops reading and leaves the connection open, as a phone does that has lost its
// network.
func (c *Client) HalfOpen() {
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	if c.conn.paused == nil {
		c.conn.paused = make(chan struct{})
	}
}

// Return ends HalfOpen: the network is back, with all that was sent meanwhile.
func (c *Client) Return() {
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	if c.conn.paused != nil {
		close(c.conn.paused)
		c.conn.paused = nil
	}
}

// Kill resets the connection; the server sees that at once. An absent client has no Kill.
func (c *Client) Kill() {
	if tcp, ok := c.conn.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the next Close resets
	}
	c.end()
}

// Close logs out.
func (c *Client) Close() {
	_ = c.Send("</stream:stream>") // the connection ends in any case
	c.end()
}

func (c *Client) end() {
	_ = c.conn.Close()
	c.conn.mu.Lock()
	if c.conn.paused != nil {
		select {
		case <-c.conn.paused:
		default:
			close(c.conn.paused)
		}
	}
	c.conn.mu.Unlock()
	c.running.Wait()
}

package xmpp_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp/xmppkit"
)

// TestStanzaTable: how each server answers a notification for a device in each state, and how
// Heartline goes on. Each device has a user of its own.
func TestStanzaTable(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		inactive, absent, noPush, withPush, twice := w.phone(true), w.phone(true), w.phone(false), w.phone(true), w.phone(true)

		// Online and inactive (XEP-0352): the IQ passes.
		inactive.announce()
		inactive.putAway()
		id := inactive.notify("")
		w.until(id, "received")

		// A session that ended while Heartline did not hear of it: the server answers
		// service-unavailable at once, and the device is down.
		absent.announce()
		w.stop()
		absent.Close()
		w.start()
		id = absent.notify("")
		v := w.until(id, "pushed")
		w.want(id, "accepted", "published", "nacked", "push_requested", "pushed")
		if d := after(v, "nacked"); d >= w.cfg.Delivery.AckWindow {
			w.t.Errorf("the server's word took %s", d)
		}
		absent.down()

		// Hibernated without push at the server: nothing is heard but the end of the window;
		// the answer comes with the resumption.
		noPush.announce()
		resume := noPush.Session()
		noPush.Kill()
		id = noPush.notify("")
		w.until(id, "waiting")
		w.want(id, "accepted", "published", "ack_timeout", "waiting")
		noPush.login(resume)
		w.until(id, "received")

		// Hibernated with push: the server pushes the stanza back, and it is an echo.
		withPush.announce()
		resume = withPush.Session()
		withPush.Kill()
		id = withPush.notify("")
		w.until(id, "pushed")
		w.want(id, "accepted", "published", "nacked", "push_requested", "pushed")
		withPush.login(resume)
		w.until(id, "received")
		if n := len(w.notifications(withPush.account)); n != 1 {
			w.t.Errorf("%d notifications of one", n)
		}

		// Another session with the same resource, again and again: however the server orders
		// the end of the old one, the device is up.
		twice.announce()
		for i := range 4 { // a user's limit is 20 stanzas at once
			if i%2 == 1 {
				twice.Kill() // it hibernates
			}
			twice.login(nil)
			twice.announce() // it counts as up already
			if _, err := twice.IQ("get", w.server.Component, "<ping xmlns='urn:xmpp:ping'/>"); err != nil {
				w.t.Fatal(err)
			}
			id = twice.notify("")
			w.until(id, "received")
			w.want(id, "accepted", "published", "received")
		}

		// Nobody: the server answers for a user that it does not have.
		_, err := w.broker.Notify(context.Background(), delivery.Request{Account: "nobody@" + w.server.Host, Title: "t"})
		if !errors.Is(err, delivery.ErrUnknownAccount) {
			w.t.Errorf("a user without a device: %v", err)
		}
	})
}

// TestHibernationEnds: the session was dropped, and is not resumed in time. Without push at the
// server that is the first that is heard of it: the IQ comes back as an error.
func TestHibernationEnds(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, kind string) {
		w := newWorld(t, kind, func(config string) string {
			config = strings.Replace(config, "resend_on_timeout: if_offline", "resend_on_timeout: if_offline, resume_timeout: 1", 1)
			return strings.Replace(config, "VirtualHost", "smacks_hibernation_time = 1\nVirtualHost", 1)
		}, func(c *config.Config) { c.Delivery.AckWindow = time.Minute })
		p := w.phone(false)
		p.announce()
		p.HalfOpen() // the IQ goes to the session while there is one
		id := p.notify("")
		w.until(id, "published")
		p.Kill()
		w.until(id, "waiting")
		p.down()
		w.want(id, "accepted", "published", "nacked", "waiting")
	})
}

// TestHalfOpenWithoutPush: the phone has lost its network, and its user has no push. Only the
// ack window tells. ejabberd then closes the session, and Prosody keeps it for the return.
func TestHalfOpenWithoutPush(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, kind string) {
		w := newWorld(t, kind, func(config string) string {
			config = strings.Replace(config, "resend_on_timeout: if_offline", "resend_on_timeout: if_offline, ack_timeout: 5, resume_timeout: 3", 1)
			return strings.Replace(config, "VirtualHost", "smacks_max_ack_delay = 5\nVirtualHost", 1)
		}, func(c *config.Config) { c.Delivery.AckWindow = 3 * time.Second })
		p := w.phone(false)
		p.announce()
		p.HalfOpen()
		id := p.notify("")
		w.until(id, "waiting")
		w.want(id, "accepted", "published", "ack_timeout", "waiting")
		if kind == xmppkit.Prosody {
			p.Return()
		} else {
			p.down()
			p.login(nil)
			p.announce()
		}
		w.until(id, "received")
	})
}

// TestAnswerTable shows what each server makes of the answers to its publishes, and so why
// Heartline answers as it does: `result` and `wait` keep the registration, another error ends
// it on ejabberd at once and on Prosody after 16.
func TestAnswerTable(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		w.stop() // another component takes its place
		c := dialComponent(w)
		defer c.close()
		sender := w.phone(false)
		// No answer, 20 times: looked at again once the servers have given up on them.
		mute := w.phone(false)
		if _, err := mute.IQ("set", "", "<enable xmlns='urn:xmpp:push:0' jid='"+w.server.Component+"' node='mute'/>"); err != nil {
			w.t.Fatal(err)
		}
		mute.Close()
		c.answerWith(silence)
		for n := range 20 {
			mute.chat(sender, fmt.Sprint("mute-", n))
			if !c.published("mute", patience) {
				w.t.Fatalf("unanswered publish %d did not come", n+1)
			}
		}
		silent := time.Now()
		for i, row := range []struct {
			answer string
			times  int
			kept   map[string]bool
		}{
			{"", 20, map[string]bool{xmppkit.Ejabberd: true, xmppkit.Prosody: true}},
			{"<error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", 20, map[string]bool{xmppkit.Ejabberd: true, xmppkit.Prosody: true}},
			{"<error type='wait'><internal-server-error xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", 20, map[string]bool{xmppkit.Ejabberd: true, xmppkit.Prosody: true}},
			{"<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", 1, map[string]bool{xmppkit.Ejabberd: false, xmppkit.Prosody: true}},
			{"<error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", 1, map[string]bool{xmppkit.Ejabberd: false, xmppkit.Prosody: true}},
			{"<error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", 1, map[string]bool{xmppkit.Ejabberd: false, xmppkit.Prosody: true}},
			{"<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", 16, map[string]bool{xmppkit.Prosody: false}},
		} {
			want, tried := row.kept[w.server.Kind]
			if !tried {
				continue
			}
			p := w.phone(false)
			node := fmt.Sprint("node", i)
			if _, err := p.IQ("set", "", "<enable xmlns='urn:xmpp:push:0' jid='"+w.server.Component+"' node='"+node+"'/>"); err != nil {
				w.t.Fatal(err)
			}
			p.Close()
			c.answerWith(row.answer)
			for n := range row.times {
				p.chat(sender, fmt.Sprint(node, "-", n))
				if !c.published(node, patience) {
					w.t.Fatalf("%s: publish %d did not come", row.answer, n+1)
				}
				sender.sync()
			}
			c.answerWith("")
			p.chat(sender, node+"-last")
			wait := patience
			if !want {
				wait = 2 * time.Second // what does not come leaves no trace to wait for
			}
			kept := c.published(node, wait)
			if kept != want {
				w.t.Errorf("after %d times %q: the registration is kept: %v, want %v", row.times, row.answer, kept, want)
			}
		}
		if w.server.Kind == xmppkit.Ejabberd { // its wait of 32 s for an answer leaves no trace at its end
			time.Sleep(time.Until(silent.Add(34 * time.Second)))
		}
		mute.chat(sender, "mute-last")
		if !c.published("mute", patience) {
			w.t.Error("a registration was deleted after 20 publishes without an answer")
		}
	})
}

// silence is what a component answers that gives no answer.
const silence = "silence"

// TestIQTable shows what each server makes of a request of the component's: one to an unknown
// user, to an absent session and to a bare address is answered at once, with an error.
func TestIQTable(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		w.stop()
		c := dialComponent(w)
		defer c.close()
		online, absent := w.phone(false), w.phone(false)
		absent.Close()
		for _, row := range []struct{ to, want string }{
			{online.Full, "result"},
			{absent.Full, "service-unavailable"},
			{absent.account, "service-unavailable"},
			{"nobody@" + w.server.Host + "/phone", "service-unavailable"},
			{"nobody@" + w.server.Host, "service-unavailable"},
		} {
			if got := c.ask(row.to); got != row.want {
				w.t.Errorf("to %s: %q, want %q", row.to, got, row.want)
			}
		}
	})
}

// component is one of the test's own, which answers publishes as it is told to.
type component struct {
	domain string
	conn   net.Conn
	dec    *xml.Decoder
	ended  chan struct{}

	mu      sync.Mutex
	answer  string // an error element; "" is a result
	nodes   []string
	changed chan struct{}
	asked   int
	answers map[string]string // of requests, by id: result, or the condition of an error
}

func dialComponent(w *world) *component {
	w.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(w.t.Context(), "tcp", w.server.ComponentAddress)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &component{domain: w.server.Component, conn: conn, dec: xml.NewDecoder(conn), changed: make(chan struct{}), ended: make(chan struct{}), answers: map[string]string{}}
	c.send("<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='" + w.server.Component + "'>")
	id := ""
	for _, a := range c.start(w.t).Attr {
		if a.Name.Local == "id" {
			id = a.Value
		}
	}
	sum := sha1.Sum([]byte(id + w.server.Secret))
	c.send("<handshake>" + hex.EncodeToString(sum[:]) + "</handshake>")
	if e := c.start(w.t); e.Name.Local != "handshake" {
		w.t.Fatalf("the server answered the handshake with %s", e.Name.Local)
	}
	go c.read()
	return c
}

func (c *component) send(xml string) { _, _ = c.conn.Write([]byte(xml)) } // the reader sees the end

func (c *component) start(t *testing.T) xml.StartElement {
	t.Helper()
	for {
		token, err := c.dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := token.(xml.StartElement); ok {
			return start
		}
	}
}

func (c *component) close() {
	_ = c.conn.Close()
	<-c.ended
}

func (c *component) answerWith(xml string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = xml
}

func (c *component) read() {
	defer close(c.ended)
	for {
		token, err := c.dec.Token()
		if err != nil {
			return
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		var q iq
		if c.dec.DecodeElement(&q, &start) != nil {
			return
		}
		c.mu.Lock()
		if q.Publish.Node == "" {
			if q.Type == "result" || q.Type == "error" {
				c.answers[q.ID] = q.Type
				for _, x := range q.Error.Conditions {
					if x.Local != "text" {
						c.answers[q.ID] = x.Local
					}
				}
				close(c.changed)
				c.changed = make(chan struct{})
			}
			c.mu.Unlock()
			continue
		}
		kind := "result"
		if c.answer != "" {
			kind = "error"
		}
		if c.answer != silence {
			c.send("<iq type='" + kind + "' from='" + q.To + "' to='" + q.From + "' id='" + q.ID + "'>" + c.answer + "</iq>")
		}
		c.nodes = append(c.nodes, q.Publish.Node)
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
	}
}

// published waits for a publish for a node, and takes it.
func (c *component) published(node string, patience time.Duration) bool {
	late := time.After(patience)
	for {
		c.mu.Lock()
		if i := slices.Index(c.nodes, node); i >= 0 {
			c.nodes = slices.Delete(c.nodes, i, i+1)
			c.mu.Unlock()
			return true
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-late:
			return false
		}
	}
}

// ask sends a notification and returns its answer.
func (c *component) ask(to string) string {
	c.mu.Lock()
	c.asked++
	id := fmt.Sprint("ask", c.asked)
	c.mu.Unlock()
	c.send("<iq type='set' from='" + c.domain + "' to='" + to + "' id='" + id + "'><notification xmlns='urn:heartline:1'>{}</notification></iq>")
	late := time.After(patience)
	for {
		c.mu.Lock()
		answer, changed := c.answers[id], c.changed
		c.mu.Unlock()
		if answer != "" {
			return answer
		}
		select {
		case <-changed:
		case <-late:
			return "no answer"
		}
	}
}

package xmpp_test

import (
	"context"
	"encoding/xml"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// tap stands between Heartline and the server's component port, passes everything on, and
// notes which publishes (XEP-0357) were answered how.
type tap struct {
	socket  net.Listener
	target  string
	running sync.WaitGroup

	mu        sync.Mutex
	links     int
	open      map[net.Conn]bool
	closed    bool
	publishes []*publish
	waiting   map[string]*publish // by link and id: each server counts its own
}

// publish is one that the server has made.
type publish struct {
	link         int
	at           time.Time
	node, body   string
	answer, kind string // "result", or "error" with its type
	refused      string // the condition of an error
}

func newTap(t *testing.T, target string) *tap {
	t.Helper()
	socket, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{socket: socket, target: target, open: map[net.Conn]bool{}, waiting: map[string]*publish{}}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		_ = socket.Close()
		p.mu.Lock()
		p.closed = true
		for c := range p.open {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

func (p *tap) accept() {
	for {
		here, err := p.socket.Accept()
		if err != nil {
			return
		}
		there, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", p.target)
		if err != nil { // the server is down: so is the component port
			_ = here.Close()
			continue
		}
		p.mu.Lock()
		p.links++
		link := p.links
		p.open[here], p.open[there] = true, true
		closed := p.closed
		p.mu.Unlock()
		end := func() {
			_, _ = here.Close(), there.Close()
			p.mu.Lock()
			delete(p.open, here)
			delete(p.open, there)
			p.mu.Unlock()
		}
		if closed {
			end()
			return
		}
		p.running.Go(func() { defer end(); p.watch(link, io.TeeReader(there, here), p.fromServer) })
		p.running.Go(func() { defer end(); p.watch(link, io.TeeReader(here, there), p.fromComponent) })
	}
}

type iq struct {
	XMLName xml.Name
	Type    string `xml:"type,attr"`
	ID      string `xml:"id,attr"`
	To      string `xml:"to,attr"`
	From    string `xml:"from,attr"`
	Publish struct {
		Node   string  `xml:"node,attr"`
		Fields []field `xml:"item>notification>x>field"`
	} `xml:"pubsub>publish"`
	Error struct {
		Type       string     `xml:"type,attr"`
		Conditions []xml.Name `xml:",any"`
	} `xml:"error"`
}

type field struct {
	Var   string `xml:"var,attr"`
	Value string `xml:"value"`
}

func (p *tap) watch(link int, r io.Reader, seen func(int, *iq)) {
	dec := xml.NewDecoder(r)
	for depth := 0; ; {
		t, err := dec.Token()
		if err != nil {
			_, _ = io.Copy(io.Discard, r) // passes on what this cannot read
			return
		}
		start, ok := t.(xml.StartElement)
		if !ok {
			continue
		}
		if depth == 0 {
			depth++
			continue
		}
		q := new(iq)
		if dec.DecodeElement(q, &start) == nil && q.XMLName.Local == "iq" {
			seen(link, q)
		}
	}
}

func key(link int, id, host string) string { return string(rune(link)) + host + " " + id }

func (p *tap) fromServer(link int, q *iq) {
	if q.Publish.Node == "" {
		return
	}
	out := &publish{link: link, at: time.Now(), node: q.Publish.Node}
	for _, f := range q.Publish.Fields {
		if f.Var == "last-message-body" {
			out.body = f.Value
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.publishes = append(p.publishes, out)
	p.waiting[key(link, q.ID, q.From)] = out
}

func (p *tap) fromComponent(link int, q *iq) {
	if q.Type != "result" && q.Type != "error" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := key(link, q.ID, q.To)
	if out := p.waiting[k]; out != nil {
		delete(p.waiting, k)
		out.answer, out.kind = q.Type, q.Error.Type
		for _, c := range q.Error.Conditions {
			out.refused = c.Local
		}
	}
}

// all returns the publishes so far.
func (p *tap) all() []publish {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]publish, len(p.publishes))
	for i, x := range p.publishes {
		all[i] = *x
	}
	return all
}

// since returns the newest n publishes for a node.
func (p *tap) since(node string, n int) (newest []publish) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.publishes) - 1; i >= 0 && len(newest) < n; i-- {
		if x := p.publishes[i]; x.node == node {
			newest = append(newest, *x)
		}
	}
	return newest
}

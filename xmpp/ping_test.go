package xmpp

import (
	"bufio"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func (g *Gate) linkNow() *link {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.link
}

// answerPings reads stanzas, and answers pings, until the connection ends.
func answerPings(server net.Conn) {
	for in := bufio.NewReader(server); ; {
		switch tag, err := in.ReadString('>'); {
		case err != nil:
			return
		case tag == "<ping xmlns='"+nsPing+"'/>":
			_, _ = io.WriteString(server, "<iq type='error' from='example' to='push.example' id='any'/>")
		}
	}
}

// TestPingBehindABacklog: a server that takes its time with a full queue is not deaf.
func TestPingBehindABacklog(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		g := New(nil, Options{Domain: "push.example", Hosts: []string{"example"}, Standby: true, PingInterval: 30 * time.Second, PingTimeout: 10 * time.Second})
		l, server := attended(t, g)
		fill := func() {
			for range maxQueue {
				g.send([]byte("<presence/>"))
			}
		}
		synctest.Wait()
		fill()
		synctest.Wait() // the writer has them, and waits for the server
		fill()
		time.Sleep(5 * time.Minute)
		if g.linkNow() != l {
			t.Fatal("the link is closed while the server has not read the ping")
		}
		go answerPings(server)
		time.Sleep(time.Hour)
		if g.linkNow() != l {
			t.Fatal("the link of a server that answers is closed")
		}
	})
}

// TestPingUnanswered: each stanza says that the server is there; nothing in time says that it is
// not.
func TestPingUnanswered(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		g := New(nil, Options{Domain: "push.example", Hosts: []string{"example"}, Standby: true, PingInterval: 30 * time.Second, PingTimeout: 10 * time.Second})
		l, server := attended(t, g)
		go func() { _, _ = io.Copy(io.Discard, server) }()
		for range 100 {
			time.Sleep(9 * time.Second)
			if _, err := io.WriteString(server, "<iq type='result' from='ann@example/x' to='push.example' id='any'/>"); err != nil {
				t.Fatal(err)
			}
		}
		if g.linkNow() != l {
			t.Error("the link of a busy server is closed")
		}
		time.Sleep(41 * time.Second)
		if g.linkNow() != nil {
			t.Error("the link of a deaf server is open")
		}
	})
}

package relay

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func nodeOf(a *testtool.Authority) *Credentials {
	cert, key := a.Issue(net.IPv4(127, 0, 0, 1))
	return &Credentials{CertFile: cert, KeyFile: key, CAFile: a.File}
}

// Nodes with certificates of one authority work together over TCP. One with another's, or with one
// that is not for its address, does not.
func TestTLS(t *testing.T) {
	good, other := testtool.NewAuthority(t), testtool.NewAuthority(t)
	for _, tt := range []struct {
		name, address string
		two           *Credentials
		ok            bool
	}{
		{"same authority", "127.0.0.1:7883", nodeOf(good), true}, {"another", "127.0.0.1:7883", nodeOf(other), false},
		{"another's certificate", "127.0.0.2:7883", nodeOf(good), false}, {"no address", "", nodeOf(good), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := nodeOf(good).Listener(socket)
			one, two := newFake(), newFake()
			log := &lockedBuffer{}
			a := NewMesh(Options{Name: "one", Local: one, Patience: time.Minute, Beat: time.Second, Log: slog.New(slog.NewTextHandler(log, nil))})
			defer a.Close()
			a.Begin(1)
			a.Serve(l)
			b := NewMesh(Options{Name: "two", Address: tt.address, Local: two, Dial: tt.two.Dial, Patience: time.Minute, Beat: time.Second, Log: silent})
			defer b.Close()
			b.Begin(2)
			b.Update([]Member{{ID: 1, Name: "one", Address: l.Addr().String()}})
			if !tt.ok {
				for deadline := time.Now().Add(time.Minute); !strings.Contains(log.String(), "certificate"); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("no word of a certificate in the log:", log.String())
					}
				}
				if len(b.Sessions()) > 0 {
					t.Error("it has a session")
				}
				return
			}
			answered := make(chan error)
			two.session().Owner(0, 1).AcceptAsync(delivery.Request{Title: "t"}, func(_ delivery.Receipt, err error) { answered <- err })
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}

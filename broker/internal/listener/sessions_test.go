package listener

import (
	"crypto/tls"
	"flag"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

var withSessions = flag.Bool("sessions", false, "run the tests with connections that have no goroutine")

// TestSuiteWithSessions runs all tests of this package again with connections that have
// no goroutine: the same rules hold for them.
func TestSuiteWithSessions(t *testing.T) {
	if *withSessions {
		t.Skip("this process is the second run, and must not start a third")
	}
	args := []string{"-sessions", "-test.timeout=5m"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	if out, err := exec.CommandContext(t.Context(), os.Args[0], args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// piecemeal writes every byte on its own.
type piecemeal struct{ net.Conn }

func (p piecemeal) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := p.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
		runtime.Gosched()
	}
	return len(b), nil
}

// TestTLSRecordInPieces: crypto/tls goes on after a read that has found only a part of a
// record. That it does so after an error that is temporary stands in its code alone.
func TestTLSRecordInPieces(t *testing.T) {
	if !*withSessions {
		t.Skip("about connections without a goroutine: TestSuiteWithSessions runs it")
	}
	server, roots := certificate(t, "server")
	_, l := ours(t, nil, Options{TLS: &tls.Config{Certificates: []tls.Certificate{server}}})
	socket, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, tls.Client(piecemeal{socket}, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}), true)
	c.connect("pieces")
	for range 100 {
		c.ping()
	}
}

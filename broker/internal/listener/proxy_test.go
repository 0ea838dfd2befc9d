package listener

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func proxyHeader(t testing.TB, version byte, from string) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1883")))
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestProxyProtocol: a trusted peer names its client, which counts for the limit; a
// connection without a header, with a broken one, or from elsewhere is closed.
func TestProxyProtocol(t *testing.T) {
	trusted := func(netip.Addr) bool { return true }
	s, l := ours(t, nil, Options{TrustProxy: trusted, ConnectTimeout: time.Second, Gate: NewGate(Limits{PerAddress: 1})})
	for i, version := range []byte{1, 2} {
		c := dial(t, l.Address(), true)
		from := []string{"203.0.113.1:1000", "203.0.113.2:1000"}[i]
		id := []string{"one", "two"}[i]
		c.send(append(proxyHeader(t, version, from), connectPacket(id, true)...)...) // in one write
		if p, err := c.packet(patience); err != nil || p[0] != 0x20 {
			t.Fatalf("version %d: %x %v", version, p, err)
		}
		if got := connOf(t, s, id).RemoteAddr().String(); got != from {
			t.Errorf("remote address %s, want %s", got, from)
		}
	}
	for name, start := range map[string][]byte{
		"address full": append(proxyHeader(t, 2, "203.0.113.1:2000"), connectPacket("three", true)...),
		"no header":    connectPacket("three", true),
		"broken":       append([]byte("PROXY nonsense\r\n"), connectPacket("three", true)...),
		"silent":       nil,
	} {
		c := dial(t, l.Address(), true)
		c.send(start...)
		if !c.gone(patience) {
			t.Errorf("%s: the connection goes on", name)
		}
	}
	_, l = ours(t, nil, Options{TrustProxy: func(netip.Addr) bool { return false }})
	c := dial(t, l.Address(), true)
	_, _ = c.Write(append(proxyHeader(t, 2, "203.0.113.1:1000"), connectPacket("one", true)...))
	if !c.gone(patience) {
		t.Error("a stranger's header was taken")
	}
}

// pipe reads from bytes.
type pipe struct {
	net.Conn
	io.Reader
}

func (p pipe) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// FuzzProxyHeader: whatever a trusted peer sends, no byte after a header is
// lost or made up.
func FuzzProxyHeader(f *testing.F) {
	for _, v := range []byte{1, 2} {
		f.Add(append(proxyHeader(f, v, "203.0.113.1:1000"), "rest"...))
		f.Add(append(proxyHeader(f, v, "[2001:db8::1]:1000"), "rest"...))
	}
	f.Add([]byte("PROXY UNKNOWN\r\nrest"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00rest"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := parseProxyHeader(pipe{Reader: bytes.NewReader(b)})
		if err != nil {
			return
		}
		if h == nil {
			t.Fatal("no header")
		}
		left, err := io.ReadAll(rest)
		if err != nil || !bytes.HasSuffix(b, left) || len(left) >= len(b) {
			t.Fatalf("%q of %q: %v", left, b, err)
		}
	})
}

// reasons passes the reason of each record on. It must have room.
type reasons chan string

func (r reasons) Write(b []byte) (int, error) {
	var record struct{ Level, Remote, Reason, Mend string }
	if err := json.Unmarshal(b, &record); err != nil {
		return 0, err
	}
	if record.Reason != "" {
		if record.Level != "WARN" || record.Remote == "" || record.Mend == "" {
			record.Reason = "not told well: " + string(b)
		}
		r <- record.Reason
	}
	return len(b), nil
}

// TestProxyProtocolMismatch: where a peer and the configuration disagree, the log says how.
func TestProxyProtocolMismatch(t *testing.T) {
	server, _ := certificate(t, "server")
	yes, no := func(netip.Addr) bool { return true }, func(netip.Addr) bool { return false }
	header := proxyHeader(t, 2, "203.0.113.1:1000")
	for _, c := range []struct {
		name  string
		trust func(netip.Addr) bool
		start []byte
		want  string
	}{
		{"stranger", no, header, "its address is not that of a trusted proxy"},
		{"no header", yes, connectPacket("one", true), "the trusted proxy does not send the header"},
		{"broken header", yes, []byte("PROXY nonsense\r\n"), "the trusted proxy does not send the header"},
		{"version 1 where none is expected", nil, proxyHeader(t, 1, "203.0.113.1:1000"), "it begins with the header, which this listener does not expect"},
		{"version 2 where none is expected", nil, header, "it begins with the header, which this listener does not expect"},
	} {
		for _, secure := range []*tls.Config{nil, {Certificates: []tls.Certificate{server}}} {
			log := make(reasons, 10)
			_, l := ours(t, nil, Options{TrustProxy: c.trust, TLS: secure, Logger: slog.New(slog.NewJSONHandler(log, nil))})
			conn := dial(t, l.Address(), true)
			_, _ = conn.Write(c.start) // a stranger's connection may be closed already
			if !conn.gone(patience) {
				t.Errorf("%s, %s: the connection goes on", l.ID(), c.name)
			}
			if got := <-log; got != c.want {
				t.Errorf("%s, %s: %q, want %q", l.ID(), c.name, got, c.want)
			}
			if c.trust == nil {
				continue
			}
			dial(t, l.Address(), true).Close() // a health check
			l.Close(nil)
			if c.want != "its address is not that of a trusted proxy" && len(log) > 0 {
				t.Errorf("%s, %s: a connection without a byte is told of: %q", l.ID(), c.name, <-log)
			}
		}
	}
}

package listener

import (
	"bufio"
	"errors"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// errNoProxyHeader: something else came first.
var errNoProxyHeader = errors.New("no valid header of the PROXY protocol")

// proxied reports whether connections bring a header of the PROXY protocol.
func (f *front) proxied() bool { return f.options.TrustProxy != nil }

// trusts reports whether a connection may tell the address of its client. Anybody
// else could claim any address.
func (f *front) trusts(peer net.Addr) bool {
	t, ok := peer.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip, ok := netip.AddrFromSlice(t.IP)
	return ok && f.options.TrustProxy(ip.Unmap())
}

// unproxied logs that a connection was closed because its peer and the configuration disagree
// on the PROXY protocol. mend names the key and its remedy.
func (f *front) unproxied(peer net.Addr, why, mend string) {
	f.proxyLog.Warn(f.log, "connection closed: it does not keep to the PROXY protocol as it is configured",
		"listener", f.ID(), "remote", peer.String(), "reason", why, "mend", mend)
}

// unexpectedProxyHeader is unproxied for a header where none is expected.
func (f *front) unexpectedProxyHeader(c *Conn) {
	f.unproxied(c.remote, "it begins with the header, which this listener does not expect", "set mqtt.proxy_protocol: true, with the proxy's address in trusted_proxies")
}

// readProxyHeader reads the header on the connection's goroutine, within the time for
// the CONNECT, and takes the client's place with the Gate.
func (f *front) readProxyHeader(c *Conn) error {
	h, rest, err := parseProxyHeader(c.base.Conn)
	if err != nil {
		if !c.closed.Load() && !timedOut(err) {
			f.stats.handshakeFailures.Add(1)
		}
		if errors.Is(err, errNoProxyHeader) {
			f.unproxied(c.remote, "the trusted proxy does not send the header", "have the proxy send it, or set mqtt.proxy_protocol: false")
		}
		return err
	}
	c.base.pre = rest
	if h.Command.IsLocal() {
		return nil // the proxy's own, such as a health check
	}
	if a, ok := h.SourceAddr.(*net.TCPAddr); ok {
		c.remote = a
		addr := addressOf(a)
		if !f.options.Gate.claim(addr) {
			f.stats.refusedAddress.Add(1)
			return errAddressFull
		}
		c.addr = addr
	}
	return nil
}

// parseProxyHeader returns the reader that holds the bytes after the header.
func parseProxyHeader(c net.Conn) (*proxyproto.Header, *bufio.Reader, error) {
	r := bufio.NewReaderSize(c, 256)
	if _, err := r.Peek(1); err != nil {
		return nil, nil, err // without a byte, as a health check of the proxy ends
	}
	h, err := proxyproto.Read(r)
	if err != nil {
		if timedOut(err) {
			return nil, nil, err
		}
		return nil, nil, errors.Join(errNoProxyHeader, err)
	}
	return h, r, nil
}

package broker

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/hooks/strict"
	"github.com/heartline-mqtt/heartline/internal/seldom"
)

// proxies are the trusted ones.
type proxies []netip.Prefix

func newProxies(entries []string) (out proxies) {
	for _, e := range entries {
		if p, err := config.ProxyPrefix(e); err == nil { // the configuration has been checked
			out = append(out, p)
		}
	}
	return out
}

func (p proxies) trust(a netip.Addr) bool {
	a = a.Unmap()
	for _, prefix := range p {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// listen makes the listener of HTTP take the PROXY protocol from trusted peers and refuse
// others, or expect none. The header is read by the goroutine that serves the connection.
func (p proxies) listen(l net.Listener, proxied bool, log *slog.Logger) net.Listener {
	w := &proxyWatch{Listener: l, proxied: proxied, log: log}
	if !proxied {
		return w
	}
	return &proxyproto.Listener{
		Listener: w, ReadHeaderTimeout: 5 * time.Second,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if ap, err := netip.ParseAddrPort(o.Upstream.String()); err == nil && p.trust(ap.Addr()) {
				return proxyproto.REQUIRE, nil
			}
			w.tell(o.Upstream, "its address is not that of a trusted proxy", "add the address to trusted_proxies, or set http.proxy_protocol: false")
			return proxyproto.REJECT, proxyproto.ErrInvalidUpstream
		},
	}
}

// proxyWatch logs connections whose peer and the configuration disagree on the PROXY protocol:
// they are closed, or answered 400.
type proxyWatch struct {
	net.Listener
	proxied bool // the header is expected
	log     *slog.Logger
	seldom  seldom.Log
}

func (w *proxyWatch) tell(peer net.Addr, why, mend string) {
	w.seldom.Warn(w.log, "HTTP connection refused: it does not keep to the PROXY protocol as it is configured", "remote", peer.String(), "reason", why, "mend", mend)
}

// Accept implements net.Listener.
func (w *proxyWatch) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok {
		return &watchedConn{TCPConn: t, w: w}, err
	}
	return c, err
}

// watchedConn looks at its first bytes. Only one goroutine reads them.
type watchedConn struct {
	*net.TCPConn
	w    *proxyWatch
	read bool
}

// Read implements net.Conn.
func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n == 0 || c.read {
		return n, err
	}
	c.read = true
	switch header := strict.ProxyHeader(p[:n]); {
	case header && !c.w.proxied:
		c.w.tell(c.RemoteAddr(), "it begins with the header, which is not expected", "set http.proxy_protocol: true, with the proxy's address in trusted_proxies")
	case !header && c.w.proxied:
		c.w.tell(c.RemoteAddr(), "the trusted proxy does not send the header", "have the proxy send it, or set http.proxy_protocol: false")
	}
	return n, err
}

// handler puts the client's address into requests that come through trusted proxies.
func (p proxies) handler(next http.Handler) http.Handler {
	if len(p) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if client, ok := p.clientOf(r); ok {
			r.RemoteAddr = net.JoinHostPort(client.String(), "0")
		}
		next.ServeHTTP(w, r)
	})
}

// clientOf reads X-Forwarded-For from the right: each trusted proxy has appended the
// peer that it saw, and what stands further left is anybody's word.
func (p proxies) clientOf(r *http.Request) (client netip.Addr, ok bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !p.trust(peer.Addr()) {
		return client, false
	}
	list := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(list) {
		a, err := hopAddress(strings.TrimSpace(hop))
		if err != nil {
			return client, ok
		}
		client, ok = a.Unmap().WithZone(""), true
		if !p.trust(client) {
			return client, true
		}
	}
	return client, ok
}

// hopAddress parses an entry of X-Forwarded-For. Some proxies write the port, too (Azure's),
// or an IPv6 address in brackets.
func hopAddress(hop string) (netip.Addr, error) {
	if ap, err := netip.ParseAddrPort(hop); err == nil {
		return ap.Addr(), nil
	}
	if inner, ok := strings.CutPrefix(hop, "["); ok {
		hop = strings.TrimSuffix(inner, "]")
	}
	return netip.ParseAddr(hop)
}

package broker

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/heartline-mqtt/heartline/config"
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

// listen makes a listener take the PROXY protocol from trusted peers and refuse
// others. The header is read by the goroutine that serves the connection.
func (p proxies) listen(l net.Listener) net.Listener {
	return &proxyproto.Listener{
		Listener: l, ReadHeaderTimeout: 5 * time.Second,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if ap, err := netip.ParseAddrPort(o.Upstream.String()); err == nil && p.trust(ap.Addr()) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.REJECT, proxyproto.ErrInvalidUpstream
		},
	}
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
		a, err := netip.ParseAddr(strings.TrimSpace(hop))
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

package webpush

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/heartline-mqtt/heartline/internal/hosts"
)

// maxEndpoint is the length of an endpoint in bytes, as UnifiedPush has it.
const maxEndpoint = 1000

// errForbidden: the endpoint's host has an address that must not be reached. Its text
// names no address: a device could map our network with it.
var errForbidden = errors.New("the endpoint's address is not allowed")

// parseEndpoint checks a push endpoint (RFC 8030 §5) and returns its one spelling:
// lower-case host, no default port. The error does not repeat the endpoint.
func parseEndpoint(text string) (*url.URL, error) {
	if len(text) > maxEndpoint {
		return nil, fmt.Errorf("at most %d bytes, got %d", maxEndpoint, len(text))
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "":
		return nil, errors.New("must be an https URL")
	case u.Scheme != "https":
		return nil, errors.New("must begin with https:")
	case u.User != nil:
		return nil, errors.New("must have no user name")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return nil, errors.New("must have no fragment")
	}
	host := strings.ToLower(u.Hostname())
	if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' }) {
		return nil, errors.New("must name a host in ASCII")
	}
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n != 443 && n < 1024 {
			return nil, errors.New("must use port 443, or one from 1024 on")
		}
		if n == 443 {
			port = ""
		}
		u.Host = host
		if strings.Contains(host, ":") {
			u.Host = "[" + host + "]"
		}
		if port != "" {
			u.Host += ":" + strconv.FormatUint(n, 10)
		}
		return u, nil
	}
	if strings.HasSuffix(u.Host, ":") {
		return nil, errors.New("must have a port after the colon")
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

// guard says which push services may be reached.
type guard struct {
	allow   []string       // patterns of hosts; empty: any
	private []netip.Prefix // beside public addresses
}

// host reports whether allow names a host.
func (g *guard) host(host string) bool {
	return len(g.allow) == 0 || slices.ContainsFunc(g.allow, func(pattern string) bool { return hosts.Match(pattern, host) })
}

// notPublic are the special-purpose blocks (RFC 6890) that netip's methods do not
// cover, and those that carry an IPv4 address inside, which may be a private one.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("3fff::/20"), netip.MustParsePrefix("5f00::/16"), netip.MustParsePrefix("fec0::/10"),
}

// nat64 is the prefix of IPv4 addresses where a network has IPv6 alone (RFC 6052 §2.1): its
// DNS gives them to every name without an IPv6 address.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// address reports whether a may be connected to.
func (g *guard) address(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range g.private {
		if p.Contains(a) {
			return true
		}
	}
	if nat64.Contains(a) {
		b := a.As16()
		return g.address(netip.AddrFrom4([4]byte(b[12:])))
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// dialer connects to allowed addresses only. Control sees the address after the name
// was resolved, so a name that changes its mind between two looks gains nothing.
func (g *guard) dialer() *net.Dialer {
	return &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !g.address(ap.Addr()) {
			return errForbidden
		}
		return nil
	}}
}

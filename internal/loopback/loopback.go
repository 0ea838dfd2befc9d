// Package loopback decides whether a host name or address is this machine alone.
package loopback

import (
	"net/netip"
	"strings"
)

// Host reports whether host (a name or an address, without a port) is reached from
// this machine only. The empty host means every address of the machine and is not.
func Host(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") { // RFC 6761 §6.3
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

package config

import (
	"net/netip"
	"regexp"
	"strings"
)

const notOrigin = `must be an origin as a browser sends it, as in https://app.example.org, or a host, with * for a part of it, without a path; "*" for any`

var (
	originScheme = regexp.MustCompile(`^[a-z*][a-z0-9*+.-]*$`)
	originHost   = regexp.MustCompile(`^[a-z0-9*._-]+$`)
	originPort   = regexp.MustCompile(`^[0-9*]{1,5}$`)
)

// OriginPattern returns an entry of mqtt.allowed_origins in the spelling that browsers use: in
// lower case, without the port that the scheme implies. ok is false for an entry that no
// origin matches.
func OriginPattern(entry string) (pattern string, ok bool) {
	if entry == "*" {
		return entry, true
	}
	scheme, host, withScheme := strings.Cut(strings.TrimSuffix(strings.ToLower(entry), "/"), "://")
	if !withScheme {
		scheme, host = "", scheme
	}
	port := ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
		if !originPort.MatchString(port) {
			return "", false
		}
	}
	switch {
	case strings.HasPrefix(host, "["):
		a, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		if err != nil || !a.Is6() || a.Zone() != "" || !strings.HasSuffix(host, "]") {
			return "", false
		}
		host = "[" + a.String() + "]"
	case !originHost.MatchString(host) || !withScheme && host == "null": // null is what a browser sends for a page without an origin
		return "", false
	}
	if withScheme && !originScheme.MatchString(scheme) {
		return "", false
	}
	if scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		port = ""
	}
	if port != "" {
		host += ":" + port
	}
	if withScheme {
		host = scheme + "://" + host
	}
	return host, true
}

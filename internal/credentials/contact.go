package credentials

import (
	"errors"
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"strings"
)

// CheckContact checks the address that push services are given (RFC 8292 §2.1, claim
// sub). Apple answers 403 BadJwtToken to one that it cannot make sense of, where
// others take anything.
func CheckContact(contact string) error {
	if strings.ContainsFunc(contact, func(r rune) bool { return r <= ' ' || r == '<' || r == '>' || r > '~' }) {
		return errors.New("must have no spaces and no <>; Apple refuses them")
	}
	if address, ok := strings.CutPrefix(contact, "mailto:"); ok {
		a, err := mail.ParseAddress(address)
		if err != nil || a.Address != address {
			return errors.New("must be mailto: and an address, such as mailto:ops@example.com")
		}
		return checkHost(address[strings.LastIndexByte(address, '@')+1:])
	}
	u, err := url.Parse(contact)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return errors.New("must begin with mailto: or https:, such as mailto:ops@example.com")
	}
	return checkHost(u.Hostname())
}

func checkHost(host string) error {
	host = strings.ToLower(host)
	last := host[strings.LastIndexByte(host, '.')+1:]
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if last == host || err == nil || last == "local" || last == "invalid" || last == "localhost" || last == "test" || last == "" {
		return fmt.Errorf("must name a public domain, Apple refuses %q", host)
	}
	return nil
}

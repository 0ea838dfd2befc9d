package xmpp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"slices"
	"strings"
)

// bare returns a JID without its resource.
func bare(jid string) string { b, _, _ := strings.Cut(jid, "/"); return b }

// hostOf returns the domain of a JID.
func hostOf(jid string) string {
	b := bare(jid)
	if _, host, ok := strings.Cut(b, "@"); ok {
		return host
	}
	return b
}

// isFull reports whether a JID is one connection of a user: user@domain/resource.
func isFull(jid string) bool {
	b, resource, ok := strings.Cut(jid, "/")
	user, host, at := strings.Cut(b, "@")
	return ok && at && user != "" && host != "" && resource != ""
}

// isDomain reports whether a JID is a server.
func isDomain(jid string) bool { return jid != "" && !strings.ContainsAny(jid, "@/") }

// local reports whether a JID is a user of one of the hosts whose users are accounts.
func (g *Gate) local(jid string) bool {
	return strings.Contains(bare(jid), "@") && slices.Contains(g.opts.Hosts, hostOf(jid))
}

var deviceEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// DeviceID returns the device that a client is, from its account and its own device-id. It
// is a hash: device IDs are global, and a client that chose another user's would take
// that device away.
func DeviceID(account, deviceID string) string {
	sum := sha256.Sum256([]byte(account + "\x00" + deviceID))
	return "x-" + deviceEncoding.EncodeToString(sum[:])[:20]
}

// secret signs a push registration. Nothing of it is stored: a device that another
// account holds has another secret.
func (g *Gate) secret(account, device string) string {
	m := hmac.New(sha256.New, g.opts.Key)
	m.Write([]byte(account + "\x00" + device))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:18])
}

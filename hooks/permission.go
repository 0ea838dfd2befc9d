package hooks

import (
	"crypto/tls"
	"errors"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/auth"
)

// This file asks for credentials and ends connections whose credentials are no
// longer valid.

var (
	errNotItsDevice = packets.Code{Code: packets.ErrClientIdentifierNotValid.Code, Reason: "this account may not use this client identifier (auth.device_pattern, or the token's device)"}
	errLoginLater   = packets.Code{Code: packets.ErrServerUnavailable.Code, Reason: "the credentials could not be checked now; try again later with the same ones"}
	errRevoked      = packets.Code{Code: packets.ErrNotAuthorized.Code, Reason: "the credentials are no longer valid"}
)

// permissionEvery is how often the credentials of every connection are checked
// again.
const permissionEvery = time.Second

// secureConn is a connection of Heartline's listeners. In a server with listeners of
// its own nobody knows whether a client is still there, and certificates are those of
// a tls.Conn.
type secureConn interface {
	PeerOpen() bool
	TLS() *tls.ConnectionState
}

func credentials(cl *mqtt.Client, password []byte) auth.Credentials {
	c := auth.Credentials{ClientID: cl.ID, Username: string(cl.Properties.Username), Password: password, Remote: cl.Net.Remote}
	nc := unwrapped(cl.Net.Conn)
	var state *tls.ConnectionState
	switch nc := nc.(type) {
	case secureConn:
		c.Open = nc.PeerOpen
		state = nc.TLS()
	case *tls.Conn:
		s := nc.ConnectionState()
		state = &s
	}
	if state != nil && len(state.VerifiedChains) > 0 {
		c.Certificate = state.PeerCertificates[0]
	}
	return c
}

// refuseLogin answers a CONNECT whose credentials are not accepted. "Not now" and
// "wrong" are different answers: apps log their user out on 0x86.
func (h *Hook) refuseLogin(cl *mqtt.Client, err error) bool {
	h.logs.Info(h.log, "connection refused", "client", clip(cl.ID), "remote", cl.Net.Remote, "error", err)
	if errors.Is(err, auth.ErrUnavailable) {
		cl.Stop(h.refuse(cl, errLoginLater))
	}
	return false // mochi answers 0x86, in 3.1.1 5, unless the connection is closed
}

// watchPermissions ends connections whose credentials expire or are revoked, until
// the hook stops. Start it on a worker.
func (h *Hook) watchPermissions() {
	t := time.NewTicker(permissionEvery)
	defer t.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case now := <-t.C:
			h.endRevoked(now)
		}
	}
}

func (h *Hook) endRevoked(now time.Time) {
	h.conns.Range(func(_, v any) bool {
		c := v.(*conn)
		if !c.established.Load() || c.client.Closed() {
			return true
		}
		if err := c.identity.Check(now); err != nil {
			h.Counters.Revoked.Add(1)
			h.logs.Info(h.log, "connection ended", "client", clip(c.client.ID), "account", clip(c.identity.Account), "error", err)
			if errors.Is(err, auth.ErrRemoved) && h.hub != nil {
				c.session.EndService(c) // before its will is sent
			}
			_ = h.server.DisconnectClient(c.client, errRevoked) // returns the code it was given
		}
		return true
	})
}

package hooks

import (
	"errors"
	"fmt"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
)

// A device belongs to its account, and so does a session (contract §3). This file
// refuses a CONNECT under an identifier of another account before mochi takes the
// session over, and ends sessions whose device is released.

// claims holds the account of every client identifier between OnSessionEstablish and
// OnSessionEstablished. mochi adds the client to its list in between: without the
// claim two accounts could pass the check for one identifier at the same moment.
type claims struct {
	mu   sync.Mutex
	byID map[string]*claim
}

type claim struct {
	account string
	conns   int
}

// take claims id for account. It reports false if another account holds a claim.
func (s *claims) take(id, account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byID[id]
	if c == nil {
		if s.byID == nil {
			s.byID = map[string]*claim{}
		}
		c = &claim{account: account}
		s.byID[id] = c
	}
	if c.account != account {
		return false
	}
	c.conns++
	return true
}

func (s *claims) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byID[id]; c != nil {
		if c.conns--; c.conns == 0 {
			delete(s.byID, id)
		}
	}
}

// accountsAreProven reports whether somebody checks who a client is: Heartline's own
// authentication or the other hooks of the server.
func (h *Hook) accountsAreProven() bool { return h.opts.Authenticate != nil || h.opts.HostAuth }

// claim checks that the connection's account may use its client identifier, and
// claims it until the connection is established. If it may not, refused is true and
// code says why.
func (h *Hook) claim(c *conn) (code packets.Code, refused bool) {
	if !h.accountsAreProven() {
		return code, false
	}
	if !h.claims.take(c.client.ID, c.identity.Account) {
		return errOtherSession, true
	}
	c.mu.Lock()
	c.claimed = c.client.ID
	c.mu.Unlock()
	if code, refused = h.mayNotUse(c); refused {
		c.releaseClaim()
	}
	return code, refused
}

func (c *conn) releaseClaim() {
	c.mu.Lock()
	id := c.claimed
	c.claimed = ""
	c.mu.Unlock()
	if id != "" {
		c.hook.claims.release(id)
	}
}

// Why a CONNECT is refused. The reasons name no other account.
var (
	errOtherDevice  = packets.Code{Code: packets.ErrNotAuthorized.Code, Reason: "this device belongs to another account; it must sign out, or a service must release it"}
	errOtherSession = packets.Code{Code: packets.ErrNotAuthorized.Code, Reason: "this client identifier has a session of another account"}
	errLater        = packets.Code{Code: packets.ErrServerUnavailable.Code, Reason: "a later connection has this client identifier"}
	errNoRegistry   = packets.Code{Code: packets.ErrServerUnavailable.Code, Reason: "the registry of devices cannot be read now; try again later"}
)

func (h *Hook) mayNotUse(c *conn) (why packets.Code, refused bool) {
	owner, err := h.core.AccountOf(c.client.ID)
	switch {
	case h.stopped.Load(): // no registry to protect: everything below the prefix is refused
	case errors.Is(err, delivery.ErrNotFound):
	case err != nil:
		return errNoRegistry, true
	case owner != c.identity.Account:
		return errOtherDevice, true
	default:
		// A service has moved the device here: a session of the former account is
		// stale, and OnSessionEstablish drops it.
		return why, false
	}
	if h.hub != nil {
		if holder, ok := h.hub.Holder(c.client.ID); ok && holder != c.identity.Account {
			return errOtherSession, true
		}
		return why, false
	}
	if existing, ok := h.server.Clients.Get(c.client.ID); ok && existing != c.client && keepsSession(existing) &&
		string(existing.Properties.Username) != string(c.client.Properties.Username) {
		return errOtherSession, true
	}
	return why, false
}

// keepsSession reports whether a client is connected or its session outlives the
// connection. mochi removes one that does neither a moment after it has closed.
func keepsSession(cl *mqtt.Client) bool {
	if !cl.Closed() {
		return true
	}
	if cl.Properties.ProtocolVersion == 5 {
		return cl.Properties.Props.SessionExpiryInterval > 0
	}
	return !cl.Properties.Clean
}

// rejectEstablish refuses a connection from OnSessionEstablish, which cannot return
// an error: mochi would go on and take the session over. It gets an identifier that
// nobody has, so that mochi finds no session, and a closed connection, so that mochi
// gives up at its CONNACK. forgetRejected removes what mochi has added until then.
func (h *Hook) rejectEstablish(c *conn, code packets.Code) {
	id := c.client.ID
	h.Counters.RefusedConnects.Add(1)
	h.logs.Info(h.log, "connection refused", "client", id, "account", c.identity.Account, "remote", c.client.Net.Remote, "error", code.Reason)
	_ = h.refuse(c.client, code)
	c.rejected.Store(true)
	c.client.ID = fmt.Sprintf("\x00refused/%d", h.rejections.Add(1))
	_ = c.client.Net.Conn.Close() // not Stop: watchedConn hears the Close of mochi's Stop, after Clients.Add
}

// onConnClosed runs when mochi closes the connection, also one that it never
// established.
func (c *conn) onConnClosed() {
	c.releaseClaim()
	c.failedToEstablish()
	c.leaveNewcomers()
	c.keepRate()
	if c.rejected.Load() {
		c.hook.server.Clients.Delete(c.client.ID)
	}
}

// Disconnect ends the connection of a client and leaves its session. It reports
// false if the client is not connected.
func (h *Hook) Disconnect(clientID string) bool {
	cl, ok := h.connected(clientID)
	if !ok || cl.Net.Inline || cl.Closed() {
		return false
	}
	_ = h.server.DisconnectClient(cl, packets.ErrAdministrativeAction) // returns the code it was given
	return true
}

// EndSession ends the connection and the session of a client, so that another
// account can use the identifier. A session of another account than the given one stays;
// account "": it ends whoever has it. It reports false if there was none.
func (h *Hook) EndSession(clientID, account string) bool {
	if h.hub != nil {
		if holder, ok := h.hub.Holder(clientID); !ok || account != "" && holder != account {
			return false
		}
		if c, ok := h.hub.Connection(clientID).(*conn); ok {
			c.closing.Store(&packets.ErrAdministrativeAction)
		}
		return h.hub.End(clientID)
	}
	cl, ok := h.server.Clients.Get(clientID)
	if !ok || cl.Net.Inline {
		return false
	}
	if c := h.conn(cl); c != nil && account != "" && c.identity.Account != account {
		return false
	}
	h.endSession(cl, packets.ErrAdministrativeAction)
	return true
}

// connected returns the client that is connected under an identifier; in a server whose
// routing is its own, the one that has the session.
func (h *Hook) connected(clientID string) (*mqtt.Client, bool) {
	if h.hub == nil {
		return h.server.Clients.Get(clientID)
	}
	if c, ok := h.hub.Connection(clientID).(*conn); ok {
		return c.client, true
	}
	return nil, false
}

func (h *Hook) endSession(cl *mqtt.Client, code packets.Code) {
	if c := h.conn(cl); c != nil && !cl.Closed() {
		c.expireWithConnection()
		_ = h.server.DisconnectClient(cl, code)
		return
	}
	h.server.UnsubscribeClient(cl)
	cl.ClearInflights()
	h.server.Clients.Delete(cl.ID)
}

// expireWithConnection has the session end with the connection, in mochi too.
func (c *conn) expireWithConnection() {
	if c.hook.hub != nil {
		c.hook.hub.EndWithConnection(c.client.ID, c)
	}
	if c.client.Properties.ProtocolVersion == 5 {
		c.client.Properties.Props.SessionExpiryInterval, c.client.Properties.Props.SessionExpiryIntervalFlag = 0, true
	} else {
		c.client.Properties.Clean = true
	}
}

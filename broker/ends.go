package broker

import "context"

// disconnect ends the connection of a device, over MQTT or XMPP and at whichever node, and
// reports whether there was one.
func (h *Heartline) disconnect(device string) bool {
	ended := h.endHere(device, "", false)
	return h.endElsewhere("", false, device) || ended
}

// endSession ends the connections and sessions that devices have as those of an account; "":
// of whichever. It reports whether there was one.
func (h *Heartline) endSession(account string, devices ...string) (ended bool) {
	for _, device := range devices {
		ended = h.endHere(device, account, true) || ended
	}
	return h.endElsewhere(account, true, devices...) || ended
}

// endHere ends what a device has at this node.
func (h *Heartline) endHere(device, account string, session bool) (ended bool) {
	if session {
		ended = h.hook.EndSession(device, account)
	} else {
		ended = h.hook.Disconnect(device)
	}
	for _, g := range h.gates { // the identifier of a device over XMPP is of one account
		ended = g.Disconnect(device) || ended
	}
	return ended
}

// endElsewhere ends what devices have at the other nodes.
func (h *Heartline) endElsewhere(account string, session bool, devices ...string) bool {
	return h.node != nil && h.node.EndElsewhere(context.Background(), account, session, devices...)
}

// Package broker is Heartline, assembled: Attach adds it to someone's own mochi
// server, New makes the whole program around a server of its own, Run runs that
// until its context ends.
//
// Read attach.go, then broker.go. Start order: store, core (recovery), hook,
// links to XMPP servers, listeners. Stop order: the API and new accepts, running pushes (5 s), clients
// (DISCONNECT 0x8B to MQTT 5), pending work, store. A node with others first hands its accounts
// and its connections over to them (drain.go).
package broker

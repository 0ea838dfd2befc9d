// Package hooks is everything of Heartline that touches an MQTT packet: a hook for
// mochi-mqtt/server/v2 that turns packets into inputs of the core, and the core's
// publications into packets.
//
// Read core.go (its port to the core), hook.go (the calls of mochi), connect.go (who may connect, and how), permission.go (for how long),
// topics.go (the topics of ours), then
// conn.go (one connection: its packet IDs, its presence), outlet.go (its outgoing
// queue), flusher.go (who writes), inbound.go (what devices and backends publish), prompt.go
// (packets that need no waiting), stalled.go (publications while the store is reopened), replies.go (answers in
// the order of the questions), reason.go (errors as reason codes), events.go (timelines
// for services). For ordinary
// MQTT: access.go (who may use which topics), routing.go (between mochi's packets and
// package ordinary, which routes), subscriptions.go (SUBSCRIBE and UNSUBSCRIBE), turns.go (an account's share of the cores), newcomers.go
// and rate.go (limits), sys.go
// ($SYS).
//
// The device flow is conn.go, outlet.go, inbound.go, copies.go and publication.go. The
// ordinary flow is routing.go, subscriptions.go and package ordinary; it is ours where Options.Hub is set,
// on the server of `heartline serve`. There mochi's index, subscriptions and in-flight
// maps stay empty. In a foreign server the host routes, and a connection's session is a
// window: packet identifiers of notifications, and their part of the Receive Maximum.
// What still repairs mochi: readConnect and announce in routing.go, rejectEstablish in
// ownership.go, and package strict.
//
// Why the device's QoS 1 flow is ours and not mochi's is in docs/adr/0001: mochi
// has one in-flight map for both directions, loses packets over the client's
// Receive Maximum, and resends out of order. Every fact about mochi that this
// package relies on has a test in seams_test.go.
//
// mochi runs the hook's methods on the read goroutine of the client at hand. A listener
// of our own runs Prompt on the goroutine that reads from all clients: nothing there may
// wait. Flushers write to connections whose writes do not wait, each for many; to any
// other a goroutine of its own writes while there is something to send. Stop waits for
// those. The package imports auth, delivery, hooks/ordinary, wire, small
// packages of internal, and mochi.
package hooks

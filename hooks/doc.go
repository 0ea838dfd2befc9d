// Package hooks is everything of Heartline that touches an MQTT packet: a hook for
// mochi-mqtt/server/v2 that turns packets into inputs of the core, and the core's
// publications into packets.
//
// Read hook.go (what mochi calls), connect.go (who may connect, and how), then
// conn.go (one connection: its packet IDs, its presence), outlet.go (its outgoing
// queue), inbound.go (what devices and backends publish), replies.go (answers in
// the order of the questions), reason.go (errors as reason codes). For ordinary
// MQTT: access.go (who may use which topics), window.go (the client's Receive
// Maximum), load.go (its bytes in flight), aliases.go, takeover.go, flow.go and
// quirks.go.
//
// Why the device's QoS 1 flow is ours and not mochi's is in docs/adr/0001: mochi
// has one in-flight map for both directions, loses packets over the client's
// Receive Maximum, and resends out of order. Every fact about mochi that this
// package relies on has a test in seams_test.go.
//
// mochi runs the hook's methods on the read goroutine of the client at hand. What
// goes out runs on a goroutine of its own while there is something to send. Stop
// waits for those. The package imports delivery, wire and mochi.
package hooks

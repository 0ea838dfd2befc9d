// Package terminal is the reference terminal: a device of Heartline for Go
// programs, over MQTT 5 (contract §2 'The terminal' and §3; patent CN104125141A,
// claims 6, 7, 13 and 14, §0044, §0054, §0070, §0071). docs/clients.md describes its
// behaviour on the wire for other languages.
//
// Open connects and stays connected until Close. In the background a
// notification becomes a tip; in the foreground there is no tip, and the full
// message follows. Each ID is shown once, whichever path brought it, and every
// copy is acknowledged, after its Display method has returned.
//
// Read terminal.go (the user's view), link.go (the connection, and the messages
// published on it), show.go (how arriving messages are handled), then seen.go.
//
// Who runs what: autopaho keeps the connection; one goroutine of ours brings each
// new connection into line (app state, subscriptions); paho calls the Display from
// one goroutine, one call at a time. Close ends them all and waits.
//
// It imports wire and delivery, for their words, and autopaho.
package terminal

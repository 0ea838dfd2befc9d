// Package delivery is the journey of one notification: accepted and durable,
// over the live channel while the device's heartbeat holds, through a
// notification server when it does not, over the channel again when the device
// returns (contract §2; patent CN104125141A).
//
// Read notification.go (the words), transition.go (the state machine, one pure
// function), core.go (who runs it), then the steps: accept.go, publish.go,
// ack.go, window.go, push.go, redeliver.go, message.go, finish.go. registry.go
// keeps the devices, view.go answers questions, observer.go tells of every
// transition. ports.go holds what the core asks of others: an Outbox, a Channel
// for each connected device, a Pusher.
//
// Core.Start recovers and starts one loop with one timer. Everything else runs on
// the caller's goroutine under one mutex, or on the Outbox's goroutine that says
// what has become durable. Core.Stop returns when the loop has ended, running
// pushes are answered and everything is committed; the Outbox is closed after it.
//
// It imports no other package of Heartline and knows no packet, no HTTP and no
// disk.
package delivery

// Package delivery is the journey of one notification: accepted and durable, over
// the live channel while the device's heartbeat holds, through a notification server
// when it does not, over the channel again when the device returns (contract §2;
// patent CN104125141A).
//
// Read notification.go and registration.go (the words), limits.go and errors.go,
// transition.go (the state machine, one pure function), core.go (it runs the machine),
// then the steps: request.go (checks a request), accept.go with meaning.go (repeats of an ID), accepted.go (once stored) and held.go (accounts
// without devices), publish.go, ack.go, window.go, push.go, redeliver.go, message.go,
// finish.go, dismiss.go (taking it off the screens). slab.go keeps the deliveries, registry.go the devices and decides whose they
// are, claim.go who holds a token, forget.go and erase.go take devices and content away,
// names.go checks names, versions.go guards reads of the store, shard.go and neighbours.go
// are for several Cores over one store, view.go answers questions, unread.go counts for a
// badge, observer.go passes events on, events.go with position.go reads those of the store. ports.go declares the ports: an Outbox, a Channel for each connected device, a
// Pusher. clock.go, boottime_linux.go and boottime_other.go tell the time, inbox.go batches inputs, id.go
// makes IDs.
//
// # Concurrency
//
// Core.Start recovers and starts one loop with one timer. A goroutine per account
// reads the store for acceptances that need it, and ends with them. Everything else
// runs on the caller's goroutine under one mutex, or on the Outbox's goroutine that
// reports commits. The Channel, the Pusher and the Outbox are called with the mutex
// held: they must not wait, nor call back before they return.
//
// # Lifecycle
//
// Core.Abandon ends a Core whose accounts another node has taken over: it writes nothing.
// Core.Stop returns when the loop and these goroutines have ended, the pusher has
// answered the pushes under way, and everything is committed. It is safe at any time,
// twice, and twice at once. Close the Outbox after it.
//
// # Invariants
//
// A decision never rests on a read of the store outside the mutex: the read is
// repeated if the registry changed meanwhile (versions.go), and the order of
// Batch.PutDevices decides which device holds a token. A push leaves only after its
// request is on the disk, one at a time to each registration, and Push.Current checks
// it once more when its turn comes.
//
// It imports no other package of Heartline and knows no packet, no HTTP and no disk.
package delivery

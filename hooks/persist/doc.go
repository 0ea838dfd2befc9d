// Package persist keeps ordinary MQTT over a restart: retained messages, sessions
// that outlive their connection, their subscriptions, and the messages in flight to
// and from them at QoS 1 and 2. Heartline's own notifications are in the outbox and
// none of its business.
//
// Read keeper.go and marks.go (the marked changes), writer.go (how they are written), codec.go (the
// stored format), restore.go (how it comes back, and how retained messages are read).
//
// The Keeper does not write each change. It marks the changed entry, and a goroutine
// writes what the Hub has under each mark some milliseconds later, in batches that are
// each on the disk before the next is gathered. So a message that is acknowledged at once
// costs nothing, and a store that failed for a while is caught up with by itself.
//
// Notifications share the disk and come first: batches are small, with a pause after
// each. Accounts take turns in a batch, so that one that changes more than the pauses
// leave room for waits for itself alone.
//
// What holds after a crash of the process or of the machine: everything as it was
// a few milliseconds (at most the time of two writes to the disk) before, for such an
// account as it was some seconds before. A change is not waited for before a packet is
// answered.
//
// A write that does not come back holds nobody up: Ready and Stats say so.
//
// Restore starts the goroutine. Stop writes the remaining marks, waits for the goroutine, and
// gives up after a while when the disk does not answer. The package imports
// hooks/ordinary, internal/seldom and, for the names of the store, store.
package persist

// Package ordinary routes ordinary MQTT: it decides which message goes to which
// session, in what order, how often and with which flags. Notifications have a flow
// of their own in package hooks; both share a session's packet identifiers and its
// Receive Maximum.
//
// Read message.go (a message and its bytes on the wire), topics.go (the index of
// subscriptions), shared.go (who of a group gets a message), session.go (a session),
// queue.go (messages until their acknowledgement), sending.go (their order on the
// connection), acknowledge.go (acknowledgements in both directions), names.go and
// retained.go (retained messages and their replay), removals.go (those that were removed),
// will.go, serve.go (a message for one session), hub.go (the server's sessions and figures),
// publish.go (a message to its receivers, and back-pressure), connect.go (sessions begin, are
// taken over and end), subscribe.go, deadline.go (the work that time brings), state.go (a
// session as a value, for a store or another server), nodes.go (several servers that share
// the topics).
//
// A Session knows no connection but a Link. It never writes: it wakes its Link, and
// the owner of the connection calls Fill for as many bytes as the connection takes
// now. A connection that takes nothing leaves its messages in its session, where a
// budget of bytes and messages bounds them.
//
// # Order
//
// Publishing holds the topic's lock while it matches, retains and offers. A replay
// takes the same lock for each topic that it sends. So one order exists per topic,
// over live messages and retained ones: a session whose replay has not reached a
// topic yet gets the retained message of that topic right before the live one, and
// never after it.
//
// # Locks
//
// Topic lock (one of many, by hash), then Session.mu, then the retained index or the
// subscription index. Hub.mu and Session.subMu come before Session.mu, and the lock of the
// deadlines after it. A Link is called without any lock held. The locks of the two
// indexes are held for the levels of one topic or filter, never while anything waits.
// The topic lock is held while the message is appended to each receiver's queue, while it
// is encoded for other servers, and while a retained message is read from the disk. No
// other lock is held then: who answers a client takes Session.mu.
//
// # Back-pressure
//
// Publish returns the receivers that are over their budget and still read. The caller
// waits for them (Hub.Wait, a quarter of a second at most) before it reads its
// client's next packet. A receiver that makes no progress in that time is not waited
// for again for a while, and messages beyond its budget are dropped and counted.
//
// The package starts no goroutine. The owner runs Hub.Run for deadlines (sessions,
// delayed wills, retained messages) until its context ends. It imports nothing of
// Heartline and nothing of mochi.
package ordinary

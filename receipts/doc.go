// Package receipts tells backends what becomes of notifications: it sends the events of
// the timelines to webhooks, in the form of Standard Webhooks
// (https://www.standardwebhooks.com), from a position that is kept in the store.
//
// Read tail.go (the new events of the store, read once for all readers), webhook.go (which
// events go where), receipts.go (New, Start, Reconfigure, Stop), worker.go (one webhook:
// reading, and when an event is sent), attempt.go (an attempt and its outcome), retain.go
// (events too old to keep), save.go (when its position is written), owner.go (several nodes
// on one store), queue.go (the order), send.go (one request), state.go (the stored
// positions), pace.go (a webhook that catches up goes slower), view.go (the operator's view).
//
// # What holds
//
// A webhook gets every event that it asks for at least once, those of one notification in
// their order, each always under the same webhook-id. The position moves over an event
// when it is delivered, or kept in the store by itself (deferred, parked). So a crash
// repeats events and loses none. While the receiver takes other events, one that it does
// not take is retried in the intervals of Standard Webhooks and then parked, which lets
// the next events of its notification go on. While the receiver is down, one request at a time is made, and
// the events wait in the store. They wait for receipts.retain: Hold keeps the store's
// housekeeping from removing them. Then they are dropped and counted, and the receiver is
// told how many.
//
// # Who runs what
//
// Of several nodes on one store, one sends a webhook at a time: the owner of a partition,
// under whose fence the position is written.
//
// Each webhook has a goroutine that follows the events, one that decides, and one for each
// request. The Tail has one while it has readers. Nothing here is on the way of a
// notification: events are read from the store after their commit.
//
// Stop returns when all have ended; a Tail is stopped by its owner.
//
// It imports delivery, store, wire, internal/backoff, internal/h2pool, internal/seldom and
// internal/text.
package receipts

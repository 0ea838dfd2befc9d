// Package fallback asks notification servers to notify devices whose channel is down.
//
// Read pusher.go (the one interface a notification server implements, and the error
// that says what to do next), router.go (which lane a push goes to), lane.go (who
// sends), settle.go (what an answer does), queue.go (the order of the pushes to one registration), breaker.go (when a
// lane does not send) and status.go. Each notification server has a package below this
// one: apns, fcm, webpush.
//
// # Who runs what
//
// A Router has a lane for each app, environment and origin. A lane has its own limit of
// requests in flight and its own breaker: the storm, outage or wrong key of one does not
// touch another. In a lane each registration has a queue, of which one push is in flight
// at a time. A waiting push is a queue entry, not a goroutine; a lane has at most as many
// goroutines as requests in flight, and one timer.
//
// A push that failed for a passing reason is handed back with the time to wait, to the
// core, which keeps attempts and retry timers. The queue keeps its place meanwhile. A
// lane that does not send keeps its pushes. What a Pusher may repeat within one call is
// said at Pusher.Push.
//
// # How it stops
//
// Router.Close hands back the waiting pushes (PushRetry, ErrClosed), waits for the
// requests in flight, cuts them off after its grace, then closes the pushers. When it
// returns no goroutine of the package is left and no done will be called.
//
// The package imports delivery and internal/backoff, and knows nothing of MQTT,
// configuration files or the store.
package fallback

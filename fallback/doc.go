// Package fallback asks notification servers, Apple's first, to notify devices
// whose channel is down.
//
// Read pusher.go (the one interface a notification server implements, and the
// error that says what to do next), router.go and lane.go (who queues, who runs,
// who waits). Each notification server has a package below this one: apns is Apple's.
//
// # Who runs what
//
// A Router has a lane for each app and environment. A lane has a queue, its own
// limit of requests under way, its own breaker: one app's storm, outage or wrong
// key does not touch another's. A waiting push is a queue entry, not a goroutine;
// a lane has at most as many goroutines as requests under way, and none when its
// queue is empty. The router keeps no timers and retries no delivery: a push that
// is to be tried again is handed back with the time to wait, to the core, which
// keeps both. What a Pusher may repeat within one call is said at Pusher.Push.
//
// # How it stops
//
// Router.Close refuses what is queued (PushRetry, ErrClosed), waits for the
// requests under way, cuts them off after its grace, then closes the pushers.
// When it returns no goroutine of the package is left and no done will be called.
//
// The package imports delivery, and knows nothing of MQTT, configuration files
// or the store.
package fallback

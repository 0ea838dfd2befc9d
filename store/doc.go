// Package store is the durable store of the journey: it puts a group committer,
// a guard and a housekeeper in front of an [Engine], and so makes a
// delivery.Outbox of it.
//
// Read engine.go (what a store has to do), outbox.go (Options, New, Commit,
// Close), group.go (what may share one write), committer.go (the writing, and
// what happens when it fails), read.go, recent.go (a cache of the last notifications),
// seek.go (the commit of a time), state.go (ordinary MQTT's), guard.go (free space, readiness), housekeeping.go
// (pruning and accounting), checkpoint.go (backups), stats.go.
//
// # Who runs what
//
// Four goroutines live from New to Close. The committer takes all that callers
// have queued, applies it as one batch and hands the outcome on; where nobody waits
// for it, it lets more come first (Options.Gathering). The teller calls
// the done functions, in order, and after those of a write whoever asked for that
// (OnGroupDone), while the committer is already at the next batch.
// The guard looks at the free space. The housekeeper prunes and audits. A timer
// watches each Apply; when it is overdue, its goroutine refuses what can be
// refused and abandons the engine.
//
// # When the store fails
//
// An engine that says it is broken, or whose Apply does not return, is abandoned
// (see Engine.Abandon: from then on it cannot reach the store) and reopened as
// soon as there is room. The in-flight group is in doubt until then. The new
// engine shows whether it took effect: an acceptance that did is confirmed, one
// that did not is refused. So nothing that was refused ever takes effect, not
// even across a crash in the middle of it, and nothing has to be undone. All
// other changes are carried and applied again; that is harmless, since applying
// a batch twice is the same as applying it once. A fence, a batch that changes
// nothing and only waits for those before it, is refused as soon as the trouble
// shows: nobody knows how long that will last.
//
// # How it stops
//
// Close flushes the queue, closes the engine and returns when all
// goroutines have ended. It is safe to call twice.
//
// It imports delivery and nothing else of ours. Engines import it, never the
// other way round, so that a program carries only the engines it opens.
package store

// Package journal is a log of numbered frames in segment files. An engine that holds its
// latest changes in memory writes them here first, and replays them after a crash.
//
// Read log.go (append, sync, recycle), then replay.go, then batch.go: how a
// delivery.Batch becomes a frame.
//
// A Log starts no goroutine. Append and Free are not called concurrently with
// themselves; Sync may run at any time.
package journal

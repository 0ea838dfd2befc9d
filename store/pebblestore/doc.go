// Package pebblestore is the engine of the store on one machine's disk, on Pebble.
//
// Read keys.go and the package codec (the stored form), store.go (Options, Open,
// Close), directory.go (whose directory this is), open.go (whether it is whole), watermark.go
// (what must be in it at least), upgrade.go
// (from format 1), apply.go, erase.go, read.go, events.go (the order of commits), numbers.go (events stored lately),
// prune.go, scrub.go (erased data leaves the disk), checkpoint.go, mqttstate.go, liveness.go,
// log.go, fence.go (how Pebble is given up without leaving anything behind), journal.go (a
// journal in place of Pebble's log), fold.go (how its frames get into Pebble), ingest.go (how
// they become tables), overlay.go (a store that is only read, with its journal).
//
// # Keys
//
// The first byte says what a key is. Numbers are 8 bytes, big-endian; a name
// that is not the last field is escaped and ended by 0x00 0x01.
//
//	key                             value
//	a account seq                   -              an account's notifications, in order
//	c seq                           content        all of a Notification but its Seq
//	d seq                           data           as given, up to 256 KiB
//	e seq number                    events         one or more Events; number is the first's
//	g seq device                    finish         final state of a delivery, attempts, pushed, and the time;
//	                                               without device and time where it is its notification's only one
//	h hash                          device         who holds a token: 16 bytes of SHA-256 of server and token
//	i id                            seq            an ID that does not tell the Seq (delivery.SeqOf)
//	l commit                        references     which events a commit stored, and when: see EventsFrom
//	m c                             counters       accepted, finished, last number, last pruned, commits
//	m e                             time           of the first erasure that has not left the disk
//	m f                             number         the format, 2; in a directory of format 3, too
//	m r                             number         commit numbers up to it are reserved
//	q ...                           ...            ordinary MQTT, see hooks/persist; q w: webhooks, see receipts
//	r device seq                    record         a delivery that is not finished
//	v device                        device         the registry
//	w account device                -              an account's devices
//	x time seq device               -              finished deliveries by time, for pruning
//	y device seq                    dismissal      a notification to take off the device's screen
//
// Format 1 had "f seq device" (the time of a finish) and "p server token".
//
// Content and data have keys of their own, so that publishing and listing never
// read data. The events of one batch for the same notification share a value. A
// Record is keyed by its device first: what one device's return needs is one
// short scan, however many others are waiting. The counters are one value that
// each batch replaces, in the batch. A table holds keys of one first byte,
// unless an earlier version has written it.
//
// # The directory
//
//	FORMAT       what this is and which format; written last when a store is made
//	LOCK         held while the store is open
//	WATERMARK    the newest log and what must be in the store, so that a loss is noticed
//	db/          Pebble's
//	journal/     with Options.Journal: its segments, see the package journal
//	backup.new/  a checkpoint, while it is copied elsewhere; removed at the next Open
//	fold.new/    with Options.Journal: tables, until Pebble has taken them; removed at the next Open
//
// A directory that has no FORMAT and is not empty is someone else's, and refused.
//
// # Who runs what
//
// Apply and the write of each step of Prune take turns behind a mutex; what Prune
// reads it reads without. Pebble runs flushes and compactions on goroutines of its
// own, which Close ends. With a journal one goroutine folds and frees segments. No file of the store is changed after Close or Abandon has
// returned.
//
// It imports delivery, store (for the interfaces and ErrBroken), codec and journal, and
// nothing else of ours.
package pebblestore

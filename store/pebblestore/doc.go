// Package pebblestore is the engine of the outbox on one machine's disk, on
// Pebble.
//
// Read keys.go and the package codec (what is stored), store.go (Options, Open,
// Close), open.go (whose directory is this, and is it whole), apply.go, read.go,
// prune.go, fence.go (giving Pebble up without leaving anything behind).
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
//	f seq device                    time           when that delivery was finished; need not be there
//	                                               where it is its notification's only one
//	i id                            seq            an ID that does not tell the Seq (delivery.SeqOf)
//	m c                             counters       accepted, finished, last number, last pruned, writes
//	m f                             number         the format, 1
//	p server token                  device         who holds a push token
//	q ...                           ...            ordinary MQTT, see hooks/persist
//	r device seq                    record         a delivery that is not finished
//	v device                        device         the registry
//	w account device                -              an account's devices
//	x time seq device               -              finished deliveries by time, for pruning
//
// Content and data have keys of their own, so that publishing and listing never
// read data. The events of one batch for the same notification share a value. A
// Record is keyed by its device first: what one device's return needs is one
// short scan, however many others are waiting. The counters are one value that
// each batch replaces, in the batch.
//
// # The directory
//
//	FORMAT       what this is and which format; written last when a store is made
//	LOCK         held while the store is open
//	WATERMARK    the newest log and what must be in the store, so that a loss is noticed
//	db/          Pebble's
//
// A directory that has no FORMAT and is not empty is someone else's, and refused.
//
// # Who runs what
//
// Apply and Prune take turns behind a mutex. Pebble runs flushes and compactions
// on goroutines of its own, which Close ends. No file of the store is changed
// after Close or Abandon has returned.
//
// It imports delivery, outbox (for ErrBroken) and codec, and nothing else of ours.
package pebblestore

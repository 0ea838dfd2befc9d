// Package relay carries calls between the nodes of a cluster: from the node that has a
// device's connection or a backend's request (the edge) to the node whose Core serves
// the account (the owner), and publications back.
//
// Read owner.go (what an owner does, and a peer that stands for one), serve.go (the
// owner's side), presence.go (a device's channel at another node), topics.go (ordinary MQTT), session.go (frames
// that arrive once and in order although streams break), mesh.go (one stream to each
// other node), hello.go (how a stream begins), message.go, errors.go and frame.go (the
// encoding), tls.go.
//
// # The encoding
//
// Bodies are CBOR (RFC 8949) by github.com/fxamacker/cbor: it is well kept, checks lengths
// before it allocates, skips fields that it does not know, and needs no generated
// code. Members are numbers, so that a field can be renamed, and a node of the next
// version can add some. Notifications, devices and events inside are as the stores write
// them (store/codec). Protocol buffers would need a second description of every
// type; the codec of the store has no calls or errors.
//
// # Who runs what
//
// A Mesh runs one goroutine that accepts streams and one for each peer that it dials. A
// Session runs two for each stream, which read and write, and one for each call that may
// wait for the store. Close waits for all.
//
// # Invariants
//
// Frames of a Session are handled once, in the order in which they were sent, on the
// goroutine that reads; a handler there never waits. A frame stays in memory until the
// other side has confirmed it, and is sent again on the next stream. A Session
// ends when the other node's life has, when no stream could be had for as long as a
// request is held, or when the other side has ended it: then all its calls fail with
// delivery.ErrStopped, its devices are offline at their owner, and a new Session begins
// with nothing. A Session's lock is never held while a Core or a Channel is called.
//
// It imports delivery, store/codec and internal/backoff.
package relay

// Package strict refuses what MQTT forbids before the broker's parser sees it.
//
// mochi's decoder accepts a good deal that the standard calls malformed, and a
// truncated MQTT 5 SUBSCRIBE makes it index past its buffer, which ends the
// process. A [Reader] stands between the connection and that decoder: whole
// packets that are well formed pass unchanged, and the first that is not ends
// the stream with a [Violation], which knows the reason code that the standard
// names and what to answer in the protocol version at hand.
//
// Read in this order: violation.go (the refusals and their codes),
// reader.go (how bytes flow), stream.go (fixed headers, and which check a packet
// gets), then a file a packet: connect.go, publish.go, subscribe.go, control.go;
// they share properties.go and text.go. flow.go watches the packets
// that go out, to know which acknowledgement a client owes.
//
// A Reader is used by the goroutine that reads the connection. Only
// [Reader.Outbound] may be called by another at the same time. Nothing here
// starts a goroutine or keeps a clock.
//
// What holds for every stream of bytes, however it is cut into reads: the same
// packets pass, and the same Violation ends it; nothing of a packet but the
// payload of a PUBLISH passes before the packet has been checked; mochi's
// decoder does not panic on what passes.
//
// The package imports mochi's packets for its names and nothing else of it or of
// ours, so that it can stand in front of any broker.
package strict

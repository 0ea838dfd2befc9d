// Package faults shows that nothing accepted is lost, doubled or out of order
// (contract §7, guarantees 1 to 5): the real program in a process of its own, with
// devices, backends and a stand-in for Apple's server around it that each keep a
// ledger, a fault, and a checker that compares the ledgers with the store once the
// program has stopped.
//
// Read ledger.go (what is written down), checker.go (what must be true of it), then
// the parts: program.go (the program as a child process, kill -9), overlay.go (the
// same program with a disk that can be slow or read-only, and a clock that can be
// stepped), proxy.go (a network that fails), device.go and backend.go (who talks to
// the program), world.go (all of them together). rows.go is the table, a function a
// fault; table.go prints it, and writes it into docs/faults.md.
//
// Everything that is started belongs to a World, whose Close stops it and waits.
// The package imports delivery and the Pebble store for the checker, wire for the
// payloads, rawmqtt for the devices, smalldisk for the full disk, and apnssim.
package faults

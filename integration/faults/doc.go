// Package faults shows that nothing accepted is lost, doubled or out of order
// (contract §7, guarantees 1 to 5). It runs the real program in a process of its own,
// with devices, backends and stand-ins for notification servers, each of which keeps a
// ledger. A row of the table causes a fault; once the program has stopped, a checker
// compares the ledgers with the store.
//
// All files are tests. Read ledger_test.go (the records), checker_test.go (the rules),
// then the parts: program_test.go (the program as a child process, kill -9),
// overlay_test.go (the same program with a disk that can be slow or read-only, and a
// clock that can be stepped), proxy_test.go (a network that fails), device_test.go and
// backend_test.go (the clients), standins_test.go (FCM and Web Push), world_test.go (all of
// them together). rows_test.go is
// the table and the frame that most rows share, rows*_test.go have a function a fault,
// crash_test.go kills at chosen steps; table_test.go prints the table and writes it into
// docs/faults.md; planted_test.go checks the checker; faults_test.go runs the rows.
//
// Everything that is started belongs to a World, whose Close stops it and waits.
package faults

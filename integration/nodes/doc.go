// Package nodes holds the tests of several nodes over one PostgreSQL: real processes,
// which are killed, paused, stopped and cut off. It has no code of its own: nodes_test.go and
// node_test.go have nodes without a broker, serve_test.go the program itself; network_test.go
// (through gate_test.go), database_test.go and clock_test.go have the faults of networks, databases and clocks; moves_test.go,
// meet_test.go, storm_test.go, versions_test.go and xmpp_test.go have further ones.
package nodes

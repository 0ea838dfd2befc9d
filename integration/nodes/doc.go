// Package nodes holds the tests of several nodes over one PostgreSQL: real processes,
// which are killed, paused and stopped. It has no code of its own: nodes_test.go and
// node_test.go have nodes without a broker, serve_test.go the program itself.
package nodes

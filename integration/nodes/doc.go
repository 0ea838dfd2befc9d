// Package nodes holds the tests of several nodes over one PostgreSQL: real processes,
// which are killed and paused. It has no code of its own.
package nodes

// Package pgstore is the engine of the store on PostgreSQL, which several processes may
// share: PostgreSQL is the store, and the only referee of who owns what.
//
// Read db.go (connecting, and what can be wrong with it), schema.go with schema/1.sql and
// schema/added.sql (the tables), node.go (a life of a node: membership, lease, fence), join.go (waiting for
// the end of another life), parts.go (who owns what), engine.go (sessions of the writer
// lane), plan.go (a batch in columns), apply.go and registry.go (writing it), sql.go (every statement),
// read.go, backlog.go, events.go, prune.go, scrub.go (erased rows leave the disk), days.go (partitions),
// mqttstate.go, status.go, replication.go (standbys), errors.go, system_linux.go and system_other.go (the clock, and
// silent connections).
//
// # The fence
//
// A node that joins gets a number that is never given again, and a row of the table
// fence. Every write locks that row first, and so fails, with nothing of it visible, once
// another node has fenced this one off by deleting the row. Each new connection of the
// lane raises the row's session, which waits for a write of the connection before and cuts
// off whatever comes from it later: that is what Engine.Abandon promises.
//
// The fence protects the database, and nothing beyond it. What cannot be taken back, a
// push, is done only while Node.Trusted: until one second before the lease ends, by the
// node's own clock. A node is dead when its lease has not changed for as long as it lasts,
// by the clock of the one who looks: neither a step of the database's clock nor an outage
// of the database makes anybody fence off anybody.
//
// A standby that lacks the last transactions and becomes the primary brings deleted rows
// back: a fence is good only within one timeline of the database.
//
// # Who runs what
//
// A DB has a pool to read with, an Engine one connection to write with, and a Node one to
// renew its lease with. Nothing runs by itself.
//
// It imports delivery, store and store/codec.
package pgstore

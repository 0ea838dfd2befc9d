// Package cluster makes one Heartline of several nodes over one store: the accounts are
// cut into partitions, each served by one Core at one node.
//
// Read parts.go (which partition an account is in), owner.go (what serves one),
// table.go (the owner of each, and holding requests while there is none), router.go (the
// calls of devices and backends), accept.go (acceptances, held in their order), peers.go
// (owners at other nodes, by package relay), devices.go (the list of all devices),
// edge.go (a device's channel, whoever owns
// its account), stranded.go (devices whose owner is not reached), referee.go (the database
// as the only judge), node.go (a node and its lives), lease.go (renewing, and ending the
// lives of others), partitions.go (claiming and giving up),
// janitor.go (forgetting old devices).
//
// # Who runs what
//
// A Router starts a goroutine for each held request, but one for all held acceptances of a
// partition, for each claim that it passes to
// the other Cores, and for the channels that it announces to a new owner. Close waits
// for them.
//
// A Node runs two goroutines from Start to Stop: one renews the lease, so that nothing
// else can delay it, and one starts, stops and abandons Cores.
//
// # Invariants
//
// A node trusts itself until a second before its lease has lasted, from the moment at which it
// began to renew it. Another node may end its life only after it has seen the lease
// unchanged for as long as a lease lasts, and has renewed its own in time for as long. So
// the trust ends first, and neither a clock that is set nor a database that was away
// ends a life. Numbers of the next owner are above those of the last.
//
// It imports delivery, store, cluster/relay and internal/seldom.
package cluster

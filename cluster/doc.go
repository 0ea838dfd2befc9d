// Package cluster makes one Heartline of several nodes over one store: the accounts are
// cut into partitions, each served by one Core at one node.
//
// Read parts.go (which partition an account is in), owner.go (what serves one),
// table.go (who owns each, and holding requests while nobody does), router.go (what
// devices and backends ask), edge.go (a device's channel, whoever owns its account).
//
// # Who runs what
//
// A Router starts a goroutine for each held request, for each claim that it passes to
// the other Cores, and for the channels that it announces to a new owner. Close waits
// for them.
//
// It imports delivery.
package cluster

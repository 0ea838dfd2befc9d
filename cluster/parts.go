package cluster

import "github.com/cespare/xxhash/v2"

// Parts is how many partitions the accounts are cut into. It is fixed when a store is
// made: the low bits of every Seq are the partition.
const Parts = 1024

// Partition returns the partition of an account: all its devices and notifications are
// served by one Core.
func Partition(account string) uint16 { return uint16(xxhash.Sum64String(account) % Parts) }

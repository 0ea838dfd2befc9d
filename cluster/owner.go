package cluster

import "github.com/heartline-mqtt/heartline/cluster/relay"

// owner serves the accounts of a partition: a Core of this node, or one at a peer. An
// error that wraps delivery.ErrStopped says that it does not serve them any more; the
// Router repeats the call at the next owner.
type owner = relay.Owner

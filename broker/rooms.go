package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/newcomers"
)

// The owner of an account counts its devices (mqtt.limits.devices), also those that are about to
// become known at other nodes.

// roomPatience bounds the wait for the owner. One that does not answer does not register the
// device either.
const roomPatience = 2 * time.Second

// keepRoom is how long the owner keeps room for a device at another node. It registers right after
// that node has asked.
const keepRoom = 10 * time.Second

// roomAtOwner is newcomers.List.Owner.
func (n *node) roomAtOwner(limit int, account, device string) error {
	ctx, cancel := context.WithTimeout(context.Background(), roomPatience)
	defer cancel()
	full := false
	err := n.AtOwner(ctx, cluster.Partition(account), func() error { return nil }, func(peer *relay.Session) (err error) {
		full, err = peer.KeepRoom(ctx, limit, account, device)
		return err
	})
	if err == nil && full {
		return newcomers.ErrTooMany
	}
	return nil // see List.Owner
}

// onKeepRoom answers another node. Where this one does not own the account any more, the next
// owner is asked.
func (n *node) onKeepRoom(limit int, account, device string) (full bool, err error) {
	if !n.Serves(cluster.Partition(account)) {
		return false, fmt.Errorf("%w: another node owns the account", delivery.ErrStopped)
	}
	return errors.Is(n.rooms.Keep(n, limit, account, device, keepRoom), newcomers.ErrTooMany), nil
}

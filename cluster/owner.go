package cluster

import (
	"context"

	"github.com/heartline-mqtt/heartline/delivery"
)

// owner serves the accounts of a partition: a Core of this node, or a peer. An error
// that wraps delivery.ErrStopped says that it does not serve them any more; the Router
// repeats the call at the next owner.
type owner interface {
	Online(info delivery.OnlineInfo) (delivery.Up, error)
	AcceptAsync(r delivery.Request, done func(delivery.Receipt, error))
	AckByID(id, device, account string, kind delivery.AckKind) error
	Register(id, account string) error
	RegisterVia(id, account, via string) error
	ForgetAddress(id, account, address string) error
	SetRegistration(id, account string, r delivery.Registration) error
	RemoveRegistrations(id, account, server, kind string) error
	SignOut(ctx context.Context, id, account string) error
	Release(ctx context.Context, account, id, why string) error
	Forget(account, id string) error

	Devices(account string) ([]delivery.DeviceView, error)
	Device(account, id string) (delivery.DeviceView, error)
	PutDevice(ctx context.Context, account, id string, r *delivery.Registration) error
	ForgetDevice(ctx context.Context, account, id string) error
	AccountOf(id string) (string, error)

	Get(ctx context.Context, id string) (*delivery.View, error)
	List(ctx context.Context, f delivery.Filter) ([]*delivery.View, delivery.Seq, error)
	Cancel(ctx context.Context, id string) error
	Dismiss(ctx context.Context, id string) error
	Erase(ctx context.Context, id string) error
	EraseAccount(ctx context.Context, account string) error
	Flush(ctx context.Context) error
}

var _ owner = (*delivery.Core)(nil)

package broker

import (
	"context"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// Core is what accepts and delivers: one delivery.Core, or with store.engine postgres
// one for each partition of the accounts. See delivery.Core for its methods.
type Core interface {
	hooks.Core
	receipts.Core
	xmpp.Core

	Accept(ctx context.Context, r delivery.Request) (delivery.Receipt, error)
	AcceptAsync(r delivery.Request, done func(delivery.Receipt, error))
	Get(ctx context.Context, id string) (*delivery.View, error)
	List(ctx context.Context, f delivery.Filter) ([]*delivery.View, delivery.Seq, error)
	Cancel(ctx context.Context, id string) error
	Notification(seq delivery.Seq) (*delivery.Notification, error)
	Subscribe(buffer int) *delivery.Subscription
	EventsFrom(after delivery.Position, fn func(at delivery.Position, account string, e delivery.Event) bool) error
	EventsEnd() (delivery.Position, error)

	Devices(account string) ([]delivery.DeviceView, error)
	Device(account, id string) (delivery.DeviceView, error)
	AllDevices(after string, limit int) ([]delivery.DeviceView, error)
	PutDevice(ctx context.Context, account, id string, r *delivery.Registration) error
	Register(id, account string) error
	SetRegistration(id, account string, r delivery.Registration) error
	RemoveRegistrations(id, account, server, kind string) error
	ForgetDevice(ctx context.Context, account, id string) error
	SignOut(ctx context.Context, id, account string) error
	AccountOf(id string) (string, error)
	AckByID(id, device, account string, kind delivery.AckKind) error
	Flush(ctx context.Context) error
	Dismiss(ctx context.Context, id string) error
	Erase(ctx context.Context, id string) error
	EraseAccount(ctx context.Context, account string) error

	Observe(o delivery.Observer)
	Reconfigure(s delivery.Settings)
	PushPossible(server, app string)
	ChannelsUp() int
	CheckOwner(id, account string) error
	// Stop is called once what asks the core has been told to end.
	Stop(ctx context.Context) error
}

// core is a Core that is not running yet.
type core interface {
	Core
	Start() error
}

// outbox is the store: one store.Outbox, or with store.engine postgres that of the
// node's present life.
type outbox interface {
	delivery.Outbox
	store.State
	HasState() bool
	Ready() error
	Stats() store.Stats
	Checkpoint() (dir string, remove func() error, err error)
	Close() error
}

var (
	_ core   = (*delivery.Core)(nil)
	_ outbox = (*store.Outbox)(nil)
)

package broker

import (
	"context"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// APICore is the part of a Core that the HTTP API calls.
type APICore = api.Core

// Core is what accepts and delivers: one delivery.Core, or with store.engine postgres
// one for each partition of the accounts. See delivery.Core for its methods.
type Core interface {
	APICore
	hooks.Core
	receipts.Core
	xmpp.Core

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

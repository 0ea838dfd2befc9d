package hooks

import (
	"context"
	"encoding/json"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Core is what the hooks ask of *delivery.Core, or of whatever stands for several.
type Core interface {
	Online(info delivery.OnlineInfo) (delivery.Up, error)
	Accept(ctx context.Context, r delivery.Request) (delivery.Receipt, error)
	AcceptAsync(r delivery.Request, done func(delivery.Receipt, error))
	AckByID(id, device, account string, kind delivery.AckKind) error
	AccountOf(id string) (string, error)
	Devices(account string) ([]delivery.DeviceView, error)
	Register(id, account string) error
	SetRegistration(id, account string, r delivery.Registration) error
	RemoveRegistrations(id, account, server, kind string) error
	ReportsApp(id, account string) error
	SignOut(ctx context.Context, id, account string) error
	// Flush returns when the changes so far are in the store.
	Flush(ctx context.Context) error
	Notification(seq delivery.Seq) (*delivery.Notification, error)
	// InMemory is Notification without waiting; nil: the store has to be read.
	InMemory(seq delivery.Seq) *delivery.Notification
	Data(seq delivery.Seq) (json.RawMessage, error)
}

package xmpp

import (
	"context"
	"encoding/json"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Core is what a Gate asks of *delivery.Core, or of whatever stands for several.
type Core interface {
	Online(info delivery.OnlineInfo) (delivery.Up, error)
	AcceptAsync(r delivery.Request, done func(delivery.Receipt, error))
	AckByID(id, device, account string, kind delivery.AckKind) error
	AccountOf(id string) (string, error)
	AllDevices(after string, limit int) ([]delivery.DeviceView, error)
	Devices(account string) ([]delivery.DeviceView, error)
	Device(account, id string) (delivery.DeviceView, error)
	RegisterVia(id, account, via string) error
	ForgetAddress(id, account, address string) error
	SetRegistration(id, account string, r delivery.Registration) error
	RemoveRegistrations(id, account, server, kind string) error
	ReportsApp(id, account string) error
	SignOut(ctx context.Context, id, account string) error
	Notification(seq delivery.Seq) (*delivery.Notification, error)
	Data(seq delivery.Seq) (json.RawMessage, error)
	Flush(ctx context.Context) error
}

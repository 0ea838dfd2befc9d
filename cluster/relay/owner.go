package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Owner serves the accounts of a partition: a delivery.Core of this node, or a Remote.
// An error that wraps delivery.ErrStopped says that it does not serve them any more:
// the call may have taken effect, and is to be repeated at the next owner.
type Owner interface {
	Online(info delivery.OnlineInfo) (delivery.Up, error)
	AcceptAsync(r delivery.Request, done func(delivery.Receipt, error))
	AckByID(id, device, account string, kind delivery.AckKind) error
	Register(id, account string) error
	RegisterVia(id, account, via string) error
	ForgetAddress(id, account, address string) error
	SetRegistration(id, account string, r delivery.Registration) error
	RemoveRegistrations(id, account, server, kind string) error
	ReportsApp(id, account string) error
	SignOut(ctx context.Context, id, account string) error
	Release(ctx context.Context, account, id, why string) error
	Forget(account, id string) error

	Devices(account string) ([]delivery.DeviceView, error)
	Device(account, id string) (delivery.DeviceView, error)
	PutDevice(ctx context.Context, account, id string, r *delivery.Registration) error
	ForgetDevice(ctx context.Context, account, id string) error
	AccountOf(id string) (string, error)
	CheckOwner(id, account string) error

	Get(ctx context.Context, id string) (*delivery.View, error)
	List(ctx context.Context, f delivery.Filter) ([]*delivery.View, delivery.Seq, error)
	Cancel(ctx context.Context, id string) error
	Dismiss(ctx context.Context, id string) error
	Erase(ctx context.Context, id string) error
	EraseAccount(ctx context.Context, account string) error
	Flush(ctx context.Context) error
}

var (
	_ Owner = (*delivery.Core)(nil)
	_ Owner = (*Remote)(nil)
)

// Remote is the owner of a partition at another node, for as long as a Session lasts.
type Remote struct {
	s    *Session
	part uint16
	term uint64
}

// Owner returns the owner of a partition that the peer serves under a term.
func (s *Session) Owner(part uint16, term uint64) *Remote { return &Remote{s, part, term} }

// Session returns the Session that the owner is reached by.
func (r *Remote) Session() *Session { return r.s }

// ask sends a call and waits for its answer.
func (s *Session) ask(ctx context.Context, c *call) (*answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		c.Timeout = max(time.Until(end), 1)
	}
	answers := make(chan *answer, 1)
	if err := s.call(c, func(a *answer) { answers <- a }); err != nil {
		return nil, err
	}
	select {
	case a := <-answers:
		if a == nil {
			return nil, errEnded
		}
		return a, a.Failure.error()
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: the answer of another node was not awaited: %w", c.Op, context.Cause(ctx))
	}
}

func (r *Remote) ask(ctx context.Context, o op, args arguments) (*answer, error) {
	return r.s.ask(ctx, &call{Op: o, Part: r.part, Term: r.term, arguments: args})
}

func (r *Remote) tell(ctx context.Context, o op, args arguments) error {
	_, err := r.ask(ctx, o, args)
	return err
}

// AcceptAsync implements Owner.
func (r *Remote) AcceptAsync(q delivery.Request, done func(delivery.Receipt, error)) {
	c := &call{Op: opAccept, Part: r.part, Term: r.term, arguments: arguments{Request: (*request)(&q)}}
	err := r.s.call(c, func(a *answer) {
		if a == nil {
			done(delivery.Receipt{}, errEnded)
			return
		}
		receipt, err := a.Receipt.receipt()
		if a.Failure != nil {
			err = a.Failure.error()
		}
		done(receipt, err)
	})
	if err != nil {
		done(delivery.Receipt{}, err)
	}
}

// AckByID implements Owner.
func (r *Remote) AckByID(id, device, account string, kind delivery.AckKind) error {
	return r.tell(context.Background(), opAckByID, arguments{Account: account, Device: device, Notification: id, Ack: kind})
}

// Register implements Owner.
func (r *Remote) Register(id, account string) error {
	return r.tell(context.Background(), opRegister, arguments{Account: account, Device: id})
}

// RegisterVia implements Owner.
func (r *Remote) RegisterVia(id, account, via string) error {
	return r.tell(context.Background(), opRegisterVia, arguments{Account: account, Device: id, Text: via})
}

// ForgetAddress implements Owner.
func (r *Remote) ForgetAddress(id, account, address string) error {
	return r.tell(context.Background(), opForgetAddress, arguments{Account: account, Device: id, Address: address})
}

// SetRegistration implements Owner.
func (r *Remote) SetRegistration(id, account string, reg delivery.Registration) error {
	return r.tell(context.Background(), opSetRegistration, arguments{Account: account, Device: id, Registration: registrationOf(&reg)})
}

// RemoveRegistrations implements Owner.
func (r *Remote) RemoveRegistrations(id, account, server, kind string) error {
	return r.tell(context.Background(), opRemoveRegistrations, arguments{Account: account, Device: id, Text: server, Kind: kind})
}

// ReportsApp implements Owner. A node of an older version is not asked: there it is noted once the
// device is up.
func (r *Remote) ReportsApp(id, account string) error {
	if r.s.version.Load() < versionReportsApp {
		return nil
	}
	return r.tell(context.Background(), opReportsApp, arguments{Account: account, Device: id})
}

// SignOut implements Owner.
func (r *Remote) SignOut(ctx context.Context, id, account string) error {
	return r.tell(ctx, opSignOut, arguments{Account: account, Device: id})
}

// Release implements Owner.
func (r *Remote) Release(ctx context.Context, account, id, why string) error {
	return r.tell(ctx, opRelease, arguments{Account: account, Device: id, Text: why})
}

// Forget implements Owner.
func (r *Remote) Forget(account, id string) error {
	return r.tell(context.Background(), opForget, arguments{Account: account, Device: id})
}

// Devices implements Owner.
func (r *Remote) Devices(account string) ([]delivery.DeviceView, error) {
	return devices(r.ask(context.Background(), opDevices, arguments{Account: account}))
}

func devices(a *answer, err error) ([]delivery.DeviceView, error) {
	if err != nil {
		return nil, err
	}
	var views []delivery.DeviceView
	for i := range a.Devices {
		v, err := a.Devices[i].view()
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

// Device implements Owner.
func (r *Remote) Device(account, id string) (delivery.DeviceView, error) {
	return r.DeviceWithin(context.Background(), account, id)
}

// DeviceWithin is Device for a caller that waits for as long as ctx.
func (r *Remote) DeviceWithin(ctx context.Context, account, id string) (delivery.DeviceView, error) {
	views, err := devices(r.ask(ctx, opDevice, arguments{Account: account, Device: id}))
	if err == nil && len(views) != 1 {
		err = errNoContent
	}
	if err != nil {
		return delivery.DeviceView{}, err
	}
	return views[0], nil
}

var errNoContent = errors.New("the answer of another node lacks its content")

// PutDevice implements Owner.
func (r *Remote) PutDevice(ctx context.Context, account, id string, reg *delivery.Registration) error {
	return r.tell(ctx, opPutDevice, arguments{Account: account, Device: id, Registration: registrationOf(reg)})
}

// ForgetDevice implements Owner.
func (r *Remote) ForgetDevice(ctx context.Context, account, id string) error {
	return r.tell(ctx, opForgetDevice, arguments{Account: account, Device: id})
}

// AccountOf implements Owner.
func (r *Remote) AccountOf(id string) (string, error) {
	a, err := r.ask(context.Background(), opAccountOf, arguments{Device: id})
	if err != nil {
		return "", err
	}
	return a.Account, nil
}

// CheckOwner implements Owner.
func (r *Remote) CheckOwner(id, account string) error {
	return r.tell(context.Background(), opCheckOwner, arguments{Device: id, Account: account})
}

// Get implements Owner.
func (r *Remote) Get(ctx context.Context, id string) (*delivery.View, error) {
	a, err := r.ask(ctx, opGet, arguments{Notification: id})
	if err != nil {
		return nil, err
	}
	if len(a.Page) != 1 {
		return nil, errNoContent
	}
	return a.Page[0].view()
}

// List implements Owner.
func (r *Remote) List(ctx context.Context, f delivery.Filter) (page []*delivery.View, next delivery.Seq, err error) {
	a, err := r.ask(ctx, opList, arguments{Filter: (*filter)(&f)})
	if err != nil {
		return nil, 0, err
	}
	for i := range a.Page {
		v, err := a.Page[i].view()
		if err != nil {
			return nil, 0, err
		}
		page = append(page, v)
	}
	return page, a.Next, nil
}

// Cancel implements Owner.
func (r *Remote) Cancel(ctx context.Context, id string) error {
	return r.tell(ctx, opCancel, arguments{Notification: id})
}

// Dismiss implements Owner.
func (r *Remote) Dismiss(ctx context.Context, id string) error {
	return r.tell(ctx, opDismiss, arguments{Notification: id})
}

// Erase implements Owner.
func (r *Remote) Erase(ctx context.Context, id string) error {
	return r.tell(ctx, opErase, arguments{Notification: id})
}

// EraseAccount implements Owner.
func (r *Remote) EraseAccount(ctx context.Context, account string) error {
	return r.tell(ctx, opEraseAccount, arguments{Account: account})
}

// Flush implements Owner.
func (r *Remote) Flush(ctx context.Context) error { return r.tell(ctx, opFlush, arguments{}) }

// errOlder says that a node does not know a call.
var errOlder = fmt.Errorf("%w: the node is of an older version", delivery.ErrUnavailable)

// End ends the connection of a device at the other node, if it has one, and with session its
// session, too; see Local.End. A node of an older version is not asked.
func (s *Session) End(ctx context.Context, device, account string, session bool) (ended bool, err error) {
	if s.version.Load() < versionEnd {
		return false, errOlder
	}
	o := opDisconnect
	if session {
		o = opEndSession
	}
	a, err := s.ask(ctx, &call{Op: o, arguments: arguments{Account: account, Device: device}})
	if err != nil {
		return false, err
	}
	return a.Ended, nil
}

// Webhook has the other node carry out an order about a webhook that it sends. The error wraps
// delivery.ErrUnavailable where that node does not know such orders.
func (s *Session) Webhook(ctx context.Context, order []byte) (outcome []byte, err error) {
	if s.version.Load() < versionWebhook {
		return nil, errOlder
	}
	a, err := s.ask(ctx, &call{Op: opWebhook, arguments: arguments{Order: order}})
	if err != nil {
		return nil, err
	}
	return a.Outcome, nil
}

// KeepRoom has the other node, which owns an account, keep room among at most limit devices for one
// that is about to become known here. full: there is none.
func (s *Session) KeepRoom(ctx context.Context, limit int, account, device string) (full bool, err error) {
	if s.version.Load() < versionKeepRoom {
		return false, errOlder
	}
	a, err := s.ask(ctx, &call{Op: opKeepRoom, arguments: arguments{Account: account, Device: device, Limit: limit}})
	if err != nil {
		return false, err
	}
	return a.Full, nil
}

// FlushAll is delivery.Core.Flush of all Cores of the other node.
func (s *Session) FlushAll(ctx context.Context) error {
	_, err := s.ask(ctx, &call{Op: opFlushAll})
	return err
}

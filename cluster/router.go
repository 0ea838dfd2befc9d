package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/seldom"
)

// RouterOptions configure a Router. All but Able and End are required.
type RouterOptions struct {
	// Reader is a Core that is never started: it answers what the store alone knows.
	Reader *delivery.Core
	// Observers are those of all Cores of this node.
	Observers *delivery.Observers
	// Parts is the number of partitions. Each is one Core's.
	Parts uint16
	// Name is the node's, unique in the cluster.
	Name string
	// Hold is how long a request waits for a partition that no node serves.
	Hold time.Duration
	// Able reports whether this node itself reaches the database. While it does, a request that
	// another node refuses because its own store is unavailable waits, within Hold, for that node
	// to recover or for its successor. nil: such a refusal is the answer.
	Able func() bool
	// End ends connections of this node for the others (relay.Local); nil: it has none.
	End func(device, account string, session bool) bool
	Log *slog.Logger
}

// Router takes what devices and backends ask of this node to the Core that serves the
// account, here or at a peer. It has the methods of a delivery.Core; see there. While
// no node serves a partition its requests are held.
type Router struct {
	reader *delivery.Core
	table  table
	opts   RouterOptions
	seldom seldom.Log // of each device
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	tasks  sync.WaitGroup
	peers  map[int64]*relay.Session // by life
	// takings are of partitions that are being taken up.
	takings map[*taking]struct{}
}

// taking collects the claims that come while partitions are taken up: the backlog that has been
// read does not show them, and the Cores do not serve yet.
type taking struct{ claims []delivery.Claim }

// take begins to collect claims.
func (r *Router) take() *taking {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &taking{}
	r.takings[t] = struct{}{}
	return t
}

// taken ends it, and tells the Cores that have been taken up of the claims.
func (r *Router) taken(t *taking, cores []*delivery.Core) {
	r.mu.Lock()
	delete(r.takings, t)
	r.mu.Unlock()
	for _, core := range cores {
		for _, c := range t.claims {
			r.tellClaim(core, c)
		}
	}
}

// NewRouter returns a Router that knows no owner yet.
func NewRouter(o RouterOptions) *Router {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Router{reader: o.Reader, opts: o, cancel: cancel, peers: map[int64]*relay.Session{}, takings: map[*taking]struct{}{}}
	r.table.ctx = ctx //nolint:fatcontext // it is the Router's own, set once
	r.table.slots, r.table.hold = make([]slot, o.Parts), o.Hold
	return r
}

// Close refuses the held requests and waits for the others. Stop the Cores before it.
// It is safe to call twice, also at once.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.tasks.Wait()
}

// start runs task on a goroutine that Close waits for. After Close it runs nothing and
// returns false.
func (r *Router) start(task func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed { // a Go after Close's Wait has begun would be a race
		r.tasks.Go(task)
	}
	return !r.closed
}

// Serve has a Core of this node serve a partition from now on; nil: nobody does, as
// far as is known. A term lower than one before is ignored.
func (r *Router) Serve(part uint16, term uint64, core *delivery.Core) {
	if core == nil {
		r.setOwner(part, term, nil)
		return
	}
	r.setOwner(part, term, core)
	for _, s := range r.sessions() {
		s.Serving([]relay.Serving{{Part: part, Term: term}})
	}
}

func (r *Router) setOwner(part uint16, term uint64, o owner) {
	if r.table.slots[part].set(o, term) && o != nil {
		r.announce(part, o)
	}
}

// Serves reports whether this node serves a partition.
func (r *Router) Serves(part uint16) bool {
	s := &r.table.slots[part]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core != nil
}

// Changed returns a channel that is closed when the owner of a partition changes.
func (r *Router) Changed(part uint16) <-chan struct{} {
	_, changed := r.table.slots[part].get()
	return changed
}

// OwnerName returns the name of the node that serves a partition; "": none does, as far as
// this one knows.
func (r *Router) OwnerName(part uint16) string {
	s := &r.table.slots[part]
	s.mu.Lock()
	core, life := s.core, s.life
	s.mu.Unlock()
	if core != nil {
		return r.opts.Name
	}
	if peer := r.peer(life); peer != nil {
		return peer.Peer().Name
	}
	return ""
}

// counts returns how many partitions this node serves, and how many nobody does.
func (r *Router) counts() (owned, unserved int) {
	for i := range r.table.slots {
		s := &r.table.slots[i]
		s.mu.Lock()
		switch {
		case s.core != nil:
			owned++
		case s.owner == nil:
			unserved++
		}
		s.mu.Unlock()
	}
	return owned, unserved
}

// Cores returns the Cores of this node, by partition.
func (r *Router) Cores() (all []*delivery.Core) {
	for i := range r.table.slots {
		s := &r.table.slots[i]
		s.mu.Lock()
		if s.core != nil {
			all = append(all, s.core)
		}
		s.mu.Unlock()
	}
	return all
}

// part returns the partition of an account.
func (r *Router) part(account string) uint16 { return Partition(account) % r.opts.Parts }

func (r *Router) account(ctx context.Context, account string, fn func(owner) error) error {
	return r.table.do(ctx, r.part(account), r.cutOff, fn)
}

// cutOff reports whether an owner refuses because it does not reach the database, which this
// node does: nothing was accepted, and either the owner recovers or another takes over.
func (r *Router) cutOff(o owner, err error) bool {
	_, remote := o.(*relay.Remote)
	return remote && !moved(err) && errors.Is(err, delivery.ErrUnavailable) && !errors.Is(err, delivery.ErrOverloaded) && r.opts.Able != nil && r.opts.Able()
}

// AtOwner calls here if this node serves a partition, and there if another does. After an error
// that wraps delivery.ErrStopped it asks the next owner, or the same one again after a pause: a node
// that has just begun to serve a partition begins with the rest, such as webhooks, a moment later.
func (r *Router) AtOwner(ctx context.Context, part uint16, here func() error, there func(*relay.Session) error) error {
	begins := func(_ owner, err error) bool { return moved(err) }
	return r.table.do(ctx, part, begins, func(o owner) error {
		if remote, ok := o.(*relay.Remote); ok {
			return there(remote.Session())
		}
		return here()
	})
}

// notification calls fn with the owner of a notification.
func (r *Router) notification(ctx context.Context, id string, fn func(owner) error) error {
	n, err := r.reader.Find(id)
	if err != nil {
		return err
	}
	return r.account(ctx, n.Account, fn)
}

// Accept is Core.Accept.
func (r *Router) Accept(ctx context.Context, q delivery.Request) (delivery.Receipt, error) {
	type result struct {
		delivery.Receipt
		error
	}
	done := make(chan result, 1)
	r.AcceptAsync(q, func(receipt delivery.Receipt, err error) { done <- result{receipt, err} })
	select {
	case a := <-done:
		return a.Receipt, a.error
	case <-ctx.Done():
		return delivery.Receipt{}, fmt.Errorf("the answer was not awaited, the notification may have been accepted: %w", ctx.Err())
	}
}

// Get is Core.Get.
func (r *Router) Get(ctx context.Context, id string) (v *delivery.View, err error) {
	err = r.notification(ctx, id, func(o owner) (err error) { v, err = o.Get(ctx, id); return err })
	return v, err
}

// Cancel is Core.Cancel.
func (r *Router) Cancel(ctx context.Context, id string) error {
	return r.notification(ctx, id, func(o owner) error { return o.Cancel(ctx, id) })
}

// Dismiss is Core.Dismiss.
func (r *Router) Dismiss(ctx context.Context, id string) error {
	return r.notification(ctx, id, func(o owner) error { return o.Dismiss(ctx, id) })
}

// Erase is Core.Erase.
func (r *Router) Erase(ctx context.Context, id string) error {
	return r.notification(ctx, id, func(o owner) error { return o.Erase(ctx, id) })
}

// EraseAccount is Core.EraseAccount.
func (r *Router) EraseAccount(ctx context.Context, account string) error {
	return r.account(ctx, account, func(o owner) error { return o.EraseAccount(ctx, account) })
}

// List is Core.List.
func (r *Router) List(ctx context.Context, f delivery.Filter) (page []*delivery.View, next delivery.Seq, err error) {
	if f.Account == "" && f.Device != "" {
		if account, err := r.AccountOf(f.Device); err == nil {
			f.Account = account
		}
	}
	if f.Account == "" {
		if err := r.FlushAll(ctx); err != nil {
			return nil, 0, err
		}
		return r.reader.List(ctx, f)
	}
	err = r.account(ctx, f.Account, func(o owner) (err error) { page, next, err = o.List(ctx, f); return err })
	return page, next, err
}

// Flush is Core.Flush, of all Cores of this node. A change that another node has made for a call of
// this Router is in the store once the call has returned.
func (r *Router) Flush(ctx context.Context) error {
	var errs []error
	for _, c := range r.Cores() {
		if err := c.Flush(ctx); !moved(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Subscribe is Core.Subscribe: the events of all Cores of this node.
func (r *Router) Subscribe(buffer int) *delivery.Subscription {
	return r.opts.Observers.Subscribe(buffer)
}

// AckByID is Core.AckByID.
func (r *Router) AckByID(id, device, account string, kind delivery.AckKind) error {
	return r.account(context.Background(), account, func(o owner) error { return o.AckByID(id, device, account, kind) })
}

// Register is Core.Register.
func (r *Router) Register(id, account string) error {
	return r.account(context.Background(), account, func(o owner) error { return o.Register(id, account) })
}

// RegisterVia is Core.RegisterVia.
func (r *Router) RegisterVia(id, account, via string) error {
	return r.account(context.Background(), account, func(o owner) error { return o.RegisterVia(id, account, via) })
}

// ForgetAddress is Core.ForgetAddress.
func (r *Router) ForgetAddress(id, account, address string) error {
	return r.account(context.Background(), account, func(o owner) error { return o.ForgetAddress(id, account, address) })
}

// SetRegistration is Core.SetRegistration.
func (r *Router) SetRegistration(id, account string, reg delivery.Registration) error {
	return r.account(context.Background(), account, func(o owner) error { return o.SetRegistration(id, account, reg) })
}

// RemoveRegistrations is Core.RemoveRegistrations.
func (r *Router) RemoveRegistrations(id, account, server, kind string) error {
	return r.account(context.Background(), account, func(o owner) error { return o.RemoveRegistrations(id, account, server, kind) })
}

// ReportsApp is Core.ReportsApp.
func (r *Router) ReportsApp(id, account string) error {
	return r.account(context.Background(), account, func(o owner) error { return o.ReportsApp(id, account) })
}

// SignOut is Core.SignOut. It ends the sessions that the device has at the other nodes; that
// at this node is the caller's.
func (r *Router) SignOut(ctx context.Context, id, account string) error {
	err := r.account(ctx, account, func(o owner) error { return o.SignOut(ctx, id, account) })
	if err == nil {
		r.EndElsewhere(ctx, account, true, id)
	}
	return err
}

// PutDevice is Core.PutDevice.
func (r *Router) PutDevice(ctx context.Context, account, id string, reg *delivery.Registration) error {
	if err := errors.Join(delivery.ValidAccount(account), delivery.ValidDevice(id)); err != nil {
		return err
	}
	return r.account(ctx, account, func(o owner) error { return o.PutDevice(ctx, account, id, reg) })
}

// ForgetDevice is Core.ForgetDevice.
func (r *Router) ForgetDevice(ctx context.Context, account, id string) error {
	return r.account(ctx, account, func(o owner) error { return o.ForgetDevice(ctx, account, id) })
}

// Devices is Core.Devices.
func (r *Router) Devices(account string) (views []delivery.DeviceView, err error) {
	err = r.account(context.Background(), account, func(o owner) (err error) { views, err = o.Devices(account); return err })
	return views, err
}

// Device is Core.Device.
func (r *Router) Device(account, id string) (view delivery.DeviceView, err error) {
	err = r.account(context.Background(), account, func(o owner) (err error) { view, err = o.Device(account, id); return err })
	return view, err
}

// AccountOf is Core.AccountOf.
func (r *Router) AccountOf(id string) (account string, err error) {
	if account, err = r.reader.AccountOf(id); err != nil {
		return "", err
	}
	// Its owner knows of a removal that is on its way into the store.
	err = r.account(context.Background(), account, func(o owner) (err error) { account, err = o.AccountOf(id); return err })
	return account, err
}

// CheckOwner is Core.CheckOwner.
func (r *Router) CheckOwner(id, account string) error {
	return r.account(context.Background(), account, func(o owner) error { return o.CheckOwner(id, account) })
}

// PushPossible is Core.PushPossible, of all Cores of this node.
func (r *Router) PushPossible(server, app string) {
	for _, c := range r.Cores() {
		c.PushPossible(server, app)
	}
}

// Notification is Core.Notification.
func (r *Router) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	return r.reader.Notification(seq)
}

// InMemory is Core.InMemory.
func (r *Router) InMemory(seq delivery.Seq) *delivery.Notification { return r.reader.InMemory(seq) }

// Data is Core.Data.
func (r *Router) Data(seq delivery.Seq) (json.RawMessage, error) { return r.reader.Data(seq) }

// EventsFrom is Core.EventsFrom.
func (r *Router) EventsFrom(after delivery.Position, fn func(at delivery.Position, account string, e delivery.Event) bool) error {
	return r.reader.EventsFrom(after, fn)
}

// EventsEnd is Core.EventsEnd.
func (r *Router) EventsEnd() (delivery.Place, error) { return r.reader.EventsEnd() }

// ReadEvents is Core.ReadEvents: the events of all nodes.
func (r *Router) ReadEvents(after delivery.Place, fn func(at delivery.Position, account string, e delivery.Event) bool) (delivery.Place, error) {
	return r.reader.ReadEvents(after, fn)
}

// EventsSince is Core.EventsSince.
func (r *Router) EventsSince(t time.Time) (delivery.Place, error) { return r.reader.EventsSince(t) }

// Neighbours returns what the Core of a partition asks about the others.
func (r *Router) Neighbours(part uint16) delivery.Neighbours { return neighbours{r, part} }

type neighbours struct {
	r    *Router
	part uint16
}

// Ours implements delivery.Neighbours.
func (n neighbours) Ours(account string) bool { return n.r.part(account) == n.part }

// Release implements delivery.Neighbours.
func (n neighbours) Release(ctx context.Context, account, id, why string) error {
	err := n.r.account(ctx, account, func(o owner) error { return o.Release(ctx, account, id, why) })
	if err == nil {
		n.r.start(func() { // the Core must not wait for it; the new account's session stays
			n.r.End(id, account, true)
			n.r.EndElsewhere(n.r.table.ctx, account, true, id)
		})
	}
	return err
}

// Claimed implements delivery.Neighbours.
func (n neighbours) Claimed(c delivery.Claim) {
	n.r.start(func() { n.r.onClaimed(n.part, c) })
	for _, s := range n.r.sessions() {
		s.Claimed(n.part, c)
	}
}

// onClaimed tells the Cores of this node, but for the one that claims.
func (r *Router) onClaimed(from uint16, c delivery.Claim) {
	r.mu.Lock()
	for t := range r.takings {
		t.claims = append(t.claims, c)
	}
	r.mu.Unlock()
	for i := range r.table.slots {
		s := &r.table.slots[i]
		s.mu.Lock()
		core := s.core
		s.mu.Unlock()
		if core == nil || uint16(i) == from {
			continue
		}
		r.tellClaim(core, c)
	}
}

func (r *Router) tellClaim(core *delivery.Core, c delivery.Claim) {
	if err := core.OnClaimed(c); err != nil {
		r.seldom.Error(r.opts.Log, "a claim of another account was not looked at, its former holder may be notified too", "device", c.Device, "error", err)
	}
}

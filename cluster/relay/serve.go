package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Local is what a Mesh asks of its own node. All methods are safe for concurrent use.
type Local interface {
	// Owner returns the Core of this node that serves a partition under a term; wait is
	// closed when that may have changed. A nil Owner without an error: not yet. The
	// error wraps delivery.ErrStopped: not any more.
	Owner(part uint16, term uint64) (o Owner, wait <-chan struct{}, err error)
	// AcceptAt is AcceptAsync of the Core of this node that serves a partition under a
	// term, and keeps the order of the calls also while there is none yet.
	AcceptAt(part uint16, term uint64, r delivery.Request, done func(delivery.Receipt, error))
	// Current reports whether no owner of a partition is known with a higher term.
	Current(part uint16, term uint64) bool
	// InMemory is delivery.Core.InMemory.
	InMemory(seq delivery.Seq) *delivery.Notification
	// Flush is delivery.Core.Flush of all Cores of this node.
	Flush(ctx context.Context) error
	// End ends the connection of a device at this node, and with session its session, too. It
	// reports whether there was one. A session of another account stays; account "": it is
	// ended whoever has it.
	End(device, account string, session bool) bool
	// OnUp and OnDown say that a Session has begun, and that it has ended. Calls of it have
	// failed before OnDown.
	OnUp(s *Session)
	OnDown(s *Session)
	// OnServing says that the peer serves partitions now.
	OnServing(s *Session, parts []Serving)
	// OnClaimed is delivery.Core.OnClaimed for all Cores of this node.
	OnClaimed(from uint16, c delivery.Claim)
}

// handle takes a frame. It does not wait. An error says that the frame makes no sense;
// nothing has been done then.
func (s *Session) handle(f frame) error {
	switch f.kind {
	case kindCall:
		c := new(call)
		if err := decode(f.body, c); err != nil {
			return err
		}
		return s.onCall(c)
	case kindAnswer:
		a := new(answer)
		if err := decode(f.body, a); err != nil {
			return err
		}
		s.onAnswer(a)
	case kindUp:
		var r upReport
		if err := decode(f.body, &r); err != nil {
			return err
		}
		if (r.Kind == upAcked || r.Kind == upNacked) && r.Ref == nil {
			return fmt.Errorf("%w: an ack of nothing", errDamaged)
		}
		if r.Kind == 0 || r.Kind > upForsaken {
			return fmt.Errorf("%w: unknown report %d", errDamaged, r.Kind)
		}
		s.onUp(&r)
	case kindPublish:
		var p publication
		if err := decode(f.body, &p); err != nil {
			return err
		}
		s.onPublish(&p)
	case kindReplaced:
		var p replaced
		if err := decode(f.body, &p); err != nil {
			return err
		}
		s.onReplaced(&p)
	case kindServing:
		var parts []Serving
		if err := decode(f.body, &parts); err != nil {
			return err
		}
		s.local.OnServing(s, parts)
	case kindClaimed:
		var c claimed
		if err := decode(f.body, &c); err != nil {
			return err
		}
		s.local.OnClaimed(c.Part, delivery.Claim{Device: c.Device, Server: c.Server, Token: c.Token})
	case kindFilters, kindMessage:
		return s.onTopics(f)
	default:
		return fmt.Errorf("%w: unknown kind %d", errDamaged, f.kind)
	}
	return nil
}

// refuse answers a call that makes no sense, if the frame is one.
func (s *Session) refuse(f frame) {
	if f.kind != kindCall {
		return
	}
	var c struct {
		ID uint64 `cbor:"1,keyasint"`
	}
	if decode(f.body, &c) == nil {
		s.answer(c.ID, results{}, fmt.Errorf("%w: this node does not know the call; is it of an older version?", delivery.ErrUnavailable))
	}
}

// answer answers a call. A large answer that does not fit is replaced by an error: it is of a read, of
// an acceptance, or of a session that has been taken.
func (s *Session) answer(id uint64, r results, err error) {
	f := newFrame(kindAnswer, encode(answer{ID: id, Failure: failureOf(err), results: r}))
	if len(f) <= largeAnswer {
		_ = s.sendFrame(f, maxKept) // nobody waits at a Session that has ended
		return
	}
	err = s.sendFrame(f, maxKept-largeAnswer)
	switch {
	case !errors.Is(err, errFull):
	case r.Receipt != nil:
		s.answer(id, results{}, fmt.Errorf("%w: its receipt does not fit into the queue for another node", delivery.ErrInDoubt))
	default:
		s.answer(id, results{}, errFull)
	}
}

func (s *Session) onCall(c *call) error {
	switch c.Op {
	case opOnline:
		if c.Online == nil {
			return fmt.Errorf("%w: online without a channel", errDamaged)
		}
		s.onOnline(c)
		return nil
	case opAccept:
		if c.Request == nil {
			return fmt.Errorf("%w: accept without a request", errDamaged)
		}
		s.local.AcceptAt(c.Part, c.Term, delivery.Request(*c.Request), func(r delivery.Receipt, err error) {
			s.answer(c.ID, results{Receipt: receiptOf(&r)}, err)
		})
		return nil
	case opFlushAll:
		s.later(c, func(ctx context.Context, _ Owner) (results, error) { return results{}, s.local.Flush(ctx) }, nil)
		return nil
	case opTakeSession:
		s.onTakeSession(c)
		return nil
	case opWebhook:
		s.later(c, func(ctx context.Context, _ Owner) (r results, err error) {
			if s.m.opts.Webhook == nil {
				return r, errOlder
			}
			r.Outcome, err = s.m.opts.Webhook(ctx, c.Order)
			return r, err
		}, nil)
		return nil
	case opKeepRoom:
		s.later(c, func(context.Context, Owner) (r results, err error) {
			if s.m.opts.KeepRoom == nil {
				return r, errOlder
			}
			r.Full, err = s.m.opts.KeepRoom(c.Limit, c.Account, c.Device)
			return r, err
		}, nil)
		return nil
	case opDisconnect, opEndSession:
		s.later(c, func(context.Context, Owner) (results, error) {
			return results{Ended: s.local.End(c.Device, c.Account, c.Op == opEndSession)}, nil
		}, nil)
		return nil
	}
	serve := s.serving(c)
	if serve == nil {
		return fmt.Errorf("%w: unknown %s", errDamaged, c.Op)
	}
	if c.Op == opList && c.Filter == nil {
		return fmt.Errorf("%w: list without a filter", errDamaged)
	}
	s.later(c, serve, nil)
	return nil
}

// later serves a call on a goroutine of its own, once this node has the Core. after is
// called with the outcome before the answer is sent.
func (s *Session) later(c *call, serve func(context.Context, Owner) (results, error), after func(error)) {
	s.mu.Lock()
	ended := s.ended
	if !ended { // a Go after the Wait has begun would be a race
		s.waiting.Go(func() { s.serveLater(c, serve, after) })
	}
	s.mu.Unlock()
	if ended && after != nil {
		after(errEnded)
	}
}

func (s *Session) serveLater(c *call, serve func(context.Context, Owner) (results, error), after func(error)) {
	ctx, cancel := context.WithTimeout(s.ctx, s.m.opts.Patience)
	defer cancel()
	if c.Timeout > 0 {
		ctx, cancel = context.WithTimeout(s.ctx, c.Timeout)
		defer cancel()
	}
	var r results
	owner, err := Owner(nil), error(nil)
	if !c.Op.ofNode() {
		owner, err = s.owner(ctx, c)
	}
	if err == nil {
		if c.Timeout == 0 {
			ctx = s.ctx
		}
		r, err = serve(ctx, owner)
	}
	if after != nil {
		after(err)
	}
	s.answer(c.ID, r, err)
}

// owner waits until this node has the Core that a call is for.
func (s *Session) owner(ctx context.Context, c *call) (Owner, error) {
	for {
		o, wait, err := s.local.Owner(c.Part, c.Term)
		if o != nil || err != nil {
			return o, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: the node that owns partition %d does not serve it yet", delivery.ErrUnavailable, c.Part)
		}
	}
}

// serving returns what serves a call; nil: its op is unknown.
func (s *Session) serving(c *call) func(context.Context, Owner) (results, error) {
	only := func(fn func(ctx context.Context, o Owner) error) func(context.Context, Owner) (results, error) {
		return func(ctx context.Context, o Owner) (results, error) { return results{}, fn(ctx, o) }
	}
	// stored answers once the store has the change: the other node's own Flush does not reach this
	// Core, and its caller may be told that the change is on record.
	stored := func(fn func(o Owner) error) func(context.Context, Owner) (results, error) {
		return only(func(ctx context.Context, o Owner) error {
			if err := fn(o); err != nil {
				return err
			}
			return o.Flush(ctx)
		})
	}
	switch c.Op {
	case opAckByID:
		return stored(func(o Owner) error { return o.AckByID(c.Notification, c.Device, c.Account, c.Ack) })
	case opRegister:
		return stored(func(o Owner) error { return o.Register(c.Device, c.Account) })
	case opRegisterVia:
		return stored(func(o Owner) error { return o.RegisterVia(c.Device, c.Account, c.Text) })
	case opForgetAddress:
		return only(func(_ context.Context, o Owner) error { return o.ForgetAddress(c.Device, c.Account, c.Address) })
	case opSetRegistration:
		return stored(func(o Owner) error {
			r, err := registration(c.Registration)
			if err != nil {
				return err
			}
			if r == nil {
				return errNoContent
			}
			return o.SetRegistration(c.Device, c.Account, *r)
		})
	case opRemoveRegistrations:
		return stored(func(o Owner) error { return o.RemoveRegistrations(c.Device, c.Account, c.Text, c.Kind) })
	case opReportsApp:
		return only(func(_ context.Context, o Owner) error { return o.ReportsApp(c.Device, c.Account) })
	case opSignOut:
		return only(func(ctx context.Context, o Owner) error { return o.SignOut(ctx, c.Device, c.Account) })
	case opRelease:
		return only(func(ctx context.Context, o Owner) error { return o.Release(ctx, c.Account, c.Device, c.Text) })
	case opForget:
		return only(func(_ context.Context, o Owner) error { return o.Forget(c.Account, c.Device) })
	case opDevices:
		return func(_ context.Context, o Owner) (r results, err error) {
			views, err := o.Devices(c.Account)
			for i := range views {
				r.Devices = append(r.Devices, deviceViewOf(&views[i]))
			}
			return r, err
		}
	case opDevice:
		return func(_ context.Context, o Owner) (results, error) {
			v, err := o.Device(c.Account, c.Device)
			if err != nil {
				return results{}, err
			}
			return results{Devices: []deviceView{deviceViewOf(&v)}}, nil
		}
	case opPutDevice:
		return only(func(ctx context.Context, o Owner) error {
			r, err := registration(c.Registration)
			if err != nil {
				return err
			}
			return o.PutDevice(ctx, c.Account, c.Device, r)
		})
	case opForgetDevice:
		return only(func(ctx context.Context, o Owner) error { return o.ForgetDevice(ctx, c.Account, c.Device) })
	case opAccountOf:
		return func(_ context.Context, o Owner) (r results, err error) {
			r.Account, err = o.AccountOf(c.Device)
			return r, err
		}
	case opCheckOwner:
		return only(func(_ context.Context, o Owner) error { return o.CheckOwner(c.Device, c.Account) })
	case opGet:
		return func(ctx context.Context, o Owner) (results, error) {
			v, err := o.Get(ctx, c.Notification)
			if err != nil {
				return results{}, err
			}
			return results{Page: []view{viewOf(v)}}, nil
		}
	case opList:
		return func(ctx context.Context, o Owner) (r results, err error) {
			page, next, err := o.List(ctx, delivery.Filter(*c.Filter))
			for _, v := range page {
				r.Page = append(r.Page, viewOf(v))
			}
			r.Next = next
			return r, err
		}
	case opCancel:
		return only(func(ctx context.Context, o Owner) error { return o.Cancel(ctx, c.Notification) })
	case opDismiss:
		return only(func(ctx context.Context, o Owner) error { return o.Dismiss(ctx, c.Notification) })
	case opErase:
		return only(func(ctx context.Context, o Owner) error { return o.Erase(ctx, c.Notification) })
	case opEraseAccount:
		return only(func(ctx context.Context, o Owner) error { return o.EraseAccount(ctx, c.Account) })
	case opFlush:
		return only(func(ctx context.Context, o Owner) error { return o.Flush(ctx) })
	}
	return nil
}

// Serving tells the peer that this node serves partitions now.
func (s *Session) Serving(parts []Serving) { _ = s.send(kindServing, parts, maxKept) } // a Session that begins asks the database

// Claimed tells the peer of a claim.
func (s *Session) Claimed(from uint16, c delivery.Claim) {
	_ = s.send(kindClaimed, claimed{from, c.Device, c.Server, c.Token}, maxKept) // a peer that has lost its life has nothing in memory
}

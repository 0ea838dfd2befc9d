package cluster

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
)

// AllDevices is Core.AllDevices. A page waits for owners that are not reached for as long as one
// request does. Then it has what the store knows of their devices.
func (r *Router) AllDevices(after string, limit int) ([]delivery.DeviceView, error) {
	views, err := r.reader.AllDevices(after, limit)
	if err != nil {
		return nil, err
	}
	byPart := map[uint16][]*delivery.DeviceView{}
	for i := range views {
		part := r.part(views[i].Account)
		byPart[part] = append(byPart[part], &views[i])
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.table.hold)
	defer cancel()
	var asking errgroup.Group
	for part, devices := range byPart {
		asking.Go(func() error { return r.refresh(ctx, part, devices) })
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(views, func(d delivery.DeviceView) bool { return d.ID == "" }), nil
}

// refresh asks the owner of a partition about devices, as long as it is reached. One that has just
// left loses its ID.
func (r *Router) refresh(ctx context.Context, part uint16, devices []*delivery.DeviceView) error {
	for _, d := range devices {
		v := delivery.DeviceView{}
		err := r.table.do(ctx, part, nil, func(o owner) (err error) { v, err = deviceAt(ctx, o, d.Account, d.ID); return err })
		switch {
		case err == nil:
			*d = v
		case errors.Is(err, delivery.ErrNotFound):
			d.ID = ""
		case errors.Is(err, delivery.ErrUnavailable) || ctx.Err() != nil:
			return nil //nolint:nilerr // the rest stays as the store has it
		default:
			return err
		}
	}
	return nil
}

// deviceAt is Owner.Device for as long as ctx.
func deviceAt(ctx context.Context, o owner, account, id string) (delivery.DeviceView, error) {
	if remote, ok := o.(*relay.Remote); ok {
		return remote.DeviceWithin(ctx, account, id)
	}
	return o.Device(account, id)
}

// StoredDevices is AllDevices as the store has them: it asks no owner, so that it knows of no
// channel, and of no change that is on its way into the store.
func (r *Router) StoredDevices(after string, limit int) ([]delivery.DeviceView, error) {
	return r.reader.AllDevices(after, limit)
}

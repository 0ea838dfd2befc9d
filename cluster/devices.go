package cluster

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
)

// AllDevices is Core.AllDevices: a page that is not full is the last. It waits for owners that are
// not reached for as long as one request does. Then it has what the store knows of their devices.
func (r *Router) AllDevices(after string, limit int) ([]delivery.DeviceView, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.table.hold)
	defer cancel()
	var all []delivery.DeviceView
	for {
		missing := limit - len(all)
		stored, err := r.reader.AllDevices(after, missing)
		if err != nil {
			return nil, err
		}
		last := len(stored) < missing
		if !last {
			after = stored[len(stored)-1].ID
		}
		if err := r.refreshAll(ctx, stored); err != nil {
			return nil, err
		}
		all = append(all, slices.DeleteFunc(stored, func(d delivery.DeviceView) bool { return d.ID == "" })...)
		if last || len(all) >= limit {
			return all, nil
		}
	}
}

// refreshAll asks the owners of devices about them. One that has just left loses its ID.
func (r *Router) refreshAll(ctx context.Context, views []delivery.DeviceView) error {
	byPart := map[uint16][]*delivery.DeviceView{}
	for i := range views {
		part := r.part(views[i].Account)
		byPart[part] = append(byPart[part], &views[i])
	}
	var asking errgroup.Group
	for part, devices := range byPart {
		asking.Go(func() error { return r.refresh(ctx, part, devices) })
	}
	return asking.Wait()
}

// refresh is refreshAll for one partition, as long as its owner is reached.
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

// deviceAt is Owner.Device. It waits for another node until ctx ends.
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

package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// forgetStep is how many registry entries are read at once.
const forgetStep = 1000

var errUnreached = fmt.Errorf("%w: the node that serves the account is not reached", delivery.ErrUnavailable)

// ForgetOld has every device forgotten that has given no sign of life since before: each
// by the Core that serves its account, which looks again. In all it waits for owners that are not
// reached for as long as one request does, and skips their partitions. Of several errors it returns the
// first and the number.
func (r *Router) ForgetOld(before time.Time) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), r.table.hold, errUnreached)
	defer cancel()
	lost := map[uint16]bool{}
	var first error
	failed := 0
	for after := ""; ; {
		page, err := r.reader.AllDevices(after, forgetStep)
		if err != nil {
			return fmt.Errorf("search for devices to forget: %w", err)
		}
		for _, d := range page {
			if !d.SeenAt.Before(before) || lost[r.part(d.Account)] {
				continue
			}
			err := r.account(ctx, d.Account, func(o owner) error { return o.Forget(d.Account, d.ID) })
			if err == nil || errors.Is(err, delivery.ErrNotFound) {
				continue
			}
			if failed++; failed == 1 {
				first = fmt.Errorf("forget device %s: %w", d.ID, err)
			}
			lost[r.part(d.Account)] = errors.Is(err, delivery.ErrUnavailable)
		}
		if len(page) < forgetStep {
			if failed > 1 {
				first = fmt.Errorf("%w (the first of %d errors)", first, failed)
			}
			return first
		}
		after = page[len(page)-1].ID
	}
}

package cluster

import (
	"errors"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// forgetStep is how many registry entries are read at once.
const forgetStep = 1000

// ForgetOld has every device forgotten that has given no sign of life since before: each
// by the Core that serves its account, which looks again.
func (r *Router) ForgetOld(before time.Time) error {
	var failed []error
	for after := ""; ; {
		page, err := r.reader.AllDevices(after, forgetStep)
		if err != nil {
			return fmt.Errorf("search for devices to forget: %w", err)
		}
		for _, d := range page {
			if !d.SeenAt.Before(before) {
				continue
			}
			if err := r.Forget(d.Account, d.ID); err != nil && !errors.Is(err, delivery.ErrNotFound) {
				failed = append(failed, fmt.Errorf("forget device %s: %w", d.ID, err))
			}
		}
		if len(page) < forgetStep {
			return errors.Join(failed...)
		}
		after = page[len(page)-1].ID
	}
}

package config

import (
	"fmt"
	"time"
)

// deliveryRules are those of delivery.
func deliveryRules() []rule {
	type c = *Config
	return []rule{
		word("delivery.ack", func(c c) string { return c.Delivery.Ack }, AckReceived, AckDisplayed),
		span("delivery.ack_window", func(c c) time.Duration { return c.Delivery.AckWindow }, time.Millisecond, time.Hour),
		span("delivery.fallback_window", func(c c) time.Duration { return c.Delivery.FallbackWindow }, time.Millisecond, time.Hour),
		longer("delivery.ttl", "delivery.ack_window", func(c c) (time.Duration, time.Duration) { return c.Delivery.TTL, c.Delivery.AckWindow }),
		{"delivery.ttl", nil, func(c c) (string, any) {
			return unless(c.Delivery.TTL <= MaxTTL, "must be at most "+formatDuration(MaxTTL), c.Delivery.TTL)
		}},
		count("delivery.max_outstanding_per_device", func(c c) int { return c.Delivery.MaxOutstandingPerDevice }, 1, 1_000_000),
		// The packet IDs of notifications are the upper half of the 16 bits.
		count("delivery.max_inflight_per_device", func(c c) int { return c.Delivery.MaxInflightPerDevice }, 1, 32_768),
		{"delivery.max_inflight_per_device", []string{"delivery.max_outstanding_per_device"}, func(c c) (string, any) {
			return unless(c.Delivery.MaxInflightPerDevice <= c.Delivery.MaxOutstandingPerDevice,
				fmt.Sprintf("must be at most delivery.max_outstanding_per_device (%d)", c.Delivery.MaxOutstandingPerDevice), c.Delivery.MaxInflightPerDevice)
		}},
		word("delivery.unknown_accounts", func(c c) string { return c.Delivery.UnknownAccounts }, UnknownRefuse, UnknownHold),
		// A device that is forgotten takes its unfinished deliveries with it.
		longer("delivery.forget_device_after", "delivery.ttl", func(c c) (time.Duration, time.Duration) {
			return c.Delivery.ForgetDeviceAfter, c.Delivery.TTL
		}),
	}
}

package delivery

import "time"

// Limits of contract §4, in bytes unless they are times.
const (
	MaxText      = 2 << 10             // title and body together
	MaxSubtitle  = 256                 // subtitle
	MaxName      = 128                 // an account, a device; also sound, category, thread and apns.kind
	MaxID        = 64                  // id, collapse_key
	MaxLink      = 2 << 10             // link, image
	MaxLocalized = 1 << 10             // localized, as JSON
	MaxExtra     = 1 << 10             // extra, as JSON
	MaxData      = 256 << 10           // data, as JSON
	MaxTTL       = 30 * 24 * time.Hour // ttl
	MaxAckWindow = time.Hour           // ack_window
)

// MaxRegistrations is how many registrations a device has at most, those that have ended
// included. Any number of kinds are live activities: the oldest makes room for a new one.
const MaxRegistrations = 64

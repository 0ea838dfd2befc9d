// Package codec is how the durable engines write their values, and pebblestore the names
// in its keys.
//
// Read name.go and field.go, then a file per value: notification.go, record.go,
// event.go, commit.go, device.go, dismissal.go. Nothing runs by itself. Every decoder takes any bytes:
// it returns a value that is the same after being written and read again, or an
// error that wraps ErrDamaged.
//
// It is a package of its own so that its fuzz targets are built without Pebble,
// whose coverage counters would be looked through after every input.
//
// It imports delivery and nothing else of ours.
package codec

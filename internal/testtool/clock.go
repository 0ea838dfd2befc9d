package testtool

import (
	"time"
	"unsafe"
)

// Stepped returns what time.Now would have given in place of now, had the wall clock been
// set by `by`: the monotonic reading stays. A machine that was suspended sees the same.
// No call of package time makes such a time, and in a Bubble times have no monotonic reading.
func Stepped(now time.Time, by time.Duration) time.Time {
	stepped := now.Add(by)
	// The fields of time.Time. TestStepped fails if they change.
	type fields struct {
		wall uint64
		ext  int64 // the monotonic reading
		loc  *time.Location
	}
	(*fields)(unsafe.Pointer(&stepped)).ext = (*fields)(unsafe.Pointer(&now)).ext //nolint:gosec // package time keeps the field to itself
	return stepped
}

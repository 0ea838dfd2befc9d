package bench

import "time"

// usage is what a process has used up to one moment.
type usage struct {
	user, system time.Duration
	resident     int64 // bytes
}

func (u usage) cpu() time.Duration { return u.user + u.system }

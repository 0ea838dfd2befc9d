package api

import "time"

// Hurry shortens what tests would wait for; 0 leaves it as it is.
func (a *API) Hurry(heartbeat, write, read time.Duration) {
	for _, x := range []struct {
		d  *time.Duration
		to time.Duration
	}{{&a.timing.heartbeat, heartbeat}, {&a.timing.write, write}, {&a.timing.read, read}} {
		if x.to > 0 {
			*x.d = x.to
		}
	}
}

// CodeStatus is the status that goes with a problem's code; 0: there is no such code.
func CodeStatus(c string) int {
	for _, known := range codes() {
		if string(known.code) == c {
			return known.status
		}
	}
	return 0
}

// TailReaders is how many streams are at the end of the store.
func (a *API) TailReaders() int {
	n, _ := a.tail.Readers()
	return n
}

// TailRuns reports whether the goroutine that reads the end of the store runs.
func (a *API) TailRuns() bool {
	_, running := a.tail.Readers()
	return running
}

// MaxStreams is how many streams of events there may be.
const MaxStreams = maxStreams

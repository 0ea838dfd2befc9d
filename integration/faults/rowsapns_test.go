package faults

import (
	"errors"
	"net/http"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// apns: Apple's server fails for every third push in one of the given ways; half of
// the devices is away until it has recovered, the others do not acknowledge the
// first copy.
func apns(failures ...apnssim.Script) func(*World, int, bool) error {
	return func(w *World, size int, full bool) error {
		devices, err := ready(w, fleet(full, 100), func(_ int, d *Device) { d.Ack = AckFirstNever })
		if err != nil {
			return err
		}
		for i := range max(4, size/20) {
			f := failures[i%len(failures)]
			f.Times = 1
			w.Apple.Script(f, apnssim.Script{Times: 2})
		}
		return w.play(size, scene{devices: devices, away: devices[:len(devices)/2], inFlight: 200, after: w.pushedOut, drain: 3 * time.Minute})
	}
}

// pushedOut waits until no push is to be answered or tried again.
func (w *World) pushedOut() error {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		open := false
		for _, state := range []string{"pending", "pushing"} {
			status, body, err := w.Call(http.MethodGet, "/v1/notifications?limit=1&state="+state, "")
			if err != nil || status != http.StatusOK {
				return errors.Join(err, errors.New(string(body)))
			}
			open = open || len(body) > 0 && !emptyList(body)
		}
		if !open {
			return nil
		}
		pause(w, 300*time.Millisecond) // the question reads every timeline
	}
	return nil // what is left is tried again beside the device's return
}

package faults

import (
	"math/rand/v2"
	"time"
)

// killed: kill -9 at random moments, with backends, acks and pushes under way. A
// tenth of the devices is away at first; another acknowledges nothing at first.
func killed(w *World, size int, full bool) error {
	rounds := 100
	if !full {
		rounds = 3
	}
	devices, err := ready(w, fleet(full, 100), func(i int, d *Device) {
		switch i % 10 {
		case 8:
			d.Ack = AckLossy(.3)
		case 9:
			d.Ack = AckFirstNever
		}
	})
	if err != nil {
		return err
	}
	return w.play(size/2, scene{
		devices: devices, away: devices[:len(devices)/10], inFlight: 200, rounds: rounds, drain: 3 * time.Minute,
		fault: func(int) error {
			// The moment is random, by acceptances and then by time.
			if err := w.Reach(rand.IntN(max(1, size/rounds))); err != nil {
				return err
			}
			pause(w, rand.N(30*time.Millisecond))
			return w.Restart()
		},
	})
}

// clockSteps: the wall clock jumps forth and back by an hour and a day under load,
// and a restart finds it where it was left. Deadlines are monotonic within a run.
func clockSteps(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 100), func(i int, d *Device) {
		if i%3 == 0 {
			d.Ack = AckFirstNever
		}
	})
	if err != nil {
		return err
	}
	w.ClockSteps = true
	steps := []string{"step 3600", "step 0", "step -3600", "step 86400", "step -86400", "step 0", "step 3600"}
	return w.play(size, scene{
		devices: devices, away: devices[:len(devices)/5], inFlight: 100, more: always(`,"ttl":"100h"`), rounds: len(steps),
		fault: func(i int) error {
			if err := w.Program.Tell(w.ctx, steps[i]); err != nil {
				return err
			}
			if i%3 == 2 { // a new process has the machine's clock again: another step
				return w.Restart()
			}
			return nil
		},
	})
}

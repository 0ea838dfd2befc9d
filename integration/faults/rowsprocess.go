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
	w.Heartbeats(time.Second)
	w.Connect(devices[len(devices)/10:]...)
	load := w.Load(0, 200, nil)
	for range rounds {
		if err := w.Reach(1 + rand.IntN(2*size/rounds)); err != nil {
			return err
		}
		pause(w, rand.N(30*time.Millisecond)) // the moment is what is random
		if err := w.Restart(); err != nil {
			return err
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	w.Connect(devices[:len(devices)/10]...)
	return w.Drain(3 * time.Minute)
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
	w.Heartbeats(time.Second)
	w.Connect(devices[len(devices)/5:]...)
	steps := []string{"step 3600", "step 0", "step -3600", "step 86400", "step -86400", "step 0", "step 3600"}
	load := w.Load(0, 100, always(`,"ttl":"100h"`))
	for i, step := range steps {
		if err := w.Reach(size / len(steps)); err != nil {
			return err
		}
		if err := w.Program.Tell(w.ctx, step); err != nil {
			return err
		}
		if i%3 == 2 { // a new process has the machine's clock again: another step
			if err := w.Restart(); err != nil {
				return err
			}
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	w.Connect(devices[:len(devices)/5]...)
	return w.Drain(2 * time.Minute)
}

package faults

import (
	"math/rand/v2"
	"time"
)

// halfOpen: the network forgets connections, the server is not told. Devices come
// back at once (a take-over of a connection that is dead) or after the heartbeat is
// overdue.
func halfOpen(w *World, size int, full bool) error {
	if err := w.Start(); err != nil {
		return err
	}
	proxy, err := w.Proxy(nil)
	if err != nil {
		return err
	}
	devices, err := w.Add(fleet(full, 200), func(_ int, d *Device) {
		d.Address, d.Keepalive = At(proxy.Address()), 1
		d.Pause = func() time.Duration { return rand.N(3 * time.Second) }
	})
	if err != nil {
		return err
	}
	w.Heartbeats(500 * time.Millisecond)
	w.Connect(devices...)
	for done := 0; done < size; done += size / 10 {
		load := w.Load(size/10, 50, nil)
		for range len(devices) / 4 {
			if l := proxy.Any(); l != nil {
				l.HalfOpen()
			}
			pause(w, rand.N(20*time.Millisecond))
		}
		if err := load.Wait(); err != nil {
			return err
		}
	}
	return w.Drain(2 * time.Minute)
}

// lossAndDelay: 20 to 120 ms each way, 2% of the segments come 300 ms late, 5% of
// the PUBACKs are never sent.
func lossAndDelay(w *World, size int, full bool) error {
	if err := w.Start(); err != nil {
		return err
	}
	proxy, err := w.Proxy(func(int) Path {
		f := Flow{Delay: 20*time.Millisecond + rand.N(100*time.Millisecond), Loss: .02, Resend: 300 * time.Millisecond}
		return Path{f, f}
	})
	if err != nil {
		return err
	}
	devices, err := w.Add(fleet(full, 400), func(_ int, d *Device) {
		d.Address, d.Ack = At(proxy.Address()), AckLossy(.05)
	})
	if err != nil {
		return err
	}
	return w.play(size, scene{devices: devices, beat: 2 * time.Second, inFlight: 500, drain: 3 * time.Minute})
}

// cutMidPacket: every connection ends after a random number of bytes, in either
// direction, nearly always in the middle of a packet.
func cutMidPacket(w *World, size int, full bool) error {
	if err := w.Start(); err != nil {
		return err
	}
	proxy, err := w.Proxy(func(n int) Path {
		p := Path{}
		if n%2 == 0 {
			p.Up.CutAfter = 60 + rand.IntN(1200)
		} else {
			p.Down.CutAfter = 100 + rand.IntN(20_000)
		}
		return p
	})
	if err != nil {
		return err
	}
	devices, err := w.Add(fleet(full, 200), func(_ int, d *Device) { d.Address = At(proxy.Address()) })
	if err != nil {
		return err
	}
	return w.play(size, scene{devices: devices, inFlight: 200})
}

// takeovers: a second connection of the same device takes the session over, 60
// times for each of some devices, while backends publish to them.
func takeovers(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 20), func(_ int, d *Device) {
		d.Pause = func() time.Duration { return time.Second } // the old one is not to fight back at once
	})
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	load := w.Load(0, fleet(full, 100)/5, nil)
	quit := w.Connect(devices...)
	for range 60 {
		if err := w.Reach(max(1, size/60)); err != nil {
			return err
		}
		next := w.Connect(w.twins(devices)...)
		pause(w, 20*time.Millisecond+rand.N(30*time.Millisecond)) // both are there for a moment
		quit()
		quit = next
	}
	if err := load.Stop(); err != nil {
		return err
	}
	return w.Drain(time.Minute)
}

// twins are the same devices, on connections of their own.
func (w *World) twins(devices []*Device) []*Device {
	var out []*Device
	for _, d := range devices {
		t := &Device{ID: d.ID, Account: d.Account, Address: d.Address, Pause: d.Pause, Receipts: d.Receipts, Ack: AckAtOnce}
		t.prepare()
		out = append(out, t)
	}
	return out
}

// fight: two connections with one ID that both come back at once, again and again.
func fight(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 20), func(_ int, d *Device) {
		d.Pause = func() time.Duration { return rand.N(15 * time.Millisecond) }
	})
	if err != nil {
		return err
	}
	w.Connect(devices...)
	quit := w.Connect(w.twins(devices)...)
	if err := w.Load(size, 100, nil).Wait(); err != nil {
		return err
	}
	pause(w, time.Second) // the fight goes on over what is left
	quit()
	w.Heartbeats(time.Second)
	return w.Drain(time.Minute)
}

// receiveMaximum: MQTT 5 clients that allow n packets, some of them slow or
// forgetful.
func receiveMaximum(n uint16) func(*World, int, bool) error {
	return func(w *World, size int, full bool) error {
		devices, err := ready(w, fleet(full, 200), func(i int, d *Device) {
			d.ReceiveMaximum = n
			switch {
			case i%10 == 0:
				d.Ack = AckLate(50 * time.Millisecond)
			case i%10 == 1 && n > 1: // what is not acknowledged keeps its place: with one there is no other
				d.Ack = AckLossy(.002)
			}
		})
		if err != nil {
			return err
		}
		return w.play(size, scene{devices: devices, inFlight: 500, after: func() error {
			for _, d := range devices {
				d.Drop() // a forgotten packet holds its place in the quota for as long as the connection lives
				d.SetAck(AckAtOnce)
			}
			return nil
		}})
	}
}

// deafReaders: a quarter of the devices stops reading, with its connection open.
// The others get theirs meanwhile.
func deafReaders(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 100), func(i int, d *Device) {
		if i%4 == 0 {
			d.Deaf = 3 + rand.IntN(10)
		}
	})
	if err != nil {
		return err
	}
	return w.play(size, scene{devices: devices, inFlight: 500, after: func() error {
		pause(w, 2*time.Second) // their windows elapse
		for _, d := range devices {
			d.Listen()
		}
		return nil
	}})
}

// late: everything is acknowledged, d after it came, in real windows of 3 and 10 s.
func late(d time.Duration) func(*World, int, bool) error {
	return func(w *World, size int, full bool) error {
		devices, err := ready(w, size/4, func(_ int, dev *Device) { dev.Ack = AckLate(d) })
		if err != nil {
			return err
		}
		return w.play(size, scene{devices: devices, beat: 5 * time.Second, inFlight: 200})
	}
}

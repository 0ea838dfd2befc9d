package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/smalldisk"
	"github.com/heartline-mqtt/heartline/wire"
)

// Row is a line of the table.
type Row struct {
	Name   string
	Env    []string
	Faulty bool // needs the program of BuildFaulty
	Clock  bool // and its clock
	// Full and Short are how many notifications the run is to have, about.
	Full, Short int
	Run         func(w *World, size int, full bool) error
	// Shows is how often what the row is about has happened; nil: not to be told
	// from the counts. 0 means that the row shows nothing.
	Shows func(Result) int
}

// errSkip says why a row cannot be had on this machine.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// Rows is the table of faults.
func Rows() []Row {
	return []Row{
		{Name: "kill -9 under load", Env: quick, Full: 300_000, Short: 600, Run: killed},
		{Name: "crash between every two steps", Env: quick, Full: 600, Short: 60, Run: crashes},
		{Name: "crash before and after every fsync", Env: quick, Faulty: true, Full: 400, Short: 40, Run: crashedSyncs},
		{Name: "half-open connections", Env: quick, Full: 40_000, Short: 200, Run: halfOpen},
		{Name: "loss and delay", Env: quick, Full: 150_000, Short: 300, Run: lossAndDelay},
		{Name: "cut mid-packet", Env: quick, Full: 60_000, Short: 300, Run: cutMidPacket},
		{Name: "60 take-overs while publishing", Env: quick, Full: 40_000, Short: 300, Run: takeovers},
		{Name: "two connections fight over one ID", Env: quick, Full: 20_000, Short: 100, Run: fight},
		{Name: "Receive Maximum 1", Env: quick, Full: 60_000, Short: 200, Run: receiveMaximum(1)},
		{Name: "Receive Maximum 5", Env: quick, Full: 80_000, Short: 200, Run: receiveMaximum(5)},
		{Name: "Receive Maximum 65535", Env: quick, Full: 120_000, Short: 200, Run: receiveMaximum(65535)},
		{Name: "readers that stop", Env: quick, Full: 80_000, Short: 400, Run: deafReaders},
		{Name: "late ack, 2.9 s", Full: 4_000, Short: 60, Run: late(2900 * time.Millisecond)},
		{Name: "late ack, 3.1 s", Full: 4_000, Short: 60, Run: late(3100 * time.Millisecond)},
		{Name: "late ack, 10 s", Full: 4_000, Short: 60, Run: late(10 * time.Second)},
		{Name: "APNs 5xx", Env: quick, Full: 10_000, Short: 60, Run: apns(apnssim.Script{Status: 503, Reason: "ServiceUnavailable"}, apnssim.Script{Status: 500, Reason: "InternalServerError"})},
		{Name: "APNs 429", Env: quick, Full: 10_000, Short: 60, Run: apns(apnssim.Script{Status: 429, Reason: "TooManyRequests", RetryAfter: "1"})},
		{Name: "APNs timeout", Env: quick, Full: 5_000, Short: 60, Run: apns(apnssim.Script{Action: apnssim.ActionHang}, apnssim.Script{Delay: 2500 * time.Millisecond})},
		{Name: "APNs GOAWAY, reset, answer lost", Env: quick, Full: 10_000, Short: 60, Run: apns(
			apnssim.Script{Action: apnssim.ActionGoAway}, apnssim.Script{Action: apnssim.ActionDrop}, apnssim.Script{Action: apnssim.ActionReset},
			apnssim.Script{Action: apnssim.ActionRefuse}, apnssim.Script{Action: apnssim.ActionSilence})},
		{Name: "disk full and freed", Env: append([]string{"HEARTLINE_STORE_MIN_FREE=8MiB"}, quick...), Full: 20_000, Short: 300, Run: diskFull},
		{Name: "slow disk, 500 ms an fsync", Env: quick, Faulty: true, Full: 40_000, Short: 300, Run: slowDisk},
		{Name: "disk read-only and back", Env: quick, Faulty: true, Full: 20_000, Short: 300, Run: readOnly},
		{Name: "clock steps, 1 h and 1 day", Env: quick, Faulty: true, Clock: true, Full: 20_000, Short: 200, Run: clockSteps},
		{Name: "TTL runs out, kill -9", Env: quick, Full: 20_000, Short: 300, Run: expiry, Shows: func(r Result) int { return r.Expired }},
		{Name: "collapse key, kill -9", Env: quick, Full: 40_000, Short: 400, Run: collapse, Shows: func(r Result) int { return r.Superseded }},
		{Name: "cancelled, kill -9", Env: quick, Full: 20_000, Short: 300, Run: cancelled, Shows: func(r Result) int { return r.Cancelled }},
		{Name: "messages, kill -9", Env: quick, Full: 40_000, Short: 400, Run: messages, Shows: func(r Result) int { return r.Messages }},
		{Name: "ID asked for again, kill -9", Env: quick, Full: 40_000, Short: 300, Run: repeated},
	}
}

// ready starts the program with n devices that are not connected.
func ready(w *World, n int, change func(i int, d *Device)) ([]*Device, error) {
	if err := w.Start(); err != nil {
		return nil, err
	}
	return w.Add(n, change)
}

func fleet(full bool, n int) int {
	if full {
		return n
	}
	return max(2, n/10)
}

// pause is a length of time that is itself the fault, or the moment of one.
func pause(w *World, d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ctx.Done():
	}
}

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
	w.Heartbeats(2 * time.Second)
	w.Connect(devices...)
	if err := w.Load(size, 500, nil).Wait(); err != nil {
		return err
	}
	return w.Drain(3 * time.Minute)
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
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	if err := w.Load(size, 200, nil).Wait(); err != nil {
		return err
	}
	return w.Drain(2 * time.Minute)
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
		w.Heartbeats(time.Second)
		w.Connect(devices...)
		if err := w.Load(size, 500, nil).Wait(); err != nil {
			return err
		}
		for _, d := range devices {
			d.Drop() // a forgotten packet holds its place in the quota for as long as the connection lives
			d.SetAck(AckAtOnce)
		}
		return w.Drain(2 * time.Minute)
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
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	if err := w.Load(size, 500, nil).Wait(); err != nil {
		return err
	}
	pause(w, 2*time.Second) // their windows elapse
	for _, d := range devices {
		d.Listen()
	}
	return w.Drain(2 * time.Minute)
}

// late: everything is acknowledged, d after it came, in real windows of 3 and 10 s.
func late(d time.Duration) func(*World, int, bool) error {
	return func(w *World, size int, full bool) error {
		devices, err := ready(w, size/4, func(_ int, dev *Device) { dev.Ack = AckLate(d) })
		if err != nil {
			return err
		}
		w.Heartbeats(5 * time.Second)
		w.Connect(devices...)
		if err := w.Load(size, 200, nil).Wait(); err != nil {
			return err
		}
		return w.Drain(2 * time.Minute)
	}
}

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
		w.Heartbeats(time.Second)
		half := len(devices) / 2
		w.Connect(devices[half:]...)
		if err := w.Load(size, 200, nil).Wait(); err != nil {
			return err
		}
		if err := w.pushedOut(); err != nil {
			return err
		}
		w.Connect(devices[:half]...)
		return w.Drain(3 * time.Minute)
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

// diskFull: the store on a small file system of its own, filled by someone else in
// the middle of the load, and freed. The program goes on without a restart.
func diskFull(w *World, size int, _ bool) error {
	mount, free, err := smalldisk.New(160 << 20)
	if err != nil {
		return errSkip("a small file system cannot be had here: " + err.Error())
	}
	w.closer = append(w.closer, free)
	w.OnData(filepath.Join(mount, "data"))
	devices, err := ready(w, 40, nil)
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	w.Connect(devices[:30]...)
	load := w.Load(0, 100, nil)
	for i := range 3 {
		if err := w.Reach(size / 8); err != nil {
			return err
		}
		ballast := filepath.Join(mount, "ballast")
		leave := int64([]int{0, 1 << 20, 6 << 20}[i]) // nothing; a little; less than the guard wants
		if err := fill(ballast, leave); err != nil {
			return err
		}
		if err := w.refuses(fmt.Sprintf("full%d", i), devices[0].Account); err != nil {
			return err
		}
		pause(w, time.Duration(i)*3*time.Second) // at first freed at once, then after the commit timeout
		if err := os.Remove(ballast); err != nil {
			return err
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	w.Connect(devices[30:]...)
	return w.Drain(2 * time.Minute)
}

// fill writes a file until all but leave bytes are taken.
func fill(file string, leave int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	b := make([]byte, 256<<10)
	for {
		if _, err := f.Write(b); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	at, err := f.Seek(0, 1)
	if err == nil && leave > 0 {
		err = f.Truncate(max(0, at-leave))
	}
	return errors.Join(err, f.Close())
}

// readOnly: the disk turns read-only under the program and writable again, as after
// an error that makes the kernel remount it: everything that would change the data
// directory fails. Backends are refused, and it goes on once it can, without a
// restart.
func readOnly(w *World, size int, _ bool) error {
	devices, err := ready(w, 40, nil)
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	w.Connect(devices[:15]...)
	load := w.Load(0, 100, nil)
	for i := range 3 {
		if err := w.Reach(size / 8); err != nil {
			return err
		}
		if err := w.Program.Tell(w.ctx, "read-only 1"); err != nil {
			return err
		}
		w.Connect(devices[15+5*i : 20+5*i]...)
		if err := w.refuses(fmt.Sprintf("ro%d", i), devices[0].Account); err != nil {
			return err
		}
		if err := w.answers(devices[0]); err != nil {
			return err
		}
		pause(w, time.Duration(i)*3*time.Second) // at first only as long as that took, then longer than the store's patience
		if err := w.Program.Tell(w.ctx, "read-only 0"); err != nil {
			return err
		}
		n := w.Acceptances.Len()
		if err := until(w.ctx, "the disk is writable again and nothing is accepted", func() (bool, error) {
			return w.Acceptances.Len() > n, nil
		}); err != nil {
			return err
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	w.Connect(devices[30:]...)
	return w.Drain(2 * time.Minute)
}

// refuses waits until the program says that it is not ready, asks for a notification
// both ways, and has to get a no. The load may get no answer at all: in front of what
// is refused may be what is in doubt until the store works again.
func (w *World) refuses(id, account string) error {
	if err := until(w.ctx, "the store takes no changes, and /readyz says that all is well", func() (bool, error) {
		status, _, err := w.Call(http.MethodGet, "/readyz", "")
		return status == http.StatusServiceUnavailable, err
	}); err != nil {
		return err
	}
	it := item{id: id, account: account}
	status, body, err := w.Call(http.MethodPost, "/v1/notifications", string(it.body(true)))
	if err == nil && status != http.StatusServiceUnavailable {
		err = fmt.Errorf("the store takes no changes, and %s was answered with %d %s", id, status, body)
	}
	if err != nil {
		return err
	}
	code, err := w.publish(it)
	if err == nil && code != packets.ErrQuotaExceeded.Code {
		err = fmt.Errorf("the store takes no changes, and %s was answered with reason code 0x%02x", id, code)
	}
	return err
}

// answers makes the calls that wait for the store, which fails: each has to say so,
// and soon.
func (w *World) answers(d *Device) error {
	const soon = 20 * time.Second // a write counts as overdue after 5 s
	for _, c := range [][3]string{
		{http.MethodGet, "/v1/notifications/" + w.Acceptances.at(0).ID, ""},
		{http.MethodGet, "/v1/notifications?limit=1", ""},
		{http.MethodPut, "/v1/accounts/" + d.Account + "/devices/" + d.ID, ""},
	} {
		begun := time.Now()
		status, body, err := w.Call(c[0], c[1], c[2])
		took := time.Since(begun).Round(time.Millisecond)
		if err == nil && (status != http.StatusServiceUnavailable || took > soon) {
			err = fmt.Errorf("%d %s", status, body)
		}
		if err != nil {
			return fmt.Errorf("the store takes no changes, and %s %s was answered after %v: %w", c[0], c[1], took, err)
		}
	}
	return nil
}

// publish asks for a notification over MQTT, on a connection of its own.
func (w *World) publish(it item) (code byte, err error) {
	l, err := dialMQTT(w.ctx, w.Program, "once-"+it.id)
	if err != nil {
		return 0, err
	}
	defer l.close()
	if err := l.send(it); err != nil {
		return 0, err
	}
	return l.puback()
}

// until looks until something is so.
func until(ctx context.Context, otherwise string, so func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; {
		yes, err := so()
		switch {
		case err != nil:
			return err
		case yes:
			return nil
		case time.Now().After(deadline):
			return errors.New(otherwise)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// slowDisk: every fsync takes 500 ms longer, from the first accept to the end of the
// load.
func slowDisk(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 200), nil)
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	w.Connect(devices[len(devices)/4:]...)
	if err := w.Program.Tell(w.ctx, "sync 500000000"); err != nil {
		return err
	}
	if err := w.Load(size, 2000, nil).Wait(); err != nil {
		return err
	}
	w.Connect(devices...)
	if err := w.Program.Tell(w.ctx, "sync 0"); err != nil {
		return err
	}
	return w.Drain(2 * time.Minute)
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

// expiry: every other notification lives for two seconds, and half of the devices is
// away for longer than that, or acknowledges nothing. The program is killed among
// them, and is down while more of them run out.
func expiry(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 80), func(i int, d *Device) {
		if i%4 == 1 {
			d.Ack = AckNever
		}
	})
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	half := len(devices) / 2
	w.Connect(devices[:half]...)
	load := w.Load(0, 200, func(_ string, n int) string {
		if n/len(devices)%2 == 0 {
			return `,"ttl":"2s"`
		}
		return ""
	})
	for i := range 4 {
		if err := w.Reach(size / 4); err != nil {
			return err
		}
		if err := w.Program.Kill(); err != nil {
			return err
		}
		pause(w, time.Duration(i)*time.Second)
		if err := w.Start(); err != nil {
			return err
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	pause(w, 2500*time.Millisecond) // the last of them run out
	for _, d := range devices {
		d.SetAck(AckAtOnce)
	}
	w.Connect(devices[half:]...)
	return w.Drain(2 * time.Minute)
}

// collapse: a device's notifications share two collapse keys, and many are still
// open when a newer one comes: devices are away, slow, or let the first copy go by.
func collapse(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 80), func(i int, d *Device) {
		switch i % 4 {
		case 1:
			d.Ack = AckLate(200 * time.Millisecond)
		case 2:
			d.Ack = AckFirstNever
		}
	})
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	some := len(devices) * 3 / 4
	w.Connect(devices[:some]...)
	load := w.Load(0, 200, func(_ string, n int) string {
		return fmt.Sprintf(`,"collapse_key":"k%d"`, n/len(devices)%2)
	})
	for range 4 {
		if err := w.Reach(size / 4); err != nil {
			return err
		}
		if err := w.Restart(); err != nil {
			return err
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	w.Connect(devices[some:]...)
	return w.Drain(2 * time.Minute)
}

// cancelled: what has been accepted is cancelled again, one in three, while it is on
// its way and while the program dies.
func cancelled(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 80), func(i int, d *Device) {
		if i%4 == 1 {
			d.Ack = AckFirstNever
		}
	})
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	half := len(devices) / 2
	w.Connect(devices[:half]...)
	load := w.Load(0, 50, nil)
	ctx, cancel := context.WithCancel(w.ctx)
	var cancelling sync.WaitGroup
	defer cancelling.Wait()
	defer cancel()
	for i := range 4 {
		cancelling.Go(func() {
			for n := i; ; n += 4 {
				for changed := w.Acceptances.reach(n*3 + 1); changed != nil; changed = w.Acceptances.reach(n*3 + 1) {
					select {
					case <-changed:
					case <-ctx.Done():
						return
					}
				}
				if ctx.Err() != nil {
					return
				}
				if err := w.withdraw(w.Acceptances.at(n * 3).ID); err != nil {
					w.fail(err)
					return
				}
			}
		})
	}
	for range 4 {
		if err := w.Reach(size / 4); err != nil {
			return err
		}
		if err := w.Restart(); err != nil {
			return err
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	cancel()
	cancelling.Wait()
	w.Connect(devices[half:]...)
	return w.Drain(2 * time.Minute)
}

// withdraw asks for a notification to be cancelled. The program may die over it:
// without an answer it may be cancelled, or not.
func (w *World) withdraw(id string) error {
	i := w.Cancels.asked(id)
	status, body, err := w.Call(http.MethodDelete, "/v1/notifications/"+id, "")
	if err == nil && status == http.StatusNoContent {
		w.Cancels.answered(i)
	} else if err == nil && status != http.StatusServiceUnavailable {
		return fmt.Errorf("cancel %s: %d %s", id, status, body)
	}
	return nil
}

// messages: every notification has a message. A third of the devices never says
// where its app is, the others put it into the foreground and the background; some
// forget acks, of notifications and of messages.
func messages(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 60), func(i int, d *Device) {
		d.Messages, d.Reports = true, i%3 > 0
		if i%4 == 1 {
			d.Ack = AckLossy(.02)
		}
	})
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	some := len(devices) * 3 / 4
	w.Connect(devices[:some]...)
	ctx, cancel := context.WithCancel(w.ctx)
	var turning sync.WaitGroup
	defer turning.Wait()
	defer cancel()
	turning.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			for i, d := range devices {
				d.SetApp((n+i)%2 == 0)
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	load := w.Load(0, 100, func(id string, _ int) string { return fmt.Sprintf(`,"data":{"of":%q}`, id) })
	for range 4 {
		if err := w.Reach(size / 4); err != nil {
			return err
		}
		if err := w.Restart(); err != nil {
			return err
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	cancel()
	turning.Wait()
	w.Connect(devices[some:]...)
	for _, d := range devices {
		d.SetAck(AckAtOnce)
		d.SetApp(true)
		d.Drop() // a forgotten message is sent again to the next connection
	}
	return w.Drain(2 * time.Minute)
}

// repeated: two backends ask for the same IDs at the same time, over HTTP and over
// MQTT, and after every kill -9 some of what had been accepted is asked for again:
// with the same content, which gets the first answer, and with other, which is
// refused.
func repeated(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 80), nil)
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	w.Connect(devices[len(devices)/4:]...)
	var accounts []string
	for _, d := range devices {
		accounts = append(accounts, d.Account)
	}
	var backends []*Backend
	for _, name := range []string{"h-one", "h-two", "m-one", "m-two"} {
		backends = append(backends, &Backend{Name: name, Prefix: name[:1], Accounts: accounts, InFlight: 50, HTTP: name[0] == 'h'})
	}
	load := w.Backends(backends...)
	for range 8 {
		if err := w.Reach(size / 8); err != nil {
			return err
		}
		all := w.Acceptances.All()
		if err := w.Restart(); err != nil {
			return err
		}
		for range 20 {
			if err := w.again(all[rand.IntN(len(all))]); err != nil {
				return err
			}
		}
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	w.Connect(devices[:len(devices)/4]...)
	return w.Drain(2 * time.Minute)
}

// again asks for something that has been accepted.
func (w *World) again(a Acceptance) error {
	it := item{id: a.ID, account: a.Account}
	other := item{id: a.ID, account: a.Account, more: `,"body":"another"`}
	status, body, err := w.Call(http.MethodPost, "/v1/notifications", string(it.body(true)))
	var said wire.Accepted
	if err == nil && (status != http.StatusOK || json.Unmarshal(body, &said) != nil || said.AcceptedAt == "") {
		err = fmt.Errorf("%s was asked for again and answered with %d %s", a.ID, status, body)
	}
	if err != nil {
		return err
	}
	w.Acceptances.add(Acceptance{ID: a.ID, Account: a.Account, Link: "again", Again: true, Status: status, AcceptedAt: said.AcceptedAt})
	status, body, err = w.Call(http.MethodPost, "/v1/notifications", string(other.body(true)))
	if err == nil && status != http.StatusConflict {
		err = fmt.Errorf("%s was asked for with other content and answered with %d %s", a.ID, status, body)
	}
	if err != nil {
		return err
	}
	code, err := w.publish(it)
	if err == nil && code >= 0x80 {
		err = fmt.Errorf("%s was asked for again and answered with reason code 0x%02x", a.ID, code)
	}
	if err != nil {
		return err
	}
	code, err = w.publish(other)
	if err == nil && code < 0x80 {
		err = fmt.Errorf("%s was asked for with other content and answered with reason code 0x%02x", a.ID, code)
	}
	return err
}

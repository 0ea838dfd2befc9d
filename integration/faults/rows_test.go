package faults

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// Row is a line of the table.
type Row struct {
	Name   string
	Env    []string
	Faulty bool // needs the program of BuildFaulty
	Clock  bool // and its clock
	Timed  bool // has a bound in seconds: in a full run it has the machine to itself
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
		{Name: "sign-out with a full lane", Env: narrow, Full: 30_000, Short: 400, Run: signOut},
		{Name: "token moves under load", Env: narrow, Full: 30_000, Short: 400, Run: tokenMoves},
		{Name: "two claims of one token", Env: quick, Full: 2_000, Short: 80, Run: claims},
		{Name: "outage, high and normal", Env: quick, Full: 60_000, Short: 1_000, Timed: true, Run: outage},
		{Name: "order of pushes, 429 and 503", Env: quick, Full: 20_000, Short: 300, Run: ordered(
			apnssim.Script{Status: 429, Reason: "TooManyRequests"}, apnssim.Script{Status: 503, Reason: "ServiceUnavailable"})},
		{Name: "order of pushes, timeouts", Env: quick, Full: 5_000, Short: 150, Run: ordered(
			apnssim.Script{Action: apnssim.ActionHang}, apnssim.Script{Delay: 2500 * time.Millisecond})},
		{Name: "wrong environment, mended", Env: quick, Full: 1_000, Short: 100, Run: wrongEnvironment},
		{Name: "FCM 429, 503, hang, late and lost answers", Env: quick, Full: 10_000, Short: 80, Run: loop(&google, false)},
		{Name: "Web Push 429, 503, hang, late and lost answers", Env: quick, Full: 10_000, Short: 80, Run: loop(&browsers, false)},
		{Name: "order of pushes, FCM", Env: quick, Full: 10_000, Short: 150, Run: loop(&google, true)},
		{Name: "order of pushes, Web Push", Env: quick, Full: 10_000, Short: 150, Run: loop(&browsers, true)},
		{Name: "three servers, kill -9", Env: quick, Full: 40_000, Short: 300, Run: threeServers},
		{Name: "FCM token, FID, Web Push in turn", Env: quick, Full: 20_000, Short: 300, Run: serverChanges},
		{Name: "FCM quota of a project", Env: quick, Full: 10_000, Short: 200, Run: quota},
		{Name: "FCM token endpoint down, key revoked, clock off", Env: quick, Full: 2_000, Short: 60, Run: tokenEndpoint},
		{Name: "DUP without an ID, kill -9", Env: quick, Full: 20_000, Short: 120, Run: dup},
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

// scene is the frame that most rows share: devices, backends at work, a fault, and
// the wait until nothing is outstanding.
type scene struct {
	devices  []*Device
	away     []*Device // of the devices: they connect after the load
	beat     time.Duration
	inFlight int
	more     More
	// rounds is how often fault happens, each time after another part of the load. 0:
	// the backends ask for the row's size, and all is accepted before the scene goes on.
	rounds int
	fault  func(round int) error
	// after is called once the load has ended, before the devices that were away connect.
	after func() error
	drain time.Duration
}

// play plays a scene.
func (w *World) play(size int, s scene) error {
	w.Heartbeats(cmp.Or(s.beat, time.Second))
	w.Connect(without(s.devices, s.away)...)
	if s.rounds == 0 {
		if err := w.Load(size, s.inFlight, s.more).Wait(); err != nil {
			return err
		}
	} else {
		load := w.Load(0, s.inFlight, s.more)
		for round := range s.rounds {
			if err := w.Reach(max(1, size/s.rounds)); err != nil {
				return err
			}
			if err := s.fault(round); err != nil {
				return err
			}
			w.Runs++
		}
		if err := load.Stop(); err != nil {
			return err
		}
	}
	if s.after != nil {
		if err := s.after(); err != nil {
			return err
		}
	}
	w.Connect(s.away...)
	return w.Drain(cmp.Or(s.drain, 2*time.Minute))
}

// restarts is the fault of a row that kills the program and starts it again.
func (w *World) restarts(int) error { return w.Restart() }

func without(all, some []*Device) []*Device {
	return slices.DeleteFunc(slices.Clone(all), func(d *Device) bool { return slices.Contains(some, d) })
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

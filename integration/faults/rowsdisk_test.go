package faults

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/smalldisk"
)

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
	return w.play(size/8*3, scene{devices: devices, away: devices[30:], inFlight: 100, rounds: 3, fault: func(i int) error {
		ballast := filepath.Join(mount, "ballast")
		leave := int64([]int{0, 1 << 20, 6 << 20}[i]) // nothing; a little; less than the guard wants
		if err := fill(ballast, leave); err != nil {
			return err
		}
		if err := w.refuses(fmt.Sprintf("full%d", i), devices[0].Account); err != nil {
			return err
		}
		pause(w, time.Duration(i)*3*time.Second) // at first freed at once, then after the commit timeout
		return os.Remove(ballast)
	}})
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
	return w.play(size/8*3, scene{devices: without(devices, devices[15:30]), away: devices[30:], inFlight: 100, rounds: 3, fault: func(i int) error {
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
		return until(w.ctx, "the disk is writable again and nothing is accepted", func() (bool, error) {
			return w.Acceptances.Len() > n, nil
		})
	}})
}

// refuses waits until the program says that it is not ready, asks for a notification
// both ways, and has to get a no. The load may get no answer at all: in front of what
// is refused may be requests that are in doubt until the store works again.
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

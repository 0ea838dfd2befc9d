package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/wire"
)

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
	return w.play(size, scene{
		devices: devices, away: devices[len(devices)/2:], inFlight: 200, rounds: 4,
		more: func(_ string, n int) string {
			if n/len(devices)%2 == 0 {
				return `,"ttl":"2s"`
			}
			return ""
		},
		fault: func(i int) error {
			if err := w.Program.Kill(); err != nil {
				return err
			}
			pause(w, time.Duration(i)*time.Second)
			return w.Start()
		},
		after: func() error {
			pause(w, 2500*time.Millisecond) // the last of them expire
			for _, d := range devices {
				d.SetAck(AckAtOnce)
			}
			return nil
		},
	})
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
	return w.play(size, scene{
		devices: devices, away: devices[len(devices)*3/4:], inFlight: 200, rounds: 4, fault: w.restarts,
		more: func(_ string, n int) string { return fmt.Sprintf(`,"collapse_key":"k%d"`, n/len(devices)%2) },
	})
}

// cancelled: one accepted notification in three is cancelled again, while it is on
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
	return w.play(size, scene{devices: devices, away: devices[len(devices)/2:], inFlight: 50, rounds: 4, fault: w.restarts, after: func() error {
		cancel()
		cancelling.Wait()
		return nil
	}})
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
	away := devices[len(devices)*3/4:]
	return w.play(size, scene{
		devices: devices, away: away, inFlight: 100, rounds: 4, fault: w.restarts,
		more: func(id string, _ int) string { return fmt.Sprintf(`,"data":{"of":%q}`, id) },
		after: func() error {
			cancel()
			turning.Wait()
			for _, d := range devices {
				d.SetAck(AckAtOnce)
				d.SetApp(true)
				d.Drop() // a forgotten message is sent again to the next connection
			}
			return nil
		},
	})
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
		for range fleet(full, 40) {
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

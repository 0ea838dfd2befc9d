package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// callers is how many backends call the API at a time.
const callers = 8

// served are the devices that are to be served, whatever happens to others.
type served struct {
	server  *server
	names   []string // of those that read
	deaf    []string
	conns   []net.Conn
	readers sync.WaitGroup
	number  atomic.Int64 // of the last notification

	mu   sync.Mutex
	sent map[string]chan time.Time // by notification, until it has come
}

// connect connects the devices, and those that will not read.
func connect(s *server, devices, deaf int) (*served, error) {
	all := &served{server: s, sent: map[string]chan time.Time{}}
	for i := range devices + deaf {
		name := fmt.Sprintf("device-%05d", i)
		c, err := rawmqtt.Dial(s.mqtt, 5)
		if err != nil {
			return all, err
		}
		all.conns = append(all.conns, c.Conn)
		if _, err := c.Connect(rawmqtt.Connect{ID: name, Username: name, Keepalive: 300, Clean: true}); err != nil {
			return all, fmt.Errorf("connect %s: %w", name, err)
		}
		if _, err := c.Subscribe(1, 1, "heartline/devices/"+name+"/notifications"); err != nil {
			return all, fmt.Errorf("subscribe %s: %w", name, err)
		}
		if i < devices {
			all.names = append(all.names, name)
			all.readers.Go(func() { all.read(c) })
			continue
		}
		all.deaf = append(all.deaf, name)
		// The system would take megabytes in its place.
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		if _, err := c.Subscribe(2, 1, "flood"); err != nil {
			return all, fmt.Errorf("subscribe %s: %w", name, err)
		}
	}
	return all, nil
}

func (d *served) close() {
	for _, c := range d.conns {
		_ = c.Close()
	}
	d.readers.Wait()
}

// read acknowledges whatever comes to a device.
func (d *served) read(c *rawmqtt.Client) {
	for {
		pk, err := c.Read(0)
		if err != nil {
			return // it has been closed, or what was to come is missed
		}
		if pk.FixedHeader.Type != packets.Publish {
			continue
		}
		now := time.Now()
		if c.Puback(pk.PacketID) != nil {
			return
		}
		var p wire.Pseudo
		if json.Unmarshal(pk.Payload, &p) != nil {
			continue
		}
		d.mu.Lock()
		if came := d.sent[p.ID]; came != nil {
			came <- now
			delete(d.sent, p.ID)
		}
		d.mu.Unlock()
	}
}

// notify notifies the devices in turn for a while, and returns how long each
// notification took from the call to the device. One in a hundred is for a device
// that does not read, if there is any.
func (d *served) notify(ctx context.Context, rate int, during time.Duration) ([]time.Duration, error) {
	work := make(chan int64)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var times []time.Duration
	var errs []error
	for range callers {
		wg.Go(func() {
			for n := range work {
				took, err := d.one(ctx, n)
				mu.Lock()
				if err != nil {
					errs = append(errs, err)
				} else {
					times = append(times, took)
				}
				mu.Unlock()
				if i := int(n); len(d.deaf) > 0 && i%100 == 0 {
					// Refused when too many wait for it.
					_ = d.server.call(ctx, http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"account":%q,"title":"deaf"}`, d.deaf[i/100%len(d.deaf)]), nil)
				}
			}
		})
	}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for end := time.After(during); ; {
		select {
		case <-tick.C:
			select {
			case work <- d.number.Add(1):
			case <-ctx.Done():
			}
			continue
		case <-end:
		case <-ctx.Done():
			errs = append(errs, ctx.Err())
		}
		break
	}
	close(work)
	wg.Wait()
	if len(times) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("nobody was notified"))
	}
	return times, errors.Join(errs...)
}

// one notifies one device and waits until it has it.
func (d *served) one(ctx context.Context, n int64) (time.Duration, error) {
	id, name := fmt.Sprintf("siege-%d", n), d.names[int(n)%len(d.names)]
	came := make(chan time.Time, 1)
	d.mu.Lock()
	d.sent[id] = came
	d.mu.Unlock()
	begin := time.Now()
	if err := d.server.call(ctx, http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"id":%q,"account":%q,"title":"siege"}`, id, name), nil); err != nil {
		return 0, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case at := <-came:
		return at.Sub(begin), nil
	case <-timer.C:
		return 0, fmt.Errorf("notification %s has not come to %s within %s", id, name, patience)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// acked is how many of the notifications since the first ones the server counts as
// acknowledged.
func (d *served) acked(ctx context.Context, first int) (int, error) {
	n := 0
	for i := int64(first) + 1; i <= d.number.Load(); i++ {
		for deadline := time.Now().Add(patience); ; {
			var v wire.NotificationView
			if err := d.server.call(ctx, http.MethodGet, fmt.Sprintf("/v1/notifications/siege-%d", i), "", &v); err != nil {
				return n, err
			}
			if v.State == "acked" {
				n++
				break
			}
			if time.Now().After(deadline) {
				return n, fmt.Errorf("notification siege-%d is %s", i, v.State)
			}
			rest(ctx, 10*time.Millisecond) // its PUBACK is on the way
		}
	}
	return n, nil
}

// arrivals are what became of clients that came during the siege.
type arrivals struct {
	connects, failed int
	slowest          time.Duration
	err              error // of the first that was not let in
}

// newcomers has a client come twice a second, and go again.
func newcomers(ctx context.Context, s *server) <-chan arrivals {
	out := make(chan arrivals, 1)
	go func() {
		var a arrivals
		for ctx.Err() == nil {
			begin := time.Now()
			err := come(ctx, s.mqtt)
			switch took := time.Since(begin); {
			case ctx.Err() != nil:
			case err != nil:
				a.failed++
				if a.err == nil {
					a.err = err
				}
			default:
				a.connects++
				a.slowest = max(a.slowest, took)
			}
			rest(ctx, 500*time.Millisecond)
		}
		out <- a
	}()
	return out
}

func come(ctx context.Context, address string) error {
	c, err := dial(ctx, address)
	if err != nil {
		return err
	}
	m := rawmqtt.New(c, 5)
	defer m.Close()
	// A password as long as a token, which has a CONNECT counted (listener.Limits).
	pk, err := m.Connect(rawmqtt.Connect{ID: "new-" + suffix(), Username: "new", Password: strings.Repeat("x", 1000), Keepalive: 60, Clean: true})
	if err == nil && pk.ReasonCode != 0 {
		err = fmt.Errorf("CONNACK 0x%02x", pk.ReasonCode)
	}
	if err != nil {
		return err
	}
	_, err = m.Subscribe(1, 1, "news")
	return err
}

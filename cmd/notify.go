package cmd

import (
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Messages of systemd's notification protocol, sd_notify(3).
const (
	notifyReady    = "READY=1"
	notifyStopping = "STOPPING=1"
	notifyAlive    = "WATCHDOG=1"
	// notifyLonger asks for 60 s from now, beyond TimeoutStartSec= and TimeoutStopSec=.
	notifyLonger = "EXTEND_TIMEOUT_USEC=60000000"

	notifySocket = "NOTIFY_SOCKET"
	longerEvery  = 20 * time.Second
	// stopPatience is longer than any stop takes beyond cluster.drain.
	stopPatience = time.Minute
)

// keepNotified answers the watchdog, and asks for more time while the server starts or stops: a
// large store may take longer to open than the unit allows, and to be killed then would
// begin it all again. up reports whether the server is up. A stop that lasts longer than stopWithin
// hangs, and is systemd's to end. keepNotified returns when served is closed.
func (p *program) keepNotified(tell func(state string), up func() bool, stopping, served <-chan struct{}, stopWithin time.Duration) {
	longer := time.NewTicker(p.longerEvery)
	defer longer.Stop()
	var alive <-chan time.Time
	if every := p.watchdogEvery(); every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		alive = t.C
	}
	var hangs <-chan time.Time
	for {
		select {
		case <-stopping:
			stopping, hangs = nil, time.After(stopWithin)
		case <-hangs:
			longer.Stop()
		case <-alive:
			tell(notifyAlive)
		case <-longer.C:
			if !up() {
				tell(notifyLonger)
			}
		case <-served:
			return
		}
	}
}

// watchdogEvery returns how often a unit with WatchdogSec= has to hear that the process runs,
// which is half of that time: systemd kills it otherwise. 0: never.
func (p *program) watchdogEvery() time.Duration {
	if pid := p.getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0 // meant for another process
	}
	micros, err := strconv.ParseInt(p.getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || micros <= 0 || micros > math.MaxInt64/1000 {
		return 0
	}
	return time.Duration(micros) * time.Microsecond / 2
}

// notifySystemd tells the service manager how far the server is. Outside a unit with
// Type=notify, NOTIFY_SOCKET is not set and nothing is sent.
//
// The protocol is one datagram. go-systemd's daemon package reads the process
// environment, and a program gets its environment from its caller.
func (p *program) notifySystemd(state string) error {
	address := p.getenv(notifySocket)
	if address == "" {
		return nil
	}
	if !strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "@") {
		return fmt.Errorf("NOTIFY_SOCKET: must be a path or an abstract socket (@name), got %q", address)
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	defer func() { _ = conn.Close() }()
	// A full socket blocks; a service manager that reads nothing must not hold up the stop.
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	return nil
}

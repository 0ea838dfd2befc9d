package cmd

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// Messages of systemd's notification protocol, sd_notify(3).
const (
	notifyReady    = "READY=1"
	notifyStopping = "STOPPING=1"
)

// notifySystemd tells the service manager how far the server is. Outside a unit with
// Type=notify, NOTIFY_SOCKET is not set and nothing is sent.
//
// The protocol is one datagram. go-systemd's daemon package reads the process
// environment, and a program gets its environment from its caller.
func (p *program) notifySystemd(state string) error {
	address := p.getenv("NOTIFY_SOCKET")
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

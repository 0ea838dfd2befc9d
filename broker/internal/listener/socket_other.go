//go:build !linux

package listener

import (
	"net"
	"syscall"
	"time"
)

func setUserTimeout(*net.TCPConn, time.Duration) {}

// peerOpen cannot tell here.
func peerOpen(syscall.RawConn) bool { return true }

//go:build !linux

package listener

import (
	"net"
	"time"
)

func setUserTimeout(*net.TCPConn, time.Duration) {}

package listener

import (
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long sent data may go unacknowledged. Without it the
// system keeps trying for a quarter of an hour.
func setUserTimeout(c *net.TCPConn, d time.Duration) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
	}
}

// readNow reads what the socket has. The error is errNothing if it has nothing.
func readNow(fd uintptr, p []byte) (int, error) {
	for {
		switch n, err := syscall.Read(int(fd), p); err {
		case nil:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errNothing
		default:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// tcpEstablished is TCP_ESTABLISHED of Linux's tcp_states.h.
const tcpEstablished = 1

// peerOpen reports whether the peer has not closed its side. It reads nothing: what
// the client has sent after its CONNECT is still to be read.
func peerOpen(raw syscall.RawConn) bool {
	open := true
	err := raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			open = info.State == tcpEstablished
		}
	})
	return open && err == nil // Control fails once we have closed it ourselves
}

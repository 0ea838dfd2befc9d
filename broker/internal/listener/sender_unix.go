//go:build unix

package listener

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// writeNow returns a function that writes what the socket takes at once. It must
// not be called by two goroutines at a time.
func writeNow(c net.Conn) func([]byte) (int, error) {
	raw := rawOf(c)
	if raw == nil {
		return neverNow
	}
	var (
		p   []byte
		n   int
		err error
	)
	// One closure for all writes: it would be an allocation each.
	once := func(fd uintptr) bool {
		n, err = ignoringEINTR(int(fd), p)
		return true // never wait for the socket
	}
	return func(b []byte) (int, error) {
		p, n, err = b, 0, nil
		if werr := raw.Write(once); werr != nil {
			err = werr
		}
		p = nil
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return 0, nil
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.ErrUnexpectedEOF
		}
		return n, nil
	}
}

func ignoringEINTR(fd int, p []byte) (n int, err error) {
	for {
		if n, err = syscall.Write(fd, p); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

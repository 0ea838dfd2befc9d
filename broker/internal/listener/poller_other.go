//go:build !linux

package listener

import (
	"context"
	"errors"

	"github.com/heartline-mqtt/heartline/internal/workers"
)

// poller is not there: a connection has a goroutine.
type poller struct {
	workers *workers.Workers
	ctx     context.Context
}

func newPoller() (*poller, error) { return nil, errors.ErrUnsupported }

func readNow(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

func (*poller) close()          {}
func (*poller) add(*Conn) error { return errors.ErrUnsupported }
func (*poller) remove(*Conn)    {}

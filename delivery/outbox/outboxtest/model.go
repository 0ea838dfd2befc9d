package outboxtest

import (
	"testing"

	"github.com/heartline-mqtt/heartline/delivery/outbox"
)

func runModel(t *testing.T, open func(t *testing.T) outbox.Engine) {}

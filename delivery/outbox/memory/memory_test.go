package memory_test

import (
	"testing"

	"github.com/heartline-mqtt/heartline/delivery/outbox"
	"github.com/heartline-mqtt/heartline/delivery/outbox/memory"
	"github.com/heartline-mqtt/heartline/delivery/outbox/outboxtest"
)

func TestConformance(t *testing.T) {
	outboxtest.Run(t, func(*testing.T) outbox.Engine { return memory.New() })
}

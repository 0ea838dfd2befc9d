package memory_test

import (
	"testing"

	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
	"github.com/heartline-mqtt/heartline/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Engine { return memory.New() })
}

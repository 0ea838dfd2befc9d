package cmd

import (
	"context"
	"errors"

	"github.com/heartline-mqtt/heartline/config"
)

// runBroker is the one place where the command line meets the broker.
func runBroker(_ context.Context, _ *config.Config, _ ServeOptions) error {
	return errors.New("serve: the broker is not part of this build yet")
}

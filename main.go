// Heartline is an MQTT broker that gets notifications through.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/heartline-mqtt/heartline/cmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends a stop that takes too long
	os.Exit(cmd.Run(ctx, cmd.IO{Program: os.Args[0], Args: os.Args[1:], Environ: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Reload: reloads}))
}

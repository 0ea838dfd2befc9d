// Heartline is an MQTT broker that gets notifications through.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/heartline-mqtt/heartline/cmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends a stop that takes too long
	if runtime.GOMAXPROCS(0) == 1 && os.Getenv("GOMAXPROCS") == "" {
		// With one, all goroutines wait for up to 10 ms while one of them waits for the
		// disk. Go itself takes two where a container may use one processor.
		runtime.GOMAXPROCS(2)
	}
	os.Exit(cmd.Run(ctx, cmd.IO{Program: os.Args[0], Args: os.Args[1:], Environ: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Reload: reloads}))
}

// Command siege does to the program what a client can do to a broker without ever
// being let in, and what one can do that was: it starts the real binary for each
// row, besieges it, and counts what becomes of everyone else meanwhile.
//
//	make siege
//
// The rows are in rows.go, the attacks in attack.go, the clients that must be
// served in served.go, the server's process in server.go. Linux only: memory is
// read from /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "siege:", err)
		os.Exit(1)
	}
}

func run() error {
	only := flag.String("only", "", "rows whose name contains this")
	small := flag.Bool("small", false, "hundreds instead of thousands, seconds instead of half a minute")
	verbose := flag.Bool("v", false, "what the server says, too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "heartline-siege-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	log := io.Discard
	if *verbose {
		log = os.Stderr
	}
	return siege(ctx, dir, *small, *only, os.Stdout, log)
}

// siege plays the rows and prints the table. It returns the rows that failed.
func siege(ctx context.Context, dir string, small bool, only string, out, log io.Writer) error {
	binary := filepath.Join(dir, "heartline")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/heartline-mqtt/heartline") //nolint:gosec // the path is of our own making
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the binary: %w\n%s", err, text)
	}
	fmt.Fprintf(out, "%d cores, %s, %s\n\n", runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02"))
	fmt.Fprintln(out, "| siege | notified | acked | p50 | max | p50 before | connects | slowest | MB before | MB at most | bytes a silent socket | ended by the server | SIGTERM |")
	fmt.Fprintln(out, "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- | --- |")
	var errs []error
	for i, r := range rows(small) {
		if !strings.Contains(r.name, only) {
			continue
		}
		res, err := r.play(ctx, binary, filepath.Join(dir, fmt.Sprint("data-", i)), log)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
		}
		fmt.Fprintln(out, res.line(r.name))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

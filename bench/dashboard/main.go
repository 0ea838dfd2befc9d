// Command dashboard measures what open dashboards cost the notifications, and whether the
// dashboard opens as fast over a large store as over a small one.
//
//	make bench-dashboard
//	go run ./bench/dashboard -rounds 3 -seconds 3 -outstanding 20000 -history 200000 -samples 50   # to try it
//
// Read load.go (notifications with and without dashboards, in turn) and page.go (what a page
// asks for), then reads.go (each read of a page from two servers, in turn) and fill.go (their
// stores). Everything runs on this machine: the real binary, the clients and the pages, which
// are played, not drawn. The directory that it works in is removed at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

type program struct {
	binary, dir          string
	rounds, pages        int
	duration, idle       time.Duration
	outstanding, history int
	samples              int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var p program
	flag.IntVar(&p.rounds, "rounds", 5, "rounds of the load; 0 leaves it out")
	flag.IntVar(&p.pages, "pages", 10, "open dashboards")
	flag.DurationVar(&p.duration, "duration", 10*time.Second, "of each load")
	flag.DurationVar(&p.idle, "idle", 10*time.Second, "before each load, when nothing is sent")
	flag.IntVar(&p.outstanding, "outstanding", 1_000_000, "deliveries outstanding in the large store")
	flag.IntVar(&p.history, "history", 10_000_000, "final notifications in it")
	flag.IntVar(&p.samples, "samples", 300, "times that each read is made; 0 leaves the reads out")
	flag.StringVar(&p.dir, "dir", os.TempDir(), "where to put the stores, in a directory that is removed at the end")
	flag.Parse()
	if flag.NArg() > 0 || min(p.rounds, p.pages, p.outstanding, p.history, p.samples) < 0 || p.duration <= 0 || p.idle <= 0 {
		return errors.New("takes flags only, none below 0, and durations above 0: see -help")
	}
	if p.dir, err = os.MkdirTemp(p.dir, "heartline-dashboard-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.dir)) }()
	p.binary = filepath.Join(p.dir, "heartline")
	build := exec.CommandContext(ctx, "go", "build", "-o", p.binary, "github.com/heartline-mqtt/heartline") //nolint:gosec // the path is of our own making
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the binary: %w", err)
	}
	fmt.Fprintf(os.Stdout, "%d cores, %s, %s\n\n", runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02"))
	if p.rounds > 0 {
		if err := p.load(ctx); err != nil {
			return err
		}
	}
	if p.samples > 0 {
		return p.reads(ctx)
	}
	return nil
}

// at is a quantile of sorted values.
func at[T any](sorted []T, q float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func median(values []float64) float64 { return at(slices.Sorted(slices.Values(values)), 0.5) }

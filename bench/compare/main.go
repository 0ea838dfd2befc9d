// Command compare measures Heartline and other brokers: plain mochi, mochi with
// its storage hooks, and Mosquitto. All run in turn in one run, each measurement with
// a server and a data directory of its own; `heartline bench` makes the load.
//
//	make bench-compare
//
// It is a module of its own, so that the stores of other people's hooks do not
// become Heartline's. Linux only: CPU time and memory are read from /proc.
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
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// Contestants that sections name.
const (
	badgerHook        = "mochi, badger hook"
	mosquittoInMemory = "Mosquitto, in memory"
)

type program struct {
	generator string // binary of `heartline bench`
	ours      []contestant
	plain     contestant // mochi in memory, which the ratios are of
	beside    []contestant
	othersMu  sync.Mutex
	others    []float64 // cores that were busy with something else, by run of the section
	rounds    int
	duration  time.Duration
	backlog   int // of the outstanding section
	report    *report
	cert      certificate          // of the TLS listeners
	top       map[string][]*result // the rate section's, for those that build on it
}

// section is a part of the comparison that can be chosen.
type section struct {
	name string
	run  func(*program, context.Context) error
}

func sections() []section {
	return []section{
		{"rate", (*program).rate},
		{"ordinary", (*program).ordinary},
		{"half", (*program).half},
		{"latency", (*program).latency},
		{"idle", (*program).idle},
		{"tls", (*program).tls},
		{"handshakes", (*program).handshakes},
		{"reconnect", (*program).reconnect},
		{"outstanding", (*program).outstanding},
		{"batch", (*program).batch},
		{"disk", (*program).disk},
	}
}

// binaries are the values of -heartline.
type binaries []string

func (b *binaries) String() string { return strings.Join(*b, ", ") }
func (b *binaries) Set(v string) error {
	*b = append(*b, v)
	return nil
}

func run() error {
	var names []string
	for _, s := range sections() {
		names = append(names, s.name)
	}
	var given binaries
	flag.Var(&given, "heartline", "`[NAME=]PATH` of a Heartline binary, may be repeated; the first is the one that the text names; built from -root if absent")
	generator := flag.String("generator", "", "`PATH` of the Heartline binary that makes the load; built from -root if absent")
	root := flag.String("root", "../..", "Heartline's source")
	chosen := flag.String("run", strings.Join(names, ","), "sections to run")
	others := flag.Bool("others", true, "measure stores and brokers other than plain mochi, too")
	rounds := flag.Int("rounds", 5, "rounds, for the medians")
	duration := flag.Duration("duration", 5*time.Second, "of each measurement")
	backlog := flag.Int("backlog", 1_000_000, "deliveries for others in the outstanding section")
	page := flag.String("write", "", "Markdown `FILE` to write the tables into")
	store := flag.String("mochi", "", "be a mochi broker with this `STORE` instead")
	dir := flag.String("dir", "", "with -mochi: its data")
	flag.Parse()
	if *store != "" {
		return runMochi(*store, *dir, os.Stdout)
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("takes flags only, got %q", flag.Args())
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &program{generator: *generator, rounds: *rounds, duration: *duration, backlog: *backlog, plain: mochi("mochi, in memory", "memory"), top: map[string][]*result{}}
	var todo []section
	for name := range strings.SplitSeq(*chosen, ",") {
		i := slices.IndexFunc(sections(), func(s section) bool { return s.name == name })
		if i < 0 {
			return fmt.Errorf("-run: there is no section %q; there are %s", name, strings.Join(names, ", "))
		}
		todo = append(todo, sections()[i])
	}
	if p.generator == "" || len(given) == 0 {
		temp, err := os.MkdirTemp("", "heartline-compare-build-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(temp) }()
		binary := filepath.Join(temp, "heartline")
		build := exec.CommandContext(ctx, "go", "build", "-o", binary, ".") //nolint:gosec // the path is of our own making
		build.Dir, build.Stderr = *root, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build Heartline: %w", err)
		}
		if p.generator == "" {
			p.generator = binary
		}
		if len(given) == 0 {
			given = binaries{"Heartline, durable=" + binary}
		}
	}
	for _, b := range given {
		name, path, ok := strings.Cut(b, "=")
		if !ok {
			name, path = filepath.Base(b), b
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("-heartline: %w", err)
		}
		p.ours = append(p.ours, heartline(name, path, "notifications"))
	}
	if *others {
		p.beside = []contestant{
			mochi(badgerHook, "badger"), mochi("mochi, pebble hook", "pebble"),
			mochi("mochi, pebble hook, synced", "pebble-sync"), mochi("mochi, bolt hook", "bolt"),
		}
		if _, err := exec.LookPath("mosquitto"); err == nil {
			p.beside = append(p.beside, mosquitto(mosquittoInMemory, "persistence false"),
				mosquitto("Mosquitto, autosave_on_changes", "persistence true", "autosave_on_changes true", "autosave_interval 1"))
		} else {
			fmt.Fprintln(os.Stderr, "compare: mosquitto is missing and left out: apt-get install mosquitto")
		}
	}
	var err error
	if p.report, err = newReport(*page, p); err != nil {
		return err
	}
	if p.cert, err = newCertificate(); err != nil {
		return err
	}
	defer p.cert.remove()
	for _, s := range todo {
		p.others = nil
		if err := s.run(p, ctx); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.name, err), ctx.Err())
		}
	}
	return nil
}

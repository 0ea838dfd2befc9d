//go:build linux

// Command nodes measures one and three nodes over one PostgreSQL, and a node on its own
// disk: notifications a second, and the CPU time that the nodes and the database spend on
// each. Then it measures what a hop from node to node costs.
//
//	make bench-nodes
//
// It also tells how many bytes devices and notifications take in the database.
//
// All run in turn under the same load: three generators, each with its own devices and
// publishers. With three nodes each generator has a node of its own, so that two of three
// accounts belong to another node than the one that their devices and backends use. Linux
// only: CPU time is read from /proc. It needs PostgreSQL.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/pgkit"
	"github.com/heartline-mqtt/heartline/internal/procstat"
)

func main() {
	rounds := flag.Int("rounds", 3, "rounds, for the medians")
	duration := flag.Duration("duration", 5*time.Second, "of each measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *rounds, *duration)
	if stop(); err != nil {
		fmt.Fprintln(os.Stderr, "nodes:", err)
		os.Exit(1)
	}
}

// generators put the load on the nodes, each on one.
const generators = 3

// setting is one of the arrangements that are compared.
type setting struct {
	name     string
	nodes    int
	postgres bool
}

var settings = []setting{{"disk, 1 node", 1, false}, {"PostgreSQL, 1 node", 1, true}, {"PostgreSQL, 3 nodes", 3, true}}

// figures are of one measurement. CPU times are in µs a notification.
type figures struct{ rate, nodes, database, generators float64 }

func run(ctx context.Context, rounds int, duration time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "heartline-nodes-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary := filepath.Join(dir, "heartline")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/heartline-mqtt/heartline") //nolint:gosec // the path is of our own making
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the binary: %w", err)
	}
	pg, err := pgkit.Start(ctx, "fsync = on", "shared_buffers = 256MB")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Close()) }()
	fmt.Fprintf(os.Stdout, "%d cores, %s, %s\n\n", runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02"))
	all := map[string][]figures{}
	for round := range rounds {
		for i, s := range settings {
			m := measurement{setting: s, binary: binary, dir: filepath.Join(dir, fmt.Sprint(round, "-", i)), pg: pg, schema: fmt.Sprintf("round%d_%d", round, i)}
			f, err := m.run(ctx, duration)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			all[s.name] = append(all[s.name], f)
			fmt.Fprintf(os.Stdout, "round %d  %-20s %8.0f/s  nodes %6.1f µs  database %6.1f µs  generators %6.1f µs\n", round+1, s.name, f.rate, f.nodes, f.database, f.generators)
		}
	}
	fmt.Fprintf(os.Stdout, "\nmedians of %d rounds of %s\n", rounds, duration)
	median := func(name string, of func(figures) float64) float64 {
		var values []float64
		for _, f := range all[name] {
			values = append(values, of(f))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	nodes := func(f figures) float64 { return f.nodes }
	for _, s := range settings {
		fmt.Fprintf(os.Stdout, "%-20s %8.0f/s  nodes %6.1f µs  database %6.1f µs\n", s.name, median(s.name, func(f figures) float64 { return f.rate }), median(s.name, nodes), median(s.name, func(f figures) float64 { return f.database }))
	}
	if err := hops(ctx, pg, binary, dir, rounds, duration); err != nil {
		return fmt.Errorf("hops: %w", err)
	}
	one, three := median(settings[1].name, nodes), median(settings[2].name, nodes)
	fmt.Fprintf(os.Stdout, "three nodes spend %.1f µs more on each than one: the relay of 2 of 3 accounts, and smaller groups\n", three-one)
	m := measurement{setting: settings[1], binary: binary, dir: filepath.Join(dir, "sizes"), pg: pg, schema: "sizes"}
	if err := m.sizes(ctx); err != nil {
		return fmt.Errorf("sizes: %w", err)
	}
	fmt.Fprintf(os.Stdout, "estimate: three machines give %.2f times the rate of one at this rate for each node, if the database is on another machine and keeps up\n", generators*one/three)
	return nil
}

type measurement struct {
	setting
	binary, dir, schema string
	pg                  *pgkit.Server
}

// node is a server that runs.
type node struct {
	cmd  *exec.Cmd
	mqtt string
	read chan struct{} // its output has ended
}

// stop ends the server and waits for that.
func (n *node) stop() {
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	<-n.read
	_ = n.cmd.Wait() // its exit says nothing about the figures
}

func (m *measurement) run(ctx context.Context, duration time.Duration) (f figures, err error) {
	nodes, err := m.startAll(ctx)
	defer stop(nodes)
	if err != nil {
		return f, err
	}
	database, err := m.pg.CPU()
	if err != nil {
		return f, err
	}
	before, err := cpuOf(nodes)
	if err != nil {
		return f, err
	}
	var results [generators]result
	var own [generators]time.Duration
	var running errgroup.Group
	for i := range generators {
		running.Go(func() (err error) {
			results[i], own[i], err = m.load(ctx, nodes[i%len(nodes)], i, duration)
			return err
		})
	}
	if err := running.Wait(); err != nil {
		return f, err
	}
	after, err := m.pg.CPU()
	if err != nil {
		return f, err
	}
	var delivered float64
	var load time.Duration
	for i, r := range results {
		t := r.Totals
		if t.Lost+t.Duplicated+t.OutOfOrder+t.Refused+t.Unanswered > 0 {
			return f, fmt.Errorf("faults: %+v", t)
		}
		f.rate += r.Throughput
		delivered += float64(t.Delivered)
		load += own[i]
	}
	spent, err := cpuOf(nodes)
	if err != nil {
		return f, err
	}
	each := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / delivered }
	f.nodes, f.database, f.generators = each(spent-before), each(after-database), each(load)
	return f, nil
}

// startAll starts the nodes, and waits until all own partitions. It returns those that run
// also with an error.
func (m *measurement) startAll(ctx context.Context) (nodes []*node, err error) {
	for i := range m.nodes {
		n, err := m.start(ctx, i)
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, n)
	}
	if m.nodes > 1 {
		return nodes, m.shared(ctx)
	}
	return nodes, nil
}

func stop(nodes []*node) {
	for _, n := range nodes {
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, n := range nodes {
		<-n.read
		_ = n.cmd.Wait() // its exit says nothing about the figures
	}
}

func (m *measurement) start(ctx context.Context, i int) (*node, error) {
	cmd := exec.CommandContext(ctx, m.binary, "serve") //nolint:gosec // the path is of our own making
	cmd.Env = append(os.Environ(), "HEARTLINE_DATA_DIR="+filepath.Join(m.dir, fmt.Sprint(i)), "HEARTLINE_MQTT_ADDRESS=127.0.0.1:0", "HEARTLINE_HTTP_ADDRESS=")
	if m.postgres {
		cmd.Env = append(cmd.Env, "HEARTLINE_STORE_ENGINE=postgres", "HEARTLINE_STORE_POSTGRES_URL="+m.pg.URL("admin", "postgres", ""), "HEARTLINE_STORE_POSTGRES_SCHEMA="+m.schema)
	}
	if m.nodes > 1 {
		cmd.Env = append(cmd.Env, "HEARTLINE_CLUSTER_ADDRESS=127.0.0.1:0", fmt.Sprint("HEARTLINE_CLUSTER_NAME=node", i))
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	n := &node{cmd: cmd, read: make(chan struct{})}
	var said bytes.Buffer
	for in := bufio.NewScanner(stderr); in.Scan(); fmt.Fprintln(&said, in.Text()) {
		if _, rest, ok := strings.Cut(in.Text(), "heartline is ready"); ok {
			_, rest, _ = strings.Cut(rest, "mqtt=")
			n.mqtt, _, _ = strings.Cut(rest, " ")
			go func() { // so that it is not held up by its log
				_, _ = io.Copy(io.Discard, stderr)
				close(n.read)
			}()
			return n, nil
		}
	}
	_ = cmd.Wait() // the text says why
	return nil, fmt.Errorf("a node ended before it was ready:\n%s", said.String())
}

// cpuOf is the CPU time of all nodes.
func cpuOf(nodes []*node) (sum time.Duration, err error) {
	for _, n := range nodes {
		s, err := procstat.Read(n.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += s.CPU()
	}
	return sum, nil
}

// result holds the fields read from the answer of `heartline bench --json`.
type result struct {
	Throughput float64 `json:"delivered_per_s"`
	Totals     struct {
		Delivered  int64 `json:"delivered"`
		Refused    int64 `json:"refused"`
		Unanswered int64 `json:"unanswered"`
		Lost       int64 `json:"lost"`
		Duplicated int64 `json:"duplicated"`
		OutOfOrder int64 `json:"out_of_order"`
	} `json:"totals"`
}

func (m *measurement) load(ctx context.Context, n *node, i int, duration time.Duration) (r result, own time.Duration, err error) {
	cmd := exec.CommandContext(ctx, m.binary, "bench", "--json", "--server", "mqtt://"+n.mqtt, "--prefix", fmt.Sprint("bench", i), //nolint:gosec // the path is of our own making
		"--devices", "67", "--publishers", "3", "--inflight", "64", "--payload", "256", "--warmup", "1s", "--duration", duration.String())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return r, 0, fmt.Errorf("the load: %w\n%s", err, stderr.String())
	}
	return r, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), json.Unmarshal(stdout.Bytes(), &r)
}

func (m *measurement) open(ctx context.Context) (*broker.Database, error) {
	cfg := config.Default()
	cfg.Store.Engine, cfg.Store.Postgres.URL, cfg.Store.Postgres.Schema = config.EnginePostgres, config.Secret(m.pg.URL("admin", "postgres", "")), m.schema
	return broker.OpenDatabase(ctx, cfg, slog.New(slog.DiscardHandler))
}

// shared waits until all nodes, and nobody else, own partitions.
func (m *measurement) shared(ctx context.Context) error {
	db, err := m.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, free, err := db.Nodes(ctx)
		if err != nil {
			return err
		}
		least := free
		for i, n := range nodes {
			if i == 0 || n.Parts < least {
				least = n.Parts
			}
		}
		if free == 0 && len(nodes) == m.nodes && least >= cluster.Parts/m.nodes-m.nodes {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

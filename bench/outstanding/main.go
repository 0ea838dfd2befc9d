// Command outstanding measures what many deliveries for offline devices cost: the
// memory that the broker holds, the time from its start until it is ready, and how
// long one device that returns waits for its own, compared with the same for few.
//
//	make bench-outstanding
//
// It fills a store through the core, then starts the real binary on it. Linux only:
// memory is read from /proc.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "outstanding:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	total := flag.Int("total", 1_000_000, "outstanding deliveries")
	each := flag.Int("each", 1000, "of them for each device")
	rounds := flag.Int("rounds", 5, "devices that return, for the median")
	prune := flag.Int("prune", 0, "measure pruning of this many finished notifications instead, under -rate accepts a second")
	rate := flag.Int("rate", 500, "with -prune: accepts a second")
	flag.Parse()
	dir, err := os.MkdirTemp("", "heartline-outstanding-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if *prune > 0 {
		return pruning(dir, *prune, *rate)
	}
	binary := filepath.Join(dir, "heartline")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/heartline-mqtt/heartline") //nolint:gosec // the path is of our own making
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the binary: %w", err)
	}
	fmt.Fprintf(os.Stdout, "%d cores, %s, %s\n\n", runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02"))
	fmt.Fprintf(os.Stdout, "%-12s %-9s %-9s %-12s %-14s %s\n", "outstanding", "devices", "ready", "resident", "B/delivery", "redelivery of one device, median")
	var few, base float64
	for i, n := range []int{*each * *rounds, *total} {
		r, err := measure(ctx, dir, binary, n, *each, *rounds)
		if err != nil {
			return err
		}
		if i == 0 {
			few, base = r.redelivery.Seconds(), r.resident
		}
		fmt.Fprintf(os.Stdout, "%-12d %-9d %-9s %-12s %-14s %s for %d (%.2f of the first row)\n",
			n, n / *each, r.ready.Round(time.Millisecond), fmt.Sprintf("%.0f MB", r.resident/1e6),
			fmt.Sprintf("%.0f", (r.resident-base)/float64(n)), r.redelivery.Round(100*time.Microsecond), *each, r.redelivery.Seconds()/few)
	}
	return nil
}

type result struct {
	ready      time.Duration
	resident   float64
	redelivery time.Duration
}

func measure(ctx context.Context, dir, binary string, n, each, rounds int) (result, error) {
	data := filepath.Join(dir, fmt.Sprint("data-", n))
	if err := fill(data, n, each); err != nil {
		return result{}, fmt.Errorf("fill the store: %w", err)
	}
	cmd := exec.CommandContext(ctx, binary, "serve")
	cmd.Env = append(os.Environ(), "HEARTLINE_DATA_DIR="+data, "HEARTLINE_MQTT_ADDRESS=127.0.0.1:0", "HEARTLINE_HTTP_ADDRESS=")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return result{}, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	defer cmd.Wait()                          //nolint:errcheck // it is asked to stop, and its exit says nothing about the figures
	defer cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // likewise
	address, err := ready(bufio.NewScanner(stderr))
	if err != nil {
		return result{}, err
	}
	r := result{ready: time.Since(start)}
	if r.resident, err = resident(cmd.Process.Pid); err != nil {
		return result{}, err
	}
	var times []time.Duration
	for i := range rounds {
		d, err := comeBack(address, i, each)
		if err != nil {
			return result{}, err
		}
		times = append(times, d)
	}
	slices.Sort(times)
	r.redelivery = times[len(times)/2]
	return r, nil
}

// fill accepts n notifications of 256 bytes for offline devices without a token.
func fill(data string, n, each int) error {
	out, err := store.New(store.Options{Open: func(readOnly bool) (store.Engine, error) {
		return pebblestore.Open(data, pebblestore.Options{ReadOnly: readOnly})
	}})
	if err != nil {
		return err
	}
	core := delivery.New(delivery.Options{
		Windows: delivery.Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}, Ack: delivery.AckReceived,
		TTL: 24 * time.Hour, MaxOutstanding: each, MaxInflight: 16, ForgetDeviceAfter: 1440 * time.Hour,
	}, out, nil, slog.New(slog.DiscardHandler))
	if err := core.Start(); err != nil {
		return err
	}
	ctx := context.Background()
	for i := range n / each {
		if err := core.Register(device(i), device(i)); err != nil {
			return err
		}
	}
	if err := core.Flush(ctx); err != nil {
		return err
	}
	body := strings.Repeat("x", 250)
	slots, failed := make(chan struct{}, 2048), make(chan error, 1)
	for i := range n {
		slots <- struct{}{}
		core.AcceptAsync(delivery.Request{Account: device(i % (n / each)), Title: "title", Body: body}, func(_ delivery.Receipt, err error) {
			<-slots
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	select {
	case err := <-failed:
		return err
	default:
	}
	return errors.Join(core.Stop(ctx), out.Close())
}

func device(i int) string { return fmt.Sprintf("device-%06d", i) }

func ready(in *bufio.Scanner) (address string, err error) {
	for in.Scan() {
		if _, rest, ok := strings.Cut(in.Text(), "heartline is ready"); ok {
			_, rest, _ = strings.Cut(rest, "mqtt=")
			address, _, _ = strings.Cut(rest, " ")
			go func() {
				for in.Scan() { // so that it is not held up by its log
				}
			}()
			return address, nil
		}
	}
	return "", errors.New("the broker ended before it was ready")
}

func resident(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return kib * 1024, err
}

// comeBack connects a device and acknowledges everything that was kept for it.
func comeBack(address string, i, n int) (time.Duration, error) {
	c, err := rawmqtt.Dial(address, 5)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if _, err := c.Connect(rawmqtt.Connect{ID: device(i), Username: device(i), Keepalive: 60}); err != nil {
		return 0, err
	}
	if _, err := c.Subscribe(1, 1, "heartline/devices/"+device(i)+"/notifications"); err != nil {
		return 0, err
	}
	for range n {
		pk, err := c.Read(30 * time.Second)
		if err != nil {
			return 0, err
		}
		if pk.FixedHeader.Type == packets.Publish {
			if err := c.Puback(pk.PacketID); err != nil {
				return 0, err
			}
		}
	}
	return time.Since(start), nil
}

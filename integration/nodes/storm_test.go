package nodes

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

var stormDevices = flag.Int("storm", 15_000, "with -nodes: devices of the killed edge")

// crowd is devices in a process of their own: file descriptors are scarce. It is told over
// standard input where they go, and says on standard output how they fare.
//
//	home ADDRESS      all connect there, and acknowledge nothing yet
//	away ADDRESS…     where they go when their connection ends, and acknowledge
//
// It says "home" when all are subscribed, "told N" when so many have a notification, and
// then "back JSON" with a crowdReport once all have come back and had it again.
type crowd struct {
	first, n int
	home     string
	away     atomic.Pointer[[]string]
	up, told atomic.Int64
	back     sync.WaitGroup
	lost     atomic.Int64 // when the first connection was lost, in ns

	mu     sync.Mutex
	report crowdReport
	took   []time.Duration // from the loss until the device was subscribed again
	had    []time.Duration // and until it had its notification
}

// crowdReport is what became of the devices after the loss of their node.
type crowdReport struct {
	Devices, Refused, Unannounced, Others int
	// In seconds, from the first loss: until half of the devices, and all of them, were
	// subscribed again, and until all had their notification.
	Half, All, Delivered float64
}

// runCrowd is the process.
func runCrowd(args string) error {
	var c crowd
	if _, err := fmt.Sscan(args, &c.first, &c.n); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch f := strings.Fields(in.Text()); f[0] {
		case "home":
			c.home = f[1]
			go c.begin()
		case "away":
			to := f[1:]
			c.away.Store(&to)
		}
	}
	return nil
}

func (c *crowd) begin() {
	c.back.Add(c.n)
	slots := make(chan struct{}, 100) // connecting at a time
	for i := range c.n {
		slots <- struct{}{}
		go func() {
			defer c.back.Done()
			c.live(c.first+i, func() { <-slots })
		}()
	}
	for c.up.Load() < int64(c.n) {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("home")
	for c.told.Load() < int64(c.n) {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("told", c.n)
	c.back.Wait()
	slices.Sort(c.took)
	slices.Sort(c.had)
	c.report.Devices = len(c.had)
	c.report.Half, c.report.All, c.report.Delivered = c.took[len(c.took)/2].Seconds(), c.took[len(c.took)-1].Seconds(), c.had[len(c.had)-1].Seconds()
	text, _ := json.Marshal(&c.report) // it can be
	fmt.Println("back", string(text))
}

// connect connects a device and subscribes it.
func connectOne(address, name string) (*rawmqtt.Client, error) {
	conn, err := net.DialTimeout("tcp", address, 20*time.Second)
	if err != nil {
		return nil, err
	}
	c := rawmqtt.New(conn, 5)
	pk, err := c.Connect(rawmqtt.Connect{ID: "phone-" + name, Username: name, Keepalive: 300, Clean: true})
	if err == nil && pk.ReasonCode != 0 {
		err = fmt.Errorf("CONNACK 0x%02x", pk.ReasonCode)
	}
	if err == nil {
		err = c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
			Filters: packets.Subscriptions{{Filter: "heartline/devices/phone-" + name + "/notifications", Qos: 1}},
		})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// live is a device: it connects at home, has its notification, and after the loss has it again
// elsewhere.
func (c *crowd) live(number int, connected func()) {
	name := fmt.Sprint("storm", number)
	conn, err := connectOne(c.home, name)
	if err != nil {
		fmt.Fprintln(os.Stderr, "device does not come:", err)
		os.Exit(1)
	}
	told := false
	c.read(conn, false, func() { c.up.Add(1); connected() }, func(*wire.Pseudo) bool {
		if !told { // it is tried again, too
			told = true
			c.told.Add(1)
		}
		return false
	})
	now := time.Now().UnixNano()
	c.lost.CompareAndSwap(0, now)
	since := time.Unix(0, c.lost.Load())
	for i, done := number, false; !done; i++ {
		to := *c.away.Load()
		conn, err := connectOne(to[i%len(to)], name)
		if err != nil {
			c.mu.Lock()
			c.report.Refused++
			c.mu.Unlock()
			time.Sleep(100*time.Millisecond + rand.N(time.Second)) // as clients do
			continue
		}
		c.read(conn, true, func() {
			c.mu.Lock()
			c.took = append(c.took, time.Since(since))
			c.mu.Unlock()
		}, func(p *wire.Pseudo) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			switch {
			case p.ID != "id-"+name || done:
				c.report.Others++
			case !p.Redelivery: // it had it before, and is not told so
				c.report.Unannounced++
				fallthrough
			default:
				c.had = append(c.had, time.Since(since))
			}
			done = true
			return true
		})
	}
}

// read reads a connection until it ends, or until told returns true.
func (c *crowd) read(conn *rawmqtt.Client, ack bool, subscribed func(), told func(*wire.Pseudo) bool) {
	defer func() {
		if !ack {
			conn.Close()
		} // else it stays: the memory of the nodes is with all of them
	}()
	for {
		pk, err := conn.Read(0)
		if err != nil {
			return
		}
		switch pk.FixedHeader.Type {
		case packets.Suback:
			subscribed()
		case packets.Publish:
			var p wire.Pseudo
			if json.Unmarshal(pk.Payload, &p) != nil {
				continue
			}
			if ack && conn.Puback(pk.PacketID) != nil {
				return
			}
			if told(&p) {
				return
			}
		}
	}
}

// resident returns a value of /proc/PID/status in MB.
func (n *served) resident(field string) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == field+":" {
			kb, _ := strconv.Atoi(f[1])
			return kb / 1000
		}
	}
	return 0
}

// crowdProcess is a crowd's.
type crowdProcess struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

func (p *crowdProcess) tell(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
}

// hears returns what the crowd says next, which must begin with a word.
func (p *crowdProcess) hears(t *testing.T, word string) string {
	t.Helper()
	if !p.out.Scan() || !strings.HasPrefix(p.out.Text(), word) {
		t.Fatalf("the crowd said %q instead of %q", p.out.Text(), word)
	}
	return strings.TrimSpace(strings.TrimPrefix(p.out.Text(), word))
}

// All devices of a killed edge come to the two other nodes at once, each with a notification that
// it has had and not acknowledged.
func TestStormAfterAKill(t *testing.T) {
	if !*full {
		t.Skip("three processes, a PostgreSQL and 15,000 devices take minutes: make nodes runs them")
	}
	f := newFleet(t, "one", "two", "three")
	const programs = 2
	var crowds []*crowdProcess
	for i := range programs {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("NODE_CROWD=%d %d", i**stormDevices/programs, *stormDevices/programs))
		cmd.Stderr = os.Stderr
		in, errIn := cmd.StdinPipe()
		out, errOut := cmd.StdoutPipe()
		if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		crowds = append(crowds, &crowdProcess{in, bufio.NewScanner(out)})
	}
	edge, others := f.nodes[0], f.nodes[1:]
	began := time.Now()
	for _, c := range crowds {
		c.tell(t, "home %s", edge.mqtt)
	}
	for _, c := range crowds {
		c.hears(t, "home")
	}
	came := time.Since(began)

	// One notification each, just before the kill.
	began = time.Now()
	work := make(chan int)
	var backends sync.WaitGroup
	var refused atomic.Int64
	for k := range 32 {
		backends.Go(func() {
			for i := range work {
				ok := false
				for try := 0; try < 5 && !ok; try++ {
					status, err := f.post(others[(k+try)%2], http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"id":"id-storm%d","account":"storm%d","title":"t"}`, i, i))
					ok = err == nil && status < 300
				}
				if !ok {
					refused.Add(1)
				}
			}
		})
	}
	for i := range *stormDevices {
		work <- i
	}
	close(work)
	backends.Wait()
	posted := time.Since(began)
	if n := refused.Load(); n > 0 {
		t.Fatalf("%d notifications were refused", n)
	}
	for _, c := range crowds {
		c.hears(t, "told")
		c.tell(t, "away %s %s", others[0].mqtt, others[1].mqtt)
	}
	var before []int
	for _, n := range f.nodes {
		before = append(before, n.resident("VmRSS"))
	}
	time.Sleep(100 * time.Millisecond) // until the crowds have heard where to go
	if err := edge.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var all crowdReport
	for _, c := range crowds {
		var r crowdReport
		if err := json.Unmarshal([]byte(c.hears(t, "back")), &r); err != nil {
			t.Fatal(err)
		}
		all.Devices, all.Refused, all.Unannounced, all.Others = all.Devices+r.Devices, all.Refused+r.Refused, all.Unannounced+r.Unannounced, all.Others+r.Others
		all.Half, all.All, all.Delivered = max(all.Half, r.Half), max(all.All, r.All), max(all.Delivered, r.Delivered)
	}
	f.await("the end of all deliveries", func() bool {
		st, err := f.db.Status(f.Context())
		return err == nil && st.Outstanding == 0 && st.Unaccounted() == 0
	})
	t.Logf("%d devices came to one edge in %v, and were notified in %v; it was killed: half of them subscribed at the two others after %.1f s, all after %.1f s, all had their notification after %.1f s; connections refused meanwhile %d, copies that did not say so %d, other notifications %d; lost 0; memory in MB: the edge %d, the others %d and %d before, %d and %d after, %d and %d at most",
		all.Devices, came.Round(100*time.Millisecond), posted.Round(100*time.Millisecond), all.Half, all.All, all.Delivered, all.Refused, all.Unannounced, all.Others,
		before[0], before[1], before[2], others[0].resident("VmRSS"), others[1].resident("VmRSS"), others[0].resident("VmHWM"), others[1].resident("VmHWM"))
	if all.Devices != *stormDevices || all.Others+all.Unannounced > 0 {
		t.Errorf("%+v", all)
	}
}

// Command load measures an attacked server. It prints how long good users wait for their
// first login while others guess passwords, how fast thousands of devices are back after
// a restart, with the verifier and without, and how much later notifications arrive
// while one account is at every limit.
//
//	make attack-load
//
// The attackers are a process of their own, on a core of their own where there are two
// (taskset): only the server's work for them takes time from others. Where this user may
// make control groups for the CPU (root on most machines), server, attackers and good
// users get one each with a large weight, so that other programs of the machine take
// little from any of them. The first line of the output says so. Linux only.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

const (
	password = "a good password"
	token    = "the-load-program's-token-of-a-service"
	guessers = 40
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

type load struct {
	binary, dir string
	users       int
	devices     int
	newcomers   int
	during      time.Duration
	groups      string   // directory of the control groups; "": none
	bad         []string // aims that were missed
}

func run() error {
	as := flag.String("as", "", "be the attackers: guess or everything")
	address := flag.String("address", "", "with -as: of the server")
	l := &load{}
	flag.StringVar(&l.binary, "heartline", "", "`PATH` of the program; built if absent")
	flag.IntVar(&l.users, "users", 500, "accounts of the devices that come back; each costs a hash before the restart")
	flag.IntVar(&l.devices, "devices", 10_000, "devices that come back")
	flag.IntVar(&l.newcomers, "newcomers", 100, "users with a first login during the login flood, and devices that come back without the verifier")
	flag.DurationVar(&l.during, "during", 20*time.Second, "how long notifications are measured, calm and attacked")
	only := flag.String("run", "flood,back,hostile", "what to measure")
	flag.Parse()
	switch *as {
	case "guess":
		return guess(*address)
	case "everything":
		return everything(*address)
	}
	var err error
	if l.dir, err = os.MkdirTemp("", "heartline-load-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(l.dir) }()
	if l.binary == "" {
		l.binary = filepath.Join(l.dir, "heartline")
		if out, err := exec.Command("go", "build", "-o", l.binary, ".").CombinedOutput(); err != nil {
			return fmt.Errorf("build the program: %w\n%s", err, out)
		}
	}
	if err := l.write(); err != nil {
		return err
	}
	l.groups = makeGroups()
	defer removeGroups(l.groups)
	fmt.Fprintln(os.Stdout, "       ", l.shares())
	for _, part := range []struct {
		name string
		run  func() error
	}{{"flood", l.flood}, {"back", l.back}, {"hostile", l.hostile}} {
		if !strings.Contains(*only, part.name) {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if len(l.bad) > 0 {
		return errors.New("missed: " + strings.Join(l.bad, "; "))
	}
	return nil
}

// groupWeights are the CPU shares of the three parts, where 1024 is any other program's.
var groupWeights = map[string]int{"server": 262_144, "attackers": 262_144, "users": 262_144}

// makeGroups makes a control group for each part and puts this process into that of the
// users. It returns their directory, or "" where this user may make none.
func makeGroups() string {
	file, most := "cpu.shares", 262_144
	parent := "/sys/fs/cgroup/cpu"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil { // version 2
		parent, file, most = "/sys/fs/cgroup", "cpu.weight", 10_000
	}
	dir := filepath.Join(parent, fmt.Sprint("heartline-load-", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return ""
	}
	err := os.WriteFile(filepath.Join(dir, file), []byte(fmt.Sprint(most)), 0o644)
	if file == "cpu.weight" {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpu"), 0o644))
	}
	for name, weight := range groupWeights {
		group := filepath.Join(dir, name)
		err = errors.Join(err, os.Mkdir(group, 0o755), os.WriteFile(filepath.Join(group, file), []byte(fmt.Sprint(min(weight, most))), 0o644))
	}
	err = errors.Join(err, os.WriteFile(filepath.Join(dir, "users", "cgroup.procs"), []byte(fmt.Sprint(os.Getpid())), 0o644))
	if err != nil {
		removeGroups(dir)
		return ""
	}
	return dir
}

// removeGroups moves this process back, and removes the groups.
func removeGroups(dir string) {
	if dir == "" {
		return
	}
	_ = os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"), []byte(fmt.Sprint(os.Getpid())), 0o644)
	for _, group := range []string{"server", "attackers", "users", "."} {
		for range 50 { // a process that was killed leaves its group some time after
			if err := os.Remove(filepath.Join(dir, group)); err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// shares says what CPU each part has.
func (l *load) shares() string {
	cores := "server and attackers share one core"
	if n := runtime.NumCPU(); n > 1 {
		cores = fmt.Sprintf("server on cores %s, attackers on core %d (where devices come back: the server on all)", serverCores(), n-1)
	}
	if l.groups == "" {
		return cores + "; no control groups: may not be made here, so that other programs of the machine count"
	}
	return cores + "; a control group of a large CPU weight each for server, attackers and good users"
}

// command is a program on some cores, "" for all, in the control group of a part.
func (l *load) command(group, cores string, args ...string) *exec.Cmd {
	if cores != "" {
		args = append([]string{"taskset", "-c", cores}, args...)
	}
	if l.groups != "" {
		procs := filepath.Join(l.groups, group, "cgroup.procs")
		args = append([]string{"sh", "-c", `echo $$ > "$0" && exec "$@"`, procs}, args...)
	}
	return exec.Command(args[0], args[1:]...)
}

// aim prints a figure with its aim.
func (l *load) aim(ok bool, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if ok {
		fmt.Fprintln(os.Stdout, "held   ", line)
		return
	}
	fmt.Fprintln(os.Stdout, "MISSED ", line)
	l.bad = append(l.bad, line)
}

// write makes the users file and the configuration. All users have one password and one
// hash; the server hashes for each of them all the same.
func (l *load) write() error {
	users := filepath.Join(l.dir, "users.yaml")
	hash := auth.HashPassword([]byte(password))
	var b strings.Builder
	b.WriteString("users:\n")
	for i := range max(l.users, l.newcomers) {
		fmt.Fprintf(&b, "  - {name: user%d, password_hash: %q}\n  - {name: neighbour%d, password_hash: %q}\n", i, hash, i, hash)
	}
	fmt.Fprintf(&b, "  - {name: alice, password_hash: %q}\n  - {name: bob, password_hash: %q}\n", hash, hash)
	if err := os.WriteFile(users, []byte(b.String()), 0o600); err != nil {
		return err
	}
	if err := auth.AddToken(users, auth.Entry{Name: "load"}, token); err != nil {
		return err
	}
	return os.WriteFile(l.config(), fmt.Appendf(nil, `data_dir: %s
mqtt: {address: 127.0.0.1:0, limits: {publish_rate: 200, sessions: 200, devices: 50}}
http: {address: 127.0.0.1:0}
auth:
  mode: file
  acl: [{filter: "{account}/#", access: readwrite}]
  file: {path: %s, verifier_key_file: %s}
log: {level: error}
`, filepath.Join(l.dir, "data"), users, filepath.Join(l.dir, "verifier-key")), 0o600)
}

func (l *load) config() string { return filepath.Join(l.dir, "heartline.yaml") }

// server is the program under attack.
type server struct {
	cmd        *exec.Cmd
	mqtt, http string
}

// start starts the program on the given cores, "" for all.
func (l *load) start(cores string) (*server, error) {
	s := &server{cmd: l.command("server", cores, l.binary, "serve", "--config", l.config(), "--log-level", "info")}
	out, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if _, rest, ok := strings.Cut(lines.Text(), "heartline is ready"); ok {
			s.mqtt, s.http = field(rest, "mqtt="), "http://"+field(rest, "http=")
			go func() { _, _ = io.Copy(io.Discard, out) }() // it ends with the server
			return s, nil
		}
	}
	return nil, fmt.Errorf("the program did not start: %s", strings.Join(said, "\n"))
}

func field(line, name string) string {
	_, rest, _ := strings.Cut(line, name)
	value, _, _ := strings.Cut(rest, " ")
	return value
}

func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	return s.cmd.Wait()
}

// attackers starts this program as one of them, on the last core.
func (l *load) attackers(as, address string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := l.command("attackers", fmt.Sprint(runtime.NumCPU()-1), self, "-as", as, "-address", address)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}, nil
}

// serverCores are all cores but the attackers'.
func serverCores() string {
	if n := runtime.NumCPU(); n > 1 {
		return fmt.Sprintf("0-%d", n-2)
	}
	return "0"
}

// from returns a dialer with an address of its own.
func from(i int) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, byte(1+i>>16), byte(i>>8), byte(i))}, Timeout: time.Minute}
}

// login connects as an account; the code is -1 where the connection ended without a
// CONNACK.
func login(d *net.Dialer, address string, o rawmqtt.Connect) (c *rawmqtt.Client, code int, took time.Duration) {
	begun := time.Now()
	nc, err := d.Dial("tcp", address)
	if err != nil {
		return nil, -1, time.Since(begun)
	}
	c = rawmqtt.New(nc, 5)
	o.Keepalive = 300
	if err := c.Send(connectPacket(o)); err != nil {
		return c, -1, time.Since(begun)
	}
	pk, err := c.Read(5 * time.Minute)
	if err != nil || pk.FixedHeader.Type != packets.Connack {
		return c, -1, time.Since(begun)
	}
	return c, int(pk.ReasonCode), time.Since(begun)
}

func connectPacket(o rawmqtt.Connect) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: 5,
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), Clean: o.Clean, Keepalive: o.Keepalive, ClientIdentifier: o.ID,
			UsernameFlag: true, Username: []byte(o.Username), PasswordFlag: true, Password: []byte(o.Password),
		},
		Properties: packets.Properties{SessionExpiryInterval: o.SessionExpiry, SessionExpiryIntervalFlag: o.SessionExpiry > 0},
	}
}

func percentile(times []time.Duration, p float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(float64(len(times))*p))]
}

// flood: users log in for the first time, two a second, while attackers guess: from
// addresses of their own, and then from one that the attackers use, too.
func (l *load) flood() error {
	s, err := l.start(serverCores())
	if err != nil {
		return err
	}
	defer s.stop() //nolint:errcheck // the figures are there
	stop, err := l.attackers("guess", s.mqtt)
	if err != nil {
		return err
	}
	defer stop()
	time.Sleep(2 * time.Second) // for the flood to stand
	l.firstLogins(s, "from addresses of their own", time.Second, func(i int) (*net.Dialer, string) { return from(1000 + i), fmt.Sprint("user", i) })
	l.firstLogins(s, "from an attacker's address", time.Minute, func(i int) (*net.Dialer, string) { return from(0), fmt.Sprint("neighbour", i) })
	return nil
}

// firstLogins logs newcomers in, two a second.
func (l *load) firstLogins(s *server, name string, aim time.Duration, who func(i int) (*net.Dialer, string)) {
	var mu sync.Mutex
	var times []time.Duration
	refused := 0
	var all sync.WaitGroup
	for i := range l.newcomers {
		all.Go(func() {
			d, user := who(i)
			c, code, took := login(d, s.mqtt, rawmqtt.Connect{ID: "new-" + user, Username: user, Password: password, Clean: true})
			mu.Lock()
			defer mu.Unlock()
			if times = append(times, took); code != 0 {
				refused++
			}
			if c != nil {
				c.Close()
			}
		})
		time.Sleep(500 * time.Millisecond)
	}
	all.Wait()
	p99 := percentile(times, 0.99)
	l.aim(refused == 0, "login flood, %d sockets of wrong passwords: %d of %d good first logins %s refused", guessers, refused, l.newcomers, name)
	l.aim(p99 <= aim, "login flood: first login %s p50 %v, p99 %v, the aim is %v", name, percentile(times, 0.5).Round(time.Millisecond), p99.Round(time.Millisecond), aim)
}

// guess tries wrong passwords until it is killed.
func guess(address string) error {
	for i := range guessers {
		go func() {
			for n := 0; ; n++ {
				c, _, _ := login(from(i%4), address, rawmqtt.Connect{ID: fmt.Sprint("guess-", i), Username: fmt.Sprint("user", n%100), Password: fmt.Sprintf("wrong %d %d", i, n), Clean: true})
				if c != nil {
					c.Close()
				}
			}
		}()
	}
	select {}
}

// back: devices that were logged in come back at once after a restart.
func (l *load) back() error {
	s, err := l.start("")
	if err != nil {
		return err
	}
	begun := time.Now()
	if _, refused := l.come(s, l.users); refused > 0 { // the first of each account: its hash
		return fmt.Errorf("%d refused before the restart", refused)
	}
	fmt.Fprintf(os.Stdout, "        %d accounts logged in for the first time, a hash each, in %v\n", l.users, time.Since(begun).Round(time.Millisecond))
	time.Sleep(3 * time.Second) // verifiers are written some time after
	if err := s.stop(); err != nil {
		return err
	}
	if s, err = l.start(""); err != nil {
		return err
	}
	took, refused := l.come(s, l.devices)
	l.aim(refused == 0 && took <= time.Minute, "after a restart, with the verifier: %d devices of %d accounts back in %v, %d refused; the aim is 60 s", l.devices, l.users, took.Round(time.Millisecond), refused)
	if err := s.stop(); err != nil {
		return err
	}
	for _, path := range []string{filepath.Join(l.dir, "verifier-key"), filepath.Join(l.dir, "data", "auth-verifiers")} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if s, err = l.start(""); err != nil {
		return err
	}
	took, refused = l.come(s, l.newcomers)
	l.aim(refused == 0, "after a restart, without the verifier: %d devices of %d accounts back in %v, %d refused", l.newcomers, l.newcomers, took.Round(time.Millisecond), refused)
	return s.stop()
}

// come connects n devices at once and returns when the last has its CONNACK.
func (l *load) come(s *server, n int) (took time.Duration, refused int64) {
	begun := time.Now()
	var count atomic.Int64
	var all sync.WaitGroup
	clients := make([]*rawmqtt.Client, n)
	for i := range n {
		all.Go(func() {
			c, code, _ := login(from(2000+i), s.mqtt, rawmqtt.Connect{ID: fmt.Sprint("device-", i), Username: fmt.Sprint("user", i%l.users), Password: password, Clean: true})
			if clients[i] = c; code != 0 {
				count.Add(1)
			}
		})
	}
	all.Wait()
	took = time.Since(begun)
	for _, c := range clients {
		if c != nil {
			c.Close()
		}
	}
	return took, count.Load()
}

// hostile: notifications of one account while another one is at every limit at once.
func (l *load) hostile() error {
	s, err := l.start(serverCores())
	if err != nil {
		return err
	}
	defer s.stop() //nolint:errcheck // the figures are there
	c, code, _ := login(from(1), s.mqtt, rawmqtt.Connect{ID: "alice-phone", Username: "alice", Password: password, Clean: true})
	if code != 0 {
		return fmt.Errorf("alice: %d", code)
	}
	defer c.Close()
	if codes, err := c.Subscribe(1, 1, "heartline/devices/alice-phone/notifications"); err != nil || codes[0] != 1 {
		return fmt.Errorf("alice: %x %w", codes, err)
	}
	calm, err := l.notify(s, c, "calm")
	if err != nil {
		return err
	}
	stop, err := l.attackers("everything", s.mqtt)
	if err != nil {
		return err
	}
	defer stop()
	time.Sleep(5 * time.Second)
	attacked, err := l.notify(s, c, "attacked")
	if err != nil {
		return err
	}
	a, b := percentile(calm, 0.99), percentile(attacked, 0.99)
	l.aim(b <= 2*a, "one hostile account at every limit: another's notification p50 %v, p99 %v; calm %v and %v; the aim is 2 times",
		percentile(attacked, 0.5).Round(10*time.Microsecond), b.Round(10*time.Microsecond), percentile(calm, 0.5).Round(10*time.Microsecond), a.Round(10*time.Microsecond))
	return nil
}

// notify asks for 50 notifications a second and returns how long each took to the device.
func (l *load) notify(s *server, c *rawmqtt.Client, name string) (times []time.Duration, err error) {
	for n := range int(l.during.Seconds() * 50) {
		begun := time.Now()
		body := fmt.Sprintf(`{"account":"alice","id":"%s-%d","title":"x"}`, name, n)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.http+"/v1/notifications", strings.NewReader(body))
		if err != nil {
			cancel()
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		cancel()
		if err != nil || resp.StatusCode != http.StatusAccepted {
			return nil, fmt.Errorf("notify: %v %w", resp, err)
		}
		pk, err := c.Read(time.Minute)
		if err != nil {
			return nil, err
		}
		took := time.Since(begun)
		times = append(times, took)
		if err := c.Puback(pk.PacketID); err != nil {
			return nil, err
		}
		time.Sleep(20*time.Millisecond - min(took, 20*time.Millisecond))
	}
	return times, nil
}

// everything is bob at each limit at once, until it is killed: connections, sessions,
// subscriptions, levels, publishes, retained messages, and logins.
func everything(address string) error {
	join := func(id string) *rawmqtt.Client {
		c, _, _ := login(from(7), address, rawmqtt.Connect{ID: id, Username: "bob", Password: password, SessionExpiry: 600})
		return c
	}
	if c := join("bob-first"); c == nil {
		return errors.New("bob is not let in")
	}
	for i := range 20 {
		go func() { // publishes and retains as fast as it goes, deep topics among them
			for {
				c := join(fmt.Sprint("bob-publisher-", i))
				if c == nil {
					continue
				}
				go func() { _, _ = io.Copy(io.Discard, c.Conn) }()
				deep := "bob" + strings.Repeat("/x", 5000)
				for n := uint16(1); ; n++ {
					pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: n%3 == 0}, ProtocolVersion: 5, PacketID: n%65000 + 1, TopicName: fmt.Sprint("bob/", i, "/", n), Payload: make([]byte, 10_000)}
					if n%100 == 0 {
						pk.TopicName = deep
					}
					if c.Send(pk) != nil {
						break
					}
				}
				c.Close()
			}
		}()
	}
	for i := range 10 {
		go func() { // subscribes, replays and comes back for ever
			for n := 0; ; n++ {
				c := join(fmt.Sprint("bob-subscriber-", i, "-", n%40))
				if c == nil {
					continue
				}
				for id := range uint16(50) {
					if _, err := c.Subscribe(id+1, 1, "bob/#", fmt.Sprint("bob/", n, "/", id), "heartline/devices/alice-phone/notifications"); err != nil {
						break
					}
				}
				c.Close()
			}
		}()
	}
	select {}
}

package nodes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/cmd"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store/pgstore"
	"github.com/heartline-mqtt/heartline/wire"
)

// serveHeartline is main, in a process of these tests.
func serveHeartline() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return cmd.Run(ctx, cmd.IO{Args: os.Args[1:], Environ: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

// served is a node: `heartline serve` in a process of its own.
type served struct {
	name       string
	cmd        *exec.Cmd
	log        *os.File
	ended      chan struct{}
	mqtt, http string
}

// machine is a place where a node runs.
type machine struct {
	enter []string                    // the program that runs another there, with its arguments
	reach func(address string) string // an address of this machine for one on the loopback of that
}

// fleet is nodes, their database, devices and backends, and the ledger of it all.
type fleet struct {
	*testing.T
	pg    *testtool.Postgres
	db    *pgstore.DB
	env   []string
	extra map[string][]string // beside env, by the name of the node
	// machines are those of nodes that do not run on this one, by the name of the node.
	machines map[string]machine
	// program is what start runs: this one, or that of another version.
	program string
	sim     *apnssim.Server
	away    map[string]bool // accounts whose devices are pushed to
	loads   int
	keeps   int // deliveries to them at most that earlier judgements have left

	mu       sync.Mutex
	codes    map[byte]int // that devices were told at the end of a connection
	nodes    []*served    // that clients know of, as the list of a load balancer that looks at nothing
	accepted map[string]string
	order    map[string][]string // of accepted, by account
	repeated int                 // requests that had to be repeated
	refused  []string            // that were not accepted at the third try
	slowest  time.Duration
	got      map[string][]string // by account: in the order in which they came first
	seen     map[string]bool
	faults   []string
}

// newFleet returns a fleet whose nodes share the partitions.
func newFleet(t *testing.T, names ...string) *fleet {
	pg := newPostgres(t)
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	f.begin(names...)
	return f
}

func newPostgres(t *testing.T, settings ...string) *testtool.Postgres {
	t.Helper()
	testtool.NeedPostgres(t)
	pg, err := testtool.NewPostgres(settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

// newFleetOn returns a fleet without nodes.
func newFleetOn(t *testing.T, pg *testtool.Postgres, url string) *fleet {
	f := &fleet{
		T: t, pg: pg, program: os.Args[0], extra: map[string][]string{}, away: map[string]bool{}, codes: map[byte]int{}, accepted: map[string]string{}, order: map[string][]string{}, got: map[string][]string{}, seen: map[string]bool{},
	}
	var err error
	if f.db, err = pgstore.Open(t.Context(), pgstore.Options{URL: url}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.db.Close)
	if f.sim, err = apnssim.Start(apnssim.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.sim.Close() })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, f.sim.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	key := f.sim.Key()
	f.env = append(os.Environ(), "NODE_SERVES=1", "HEARTLINE_STORE_ENGINE=postgres", "HEARTLINE_STORE_POSTGRES_URL="+url, "HEARTLINE_CLUSTER_ADDRESS=127.0.0.1:0",
		"HEARTLINE_FALLBACK_APNS_ENABLED=true", "HEARTLINE_FALLBACK_APNS_ENDPOINT="+f.sim.URL(), "HEARTLINE_FALLBACK_APNS_CA_FILE="+ca,
		"HEARTLINE_FALLBACK_APNS_KEY="+string(key.PEM), "HEARTLINE_FALLBACK_APNS_TEAM_ID="+key.TeamID,
		"HEARTLINE_FALLBACK_APNS_TOPIC=com.example.app",
		"HEARTLINE_DELIVERY_MAX_OUTSTANDING_PER_DEVICE=100000") // devices are away for minutes of load
	return f
}

// begin starts nodes and returns when they share the partitions.
func (f *fleet) begin(names ...string) {
	f.Helper()
	for _, name := range names {
		f.nodes = append(f.nodes, f.start(name))
	}
	f.balanced(len(names))
}

// keyID names the provider key of a node, by which the stand-in for Apple tells the nodes apart.
func keyID(name string) string { return (strings.ToUpper(name) + "0000000000")[:10] }

// start starts a node and returns when it is ready.
func (f *fleet) start(name string) *served {
	f.Helper()
	n := &served{name: name, ended: make(chan struct{})}
	at, elsewhere := f.machines[name]
	args := append(slices.Clone(at.enter), f.program, "serve", "--data-dir", f.TempDir(), "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json")
	n.cmd = exec.CommandContext(context.Background(), args[0], args[1:]...)
	n.cmd.Env = slices.Concat(f.env, []string{"HEARTLINE_CLUSTER_NAME=" + name, "HEARTLINE_FALLBACK_APNS_KEY_ID=" + keyID(name)}, f.extra[name])
	var err error
	if n.log, err = os.Create(filepath.Join(f.TempDir(), name+".log")); err != nil {
		f.Fatal(err)
	}
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		f.Fatal(err)
	}
	go func() {
		_ = n.cmd.Wait() // its exit code is asked for
		close(n.ended)
	}()
	f.Cleanup(func() {
		_ = n.cmd.Process.Kill() // it may have ended
		<-n.ended
		text, _ := os.ReadFile(n.log.Name())
		if bytes.Contains(text, []byte("DATA RACE")) || bytes.Contains(text, []byte("panic:")) {
			f.Errorf("node %s has a race or a panic", name)
		}
		if f.Failed() || os.Getenv("NODE_LOGS") != "" {
			f.Logf("log of %s:\n%s", name, text[max(0, len(text)-20000):])
		}
	})
	f.await("node "+name, func() bool {
		text, _ := os.ReadFile(n.log.Name())
		for line := range bytes.Lines(text) {
			var ready struct{ Msg, MQTT, HTTP string }
			if json.Unmarshal(line, &ready) == nil && ready.Msg == "heartline is ready" {
				n.mqtt, n.http = ready.MQTT, ready.HTTP
				if elsewhere {
					n.mqtt, n.http = at.reach(n.mqtt), at.reach(n.http)
				}
				return true
			}
		}
		select {
		case <-n.ended:
			f.Fatalf("node %s has ended", name)
		default:
		}
		return false
	})
	return n
}

func (f *fleet) await(what string, ok func() bool) {
	f.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.Fatal(what, "did not come within 3 min")
		}
	}
}

// balanced waits until n nodes share all partitions.
func (f *fleet) balanced(n int) {
	f.Helper()
	f.await("a balance", func() bool {
		lives, err := f.db.Members(f.Context()) // one that is killed is among them until it is taken over
		return err == nil && len(lives) == n && sharedBy(f.T, f.db, n)
	})
}

// node returns one of the nodes, another each time.
func (f *fleet) node(i int) *served {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[i%len(f.nodes)]
}

// replace has clients know of a successor.
func (f *fleet) replace(n, by *served) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[slices.Index(f.nodes, n)] = by
}

// post calls the API of a node.
func (f *fleet) post(n *served, method, path, body string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.http+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// notification is what the API shows of one.
type notification struct {
	State     string
	ExpiresAt string `json:"expires_at"`
}

// get reads a notification at a node.
func (f *fleet) get(n *served, path string) (v notification, err error) {
	resp, err := http.Get("http://" + n.http + path)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return v, fmt.Errorf("%s at %s: %s", path, n.name, resp.Status)
	}
	return v, json.NewDecoder(resp.Body).Decode(&v)
}

// backend asks for notifications for an account, one after the other, at the nodes in
// turn. What a node refuses is asked for again at the next, with the same ID.
func (f *fleet) backend(account string, seed int, enough <-chan struct{}) {
	load := f.loads
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-enough:
			return
		}
		id := fmt.Sprintf("%s-%d-%d", account, load, i)
		body := fmt.Sprintf(`{"id":%q,"account":%q,"title":"t"}`, id, account)
		began := time.Now()
		var why []string
		for try := range 3 {
			status, err := f.post(f.node(seed+i+try), http.MethodPost, "/v1/notifications", body)
			if err == nil && (status == http.StatusAccepted || status == http.StatusOK) {
				why = nil
				f.mu.Lock()
				f.accepted[id] = account
				f.order[account] = append(f.order[account], id)
				f.slowest = max(f.slowest, time.Since(began))
				if try > 0 {
					f.repeated++
				}
				f.mu.Unlock()
				break
			}
			why = append(why, fmt.Sprint(status, " ", err))
		}
		if why != nil {
			f.mu.Lock()
			f.refused = append(f.refused, fmt.Sprint(id, why))
			f.mu.Unlock()
		}
	}
}

// device keeps a device connected, at the next node after each loss, until its test ends.
func (f *fleet) device(account string, i int) {
	for ; f.Context().Err() == nil; i++ {
		if err := f.connection(f.Context(), account, f.node(i)); err != nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-f.Context().Done():
			}
		}
	}
}

// connection is one connection of a device, until it or ctx ends. It acknowledges
// everything.
func (f *fleet) connection(ctx context.Context, account string, n *served) error {
	c, err := rawmqtt.Dial(n.mqtt, 5)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, c.Close)()
	if pk, err := c.Connect(rawmqtt.Connect{ID: "phone-" + account, Username: account, Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
		return fmt.Errorf("CONNACK 0x%02x, %w", pk.ReasonCode, err)
	}
	err = c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: "heartline/devices/phone-" + account + "/notifications", Qos: 1}},
	})
	if err != nil {
		return err
	}
	here := map[string]bool{} // on this connection
	for {
		pk, err := c.Read(0)
		if err != nil {
			return nil // lost
		}
		switch pk.FixedHeader.Type {
		case packets.Disconnect:
			f.mu.Lock()
			f.codes[pk.ReasonCode]++
			f.mu.Unlock()
		case packets.Publish:
			var p wire.Pseudo
			if err := json.Unmarshal(pk.Payload, &p); err != nil {
				return err
			}
			f.hear(account, &p, here)
			if err := c.Puback(pk.PacketID); err != nil {
				return err
			}
		}
	}
}

func (f *fleet) hear(account string, p *wire.Pseudo, here map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if here[p.ID] && !p.Redelivery {
		f.faults = append(f.faults, "twice in a connection: "+p.ID)
	}
	here[p.ID] = true
	if !f.seen[p.ID] {
		f.seen[p.ID] = true
		f.got[account] = append(f.got[account], p.ID)
	}
}

// devices makes accounts known, each with a device: every fourth is away and has a push
// token, the others connect.
func (f *fleet) devices(n int) {
	f.Helper()
	var all sync.WaitGroup
	f.Cleanup(all.Wait)
	for i := range n {
		account := fmt.Sprint("account", i)
		body := "{}"
		if f.away[account] = i%4 == 0; f.away[account] {
			body = fmt.Sprintf(`{"apns":{"token":"%064x","topic":"com.example.app","environment":"production"}}`, i+1)
		}
		if status, err := f.post(f.node(i), http.MethodPut, "/v1/accounts/"+account+"/devices/phone-"+account, body); err != nil || status >= 300 {
			f.Fatal(status, err)
		}
		if !f.away[account] {
			all.Go(func() { f.device(account, i) })
		}
	}
}

// load has a backend ask for each account until stop is called.
func (f *fleet) load() (stop func()) {
	f.loads++
	enough := make(chan struct{})
	var backends sync.WaitGroup
	i := 0
	for account := range f.away {
		seed := i
		i++
		backends.Go(func() { f.backend(account, seed, enough) })
	}
	return func() {
		close(enough)
		backends.Wait()
	}
}

// judge waits until everything is delivered or pushed, and counts since the judgement
// before. So many second pushes, and refused requests, may be.
func (f *fleet) judge(what string, maySecond, mayRefuse int) {
	f.Helper()
	away := f.away
	f.await("delivery of all", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		pushed := f.pushed()
		for id, account := range f.accepted {
			if !f.seen[id] && !(away[account] && pushed[id] > 0) {
				return false
			}
		}
		return true
	})
	var st pgstore.Status
	waiting := 0
	f.await("the end of all deliveries to connected devices", func() (ok bool) {
		var err error
		st, err = f.db.Status(f.Context())
		f.mu.Lock()
		defer f.mu.Unlock()
		waiting = f.keeps + len(f.refused) // some of these may have been accepted
		for _, account := range f.accepted {
			if away[account] {
				waiting++
			}
		}
		return err == nil && int(st.Outstanding) <= waiting
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	second := 0
	for _, n := range f.pushed() {
		if n > 1 {
			second += n - 1
		}
	}
	disorder := 0
	for account, got := range f.got {
		want := slices.DeleteFunc(slices.Clone(f.order[account]), func(id string) bool { return !f.seen[id] })
		got = slices.DeleteFunc(slices.Clone(got), func(id string) bool { return f.accepted[id] == "" })
		if !slices.Equal(got, want) {
			disorder++
		}
	}
	f.Logf("%s: accepted %d, refused %d, repeated at the next node %d, unaccounted for %d, devices with disorder %d, duplicates in a connection %d, second accepted pushes %d of %d, slowest answer %v",
		what, len(f.accepted), len(f.refused), f.repeated, st.Unaccounted(), disorder, len(f.faults), second, len(f.pushed()), f.slowest.Round(10*time.Millisecond))
	if len(f.refused) > mayRefuse || second > maySecond || disorder+len(f.faults) > 0 || st.Unaccounted() != 0 {
		f.Errorf("%s: refused %v, faults %v", what, f.refused[:min(5, len(f.refused))], f.faults)
	}
	f.refused, f.faults, f.repeated, f.slowest, f.keeps = nil, nil, 0, 0, waiting
	for id := range f.accepted { // it is judged
		delete(f.accepted, id)
	}
	clear(f.order)
	clear(f.got)
	f.sim.Clear()
}

// pushed returns how many pushes Apple has accepted, by notification.
func (f *fleet) pushed() map[string]int {
	n := map[string]int{}
	for _, r := range f.sim.Received() {
		if r.Status == http.StatusOK {
			var p struct{ Heartline struct{ ID string } }
			if err := json.Unmarshal(r.Payload, &p); err == nil {
				n[p.Heartline.ID]++
			}
		}
	}
	return n
}

// Each node in turn is stopped with SIGTERM and started again under load: no request is
// refused that the next node does not accept, nothing is pushed twice, every device is told to
// use another server, and nobody has to take anything over.
func TestRollingRestart(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	f := newFleet(t, "one", "two", "three")
	f.devices(60)
	stop := f.load()
	for _, n := range slices.Clone(f.nodes) {
		began := time.Now()
		if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-n.ended:
		case <-time.After(time.Minute): // cluster.drain + 20 s, and some more
			t.Fatal("the stop of", n.name, "does not end")
		}
		stopped := time.Since(began)
		if code := n.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d of %s", code, n.name)
		}
		began = time.Now()
		f.replace(n, f.start(n.name))
		started := time.Since(began)
		f.balanced(3)
		t.Logf("%s: stopped after %v, ready again %v later, with its share %v after that", n.name, stopped.Round(10*time.Millisecond), started.Round(10*time.Millisecond), (time.Since(began) - started).Round(10*time.Millisecond))
	}
	stop()
	f.judge("rolling restart", 0, 0)
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.codes {
		if c != packets.ErrUseAnotherServer.Code && c != packets.ErrSessionTakenOver.Code {
			t.Errorf("devices were told 0x%02x %d times", c, f.codes[c])
		}
	}
	if f.codes[packets.ErrUseAnotherServer.Code] == 0 {
		t.Error("no device was told to use another server")
	}
	for _, n := range f.nodes {
		resp, err := http.Get("http://" + n.http + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || !bytes.Contains(text, []byte("\nheartline_cluster_takeovers_total 0\n")) {
			t.Errorf("node %s has taken over from another, or does not say: %v", n.name, err)
		}
	}
}

// Faults of the program in three processes: a node killed that owns accounts and has devices
// and pushes under way, one paused with 1,000 pushes queued, a device that hops between
// nodes, the database killed.
func TestFaultsOfThreeServers(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	f := newFleet(t, "one", "two", "three")
	f.devices(60)

	stop := f.load()
	f.until(300)
	one := f.nodes[0]
	if err := one.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-one.ended
	f.replace(one, f.start("one"))
	f.balanced(3)
	stop()
	f.judge("owner and edge killed", 15, 0) // one under way for each registration

	f.sim.Script(apnssim.Script{Delay: time.Second})
	stop = f.load()
	f.until(5000) // a quarter of them pushes, of which 15 a second are answered
	two := f.nodes[1]
	if err := two.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Second) // the fault
	if err := two.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	f.sim.ClearScripts()
	stop()
	f.judge("owner and edge paused for 20 s, pushes queued", 15, 0)
	hopping, land := context.WithTimeout(t.Context(), 30*time.Second)
	defer land()
	stop = f.load()
	hops := 0
	for ; hopping.Err() == nil; hops++ {
		here, leave := context.WithTimeout(hopping, 100*time.Millisecond)
		_ = f.connection(here, "account0", f.node(hops)) // it is cut off by the test
		leave()
	}
	stop()
	f.judge(fmt.Sprint("a device hops between nodes, ", hops, " times"), 0, 0)

	stop = f.load()
	f.until(300)
	f.pg.Kill()
	time.Sleep(8 * time.Second) // the fault: longer than the lease
	if err := f.pg.Start(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	f.mu.Lock()
	before := len(f.accepted)
	f.mu.Unlock()
	f.until(before + 1)
	t.Logf("the first request was accepted %v after the database was back", time.Since(back).Round(10*time.Millisecond))
	f.until(before + 300)
	t.Logf("and 300 %v after", time.Since(back).Round(10*time.Millisecond))
	stop()
	f.judge("database killed, away for 8 s", 15, 1<<20)
}

// until waits until so many requests have been accepted since the last judgement.
func (f *fleet) until(n int) {
	f.Helper()
	f.await(fmt.Sprint(n, " accepted requests"), func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.accepted) >= n
	})
}

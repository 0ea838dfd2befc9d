package nodes

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

var outstanding = flag.Int("outstanding", 1_000_000, "deliveries that wait while a node is killed, with -nodes")

// each is how many deliveries wait for each device.
const each = 250

func waitingAccount(i int) string { return fmt.Sprintf("waiting%06d", i) }

// fill has n deliveries of 250 bytes wait for devices that are away, each of an account of
// its own. It writes them as one node's store does, without a Core.
func (f *fleet) fill(n int) {
	f.Helper()
	db, err := pgstore.Open(f.Context(), pgstore.Options{URL: f.pg.URL("admin", "postgres", ""), Name: "filler", Lease: time.Hour})
	if err != nil {
		f.Fatal(err)
	}
	defer db.Close()
	node, err := db.Join(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	engine, err := node.Open(false)
	if err != nil {
		f.Fatal(err)
	}
	apply := func(b *delivery.Batch) {
		if err := engine.Apply(b); err != nil {
			f.Fatal(err)
		}
	}
	accounts := n / each
	for from := 0; from < accounts; from += 1000 {
		b := &delivery.Batch{}
		for i := from; i < min(from+1000, accounts); i++ {
			b.PutDevices = append(b.PutDevices, delivery.Device{ID: "phone-" + waitingAccount(i), Account: waitingAccount(i), SeenAt: time.Now()})
		}
		apply(b)
	}
	step := uint64(cluster.Parts)
	first := uint64(time.Now().Add(-time.Hour).UnixNano()) / step * step
	body := strings.Repeat("x", 250)
	for from := 0; from < n; from += 2000 {
		b := &delivery.Batch{}
		for i := from; i < min(from+2000, n); i++ {
			account := waitingAccount(i % accounts)
			seq := delivery.Seq(first + uint64(i)*step + uint64(cluster.Partition(account)))
			at := time.Unix(0, int64(seq)).UTC()
			c := &delivery.Notification{
				Seq: seq, ID: delivery.NewID(seq), Account: account, Title: "title", Body: body, Ack: delivery.AckReceived, Urgency: delivery.UrgencyHigh,
				Fallback: true, AcceptedAt: at, ExpiresAt: at.Add(24 * time.Hour), Devices: []string{"phone-" + account},
			}
			r := delivery.NewRecord(c, c.Devices[0])
			r.State = delivery.StateWaiting
			b.Accept, b.Update = append(b.Accept, delivery.Acceptance{Notification: c}), append(b.Update, r)
		}
		b.Sync = from+2000 >= n
		apply(b)
	}
	if err := engine.Close(); err != nil {
		f.Fatal(err)
	}
	if err := node.Leave(f.Context()); err != nil {
		f.Fatal(err)
	}
}

// resident is the memory of a node in MB.
func (f *fleet) resident(n *served) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		f.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		f.Fatal(err)
	}
	return kib / 1024
}

// TestOutstandingTakenOver prints how long the accounts of a killed node are without an owner
// while a million deliveries wait: a backend asks for each of its partitions until it is
// answered.
func TestOutstandingTakenOver(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	pg := newPostgres(t)
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	began := time.Now()
	f.fill(*outstanding)
	filled := time.Since(began)
	size, err := f.pg.SQL("postgres", "SELECT string_agg(c.relname || ' ' || pg_total_relation_size(c.oid), ', ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'heartline' AND c.relkind = 'r' AND pg_total_relation_size(c.oid) > 1000000")
	if err != nil {
		t.Fatal(err)
	}
	t.Log("bytes of the tables:", size)
	began = time.Now()
	f.nodes = append(f.nodes, f.start("one"))
	alone := time.Since(began)
	f.nodes = append(f.nodes, f.start("two"), f.start("three"))
	f.balanced(3)
	t.Logf("%d deliveries filled in %v; the first node was ready after %v, and three had their shares %v after that; resident %.0f, %.0f and %.0f MB",
		*outstanding, filled.Round(time.Second), alone.Round(10*time.Millisecond), (time.Since(began) - alone).Round(10*time.Millisecond),
		f.resident(f.nodes[0]), f.resident(f.nodes[1]), f.resident(f.nodes[2]))

	one := f.nodes[0]
	members, err := f.db.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parts, err := f.db.Parts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	life := members[slices.IndexFunc(members, func(m pgstore.Member) bool { return m.Name == "one" })].ID
	lost := map[uint16]string{} // an account of each partition
	for i := range *outstanding / each {
		if part := cluster.Partition(waitingAccount(i)); parts[part].Node == life {
			lost[part] = waitingAccount(i)
		}
	}
	if err := one.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	<-one.ended
	f.nodes = f.nodes[1:]
	var mu sync.Mutex
	var served []time.Duration
	var asking sync.WaitGroup
	for part, account := range lost {
		asking.Go(func() {
			body := fmt.Sprintf(`{"id":"probe-%d","account":%q,"title":"t"}`, part, account)
			for try := 0; time.Since(began) < time.Minute; try++ {
				status, err := f.post(f.node(int(part)+try), http.MethodPost, "/v1/notifications", body)
				if err == nil && (status == http.StatusAccepted || status == http.StatusOK) {
					mu.Lock()
					served = append(served, time.Since(began))
					mu.Unlock()
					return
				}
			}
		})
	}
	asking.Wait()
	if len(served) != len(lost) {
		t.Fatalf("%d of %d partitions were served within a minute", len(served), len(lost))
	}
	slices.Sort(served)
	f.balanced(2)
	t.Logf("the node of %d partitions killed: the first served after %v, half after %v, all after %v; resident %.0f and %.0f MB", len(served),
		served[0].Round(10*time.Millisecond), served[len(served)/2].Round(10*time.Millisecond), served[len(served)-1].Round(10*time.Millisecond), f.resident(f.nodes[0]), f.resident(f.nodes[1]))
	st, err := f.db.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := *outstanding + len(served); int(st.Outstanding) != want || st.Unaccounted() != 0 {
		t.Errorf("%d deliveries are outstanding and %d unaccounted for, want %d and 0", st.Outstanding, st.Unaccounted(), want)
	}
}

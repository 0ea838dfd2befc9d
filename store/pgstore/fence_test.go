package pgstore_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
	"github.com/heartline-mqtt/heartline/store/storetest"
)

func note(seq delivery.Seq, id string, devices ...string) delivery.Acceptance {
	at := time.Unix(0, int64(seq)).UTC()
	return delivery.Acceptance{Notification: &delivery.Notification{
		Seq: seq, ID: id, Account: "ann", Title: "t", AcceptedAt: at, ExpiresAt: at.Add(time.Hour), Devices: devices,
	}}
}

// fenceOff ends the life of the only node on a database, as another node would.
func fenceOff(t *testing.T, o pgstore.Options) {
	t.Helper()
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	members, err := db.Members(t.Context())
	if err != nil || len(members) != 1 {
		t.Fatalf("%d nodes (error %v), want 1", len(members), err)
	}
	if ok, err := db.FenceOff(t.Context(), members[0]); err != nil || !ok {
		t.Fatalf("fenced off: %v (error %v)", ok, err)
	}
}

// TestFenced: nothing of any kind of batch is visible once another node has taken over.
func TestFenced(t *testing.T) {
	k := delivery.Key{Seq: 1, Device: "a"}
	for name, b := range map[string]*delivery.Batch{
		"nothing":      {Sync: true},
		"accept":       {Accept: []delivery.Acceptance{note(2, "i2", "a")}, Sync: true},
		"update":       {Update: []delivery.Record{{Seq: 1, Device: "a", State: delivery.StateWaiting}}},
		"event":        {Events: []delivery.Event{{Seq: 1, Number: 9, Kind: delivery.EventPublished}}},
		"finish":       {Finish: []delivery.Finish{{Key: k, At: time.Unix(1, 0)}}},
		"device":       {PutDevices: []delivery.Device{{ID: "b", Account: "ann", Registrations: []delivery.Registration{{Server: "apns", Token: "aa", Kind: "alert", Claims: true}}}}},
		"no device":    {RemoveDevices: []delivery.DeviceKey{{ID: "a", Account: "ann"}}},
		"assign":       {Assign: []delivery.Key{{Seq: 3, Device: "c"}}},
		"dismissal":    {PutDismissals: []delivery.Dismissal{{Seq: 7, Device: "a", Of: 1, ID: "i1"}}},
		"no dismissal": {RemoveDismissals: []delivery.Key{{Seq: 5, Device: "a"}}},
		"erase":        {Erase: []delivery.Seq{1}},
	} {
		t.Run(name, func(t *testing.T) {
			o := fresh(t)
			n := join(t, o)
			e := open(t, n)
			defer e.Close()
			if err := e.Apply(&delivery.Batch{
				Accept:        []delivery.Acceptance{note(1, "i1", "a"), note(3, "i3", "")},
				PutDevices:    []delivery.Device{{ID: "a", Account: "ann"}},
				PutDismissals: []delivery.Dismissal{{Seq: 5, Device: "a", Of: 1, ID: "i1"}}, Sync: true,
			}); err != nil {
				t.Fatal(err)
			}
			before := storetest.Picture(t, e)
			fenceOff(t, o)
			for range 2 {
				if err := e.Apply(b); !errors.Is(err, store.ErrFenced) || errors.Is(err, store.ErrBroken) {
					t.Errorf("apply: got error %v, want one that wraps ErrFenced", err)
				}
			}
			if err := e.(store.State).ApplyState([]store.StateChange{{Key: "k", Value: []byte("v")}}); !errors.Is(err, store.ErrFenced) {
				t.Errorf("apply state: got error %v, want one that wraps ErrFenced", err)
			}
			if after := storetest.Picture(t, e); after != before {
				t.Errorf("the store was\n%s\nand is\n%s", before, after)
			}
			if err := n.Trusted(); !errors.Is(err, store.ErrFenced) {
				t.Errorf("trusted: got error %v, want one that wraps ErrFenced", err)
			}
			if _, err := n.Open(false); !errors.Is(err, store.ErrFenced) {
				t.Errorf("open again: got error %v, want one that wraps ErrFenced", err)
			}
		})
	}
}

// A database that has failed over may lack that another node has taken over: a lease that is renewed
// there does not count, also where the node writes nothing.
func TestLeaseAfterAFailover(t *testing.T) {
	n := join(t, fresh(t))
	defer n.Close()
	if err := n.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgstore.FailOver(n)
	if err := n.Beat(t.Context()); !errors.Is(err, store.ErrFenced) {
		t.Errorf("renewed: got error %v, want one that wraps ErrFenced", err)
	}
	if err := n.Trusted(); !errors.Is(err, store.ErrFenced) {
		t.Errorf("trusted: got error %v, want one that wraps ErrFenced", err)
	}
}

// A change of the MQTT state is under way while the engine is replaced: its session has ended, and
// the node lives on.
func TestStateOfTheFormerSession(t *testing.T) {
	o := fresh(t)
	n := join(t, o)
	former := open(t, n)
	defer former.Close()
	ctx := t.Context()
	holder, err := pgx.Connect(ctx, postgres(t).URL("admin", "postgres", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(ctx)
	// Open waits for the row of the stream. By then it has raised the numbers of the sessions.
	tx, err := holder.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "SELECT FROM "+o.Schema+".stream FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	waiting := func(want string) func() bool {
		return func() bool {
			return count(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+o.Schema+"%'") == want
		}
	}
	opened := make(chan store.Engine, 1)
	go func() {
		e, err := n.Open(false)
		if err != nil {
			t.Error("open:", err)
		}
		opened <- e
	}()
	eventually(t, "a session that waits", waiting("1"))
	applied := make(chan error, 1)
	go func() {
		applied <- former.(store.State).ApplyState([]store.StateChange{{Key: "k", Value: []byte("v")}})
	}()
	eventually(t, "a change that waits", waiting("2"))
	former.Abandon()
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if e := <-opened; e != nil {
		defer e.Close()
	}
	if err := <-applied; !errors.Is(err, delivery.ErrUnavailable) || errors.Is(err, store.ErrFenced) {
		t.Errorf("apply state: got error %v, want one that wraps ErrUnavailable", err)
	}
	select {
	case <-n.Fenced():
		t.Error("the node has fenced itself off")
	default:
	}
}

// cutter is a proxy to PostgreSQL that breaks the connection after so many bytes.
type cutter struct {
	net.Listener
	to   string
	left atomic.Int64 // bytes from the client until it cuts; negative: never
}

func newCutter(t *testing.T, to string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, to: to}
	c.left.Store(-1)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.serve(conn)
		}
	}()
	return c
}

func (c *cutter) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { _, _ = io.Copy(client, server); client.Close() }()
	buf := make([]byte, 512)
	for {
		n, err := client.Read(buf)
		if left := c.left.Load(); left >= 0 {
			if int64(n) >= left {
				c.left.Store(-1) // once
				_, _ = server.Write(buf[:left])
				return // both ends close
			}
			c.left.Add(int64(-n))
		}
		if n > 0 {
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// TestCutInMidWrite: the connection breaks after any number of bytes of a write. The
// outbox finds out what took effect, and the counters are exact.
func TestCutInMidWrite(t *testing.T) {
	pg := postgres(t)
	o := fresh(t)
	c := newCutter(t, fmt.Sprintf("127.0.0.1:%d", pg.Port))
	o.URL = strings.Replace(o.URL, fmt.Sprint(":", pg.Port), c.Addr().String()[strings.LastIndex(c.Addr().String(), ":"):], 1)
	n := join(t, o)
	seq := delivery.Seq(10)
	rapid.Check(t, func(rt *rapid.T) {
		out, err := store.New(store.Options{Open: n.Open, Gathering: -1, RetryInitial: time.Millisecond, RetryMax: 20 * time.Millisecond})
		if err != nil {
			rt.Fatal(err)
		}
		var cut atomic.Bool
		results := map[delivery.Seq]chan error{}
		commit := func(b *delivery.Batch, of delivery.Seq) {
			done := make(chan error, 1)
			results[of] = done
			out.Commit(b, func(err error) { done <- err })
		}
		for range rapid.IntRange(1, 4).Draw(rt, "writes") {
			first := seq + 1
			b := &delivery.Batch{Sync: true}
			for range rapid.IntRange(1, 3).Draw(rt, "accepts") {
				seq++
				a := note(seq, fmt.Sprint("i", seq), "a", "b")
				if rapid.Bool().Draw(rt, "message") {
					a.Notification.HasMessage, a.Data = true, json.RawMessage(`"`+strings.Repeat("x", 3000)+`"`)
				}
				b.Accept = append(b.Accept, a)
			}
			if !cut.Load() && rapid.Bool().Draw(rt, "cut here") {
				cut.Store(true)
				c.left.Store(int64(rapid.IntRange(0, 12_000).Draw(rt, "after bytes")))
			}
			commit(b, first)
			commit(&delivery.Batch{
				Finish:     []delivery.Finish{{Key: delivery.Key{Seq: first, Device: "a"}, At: time.Unix(1, 0)}},
				Events:     []delivery.Event{{Seq: first, Number: uint64(seq) + 1, Kind: delivery.EventReceived}},
				PutDevices: []delivery.Device{{ID: "a", Account: "ann", SeenAt: time.Unix(int64(seq), 0)}},
			}, 0)
			seq++
			<-results[0]
			if cut.Load() {
				c.left.Store(-1)
			}
		}
		for of, done := range results {
			if of == 0 {
				continue
			}
			refused := <-done
			_, err := out.Notification(of)
			if there := err == nil; there == (refused != nil) {
				rt.Errorf("notification %d: told %v, and reading it says %v", of, refused, err)
			}
			if refused == nil {
				states, err := out.Deliveries(of)
				if err != nil || states[0].State != 0 || states[1].State != delivery.StatePending {
					rt.Errorf("deliveries of %d: %v (error %v)", of, states, err)
				}
				if events, err := out.Timeline(of); err != nil || len(events) != 1 {
					rt.Errorf("timeline of %d: %v (error %v)", of, events, err)
				}
			}
		}
		if err := out.Housekeep(); err != nil {
			rt.Error(err)
		}
		if s := out.Stats(); s.Unaccounted != 0 {
			rt.Errorf("%d deliveries are unaccounted for: %+v", s.Unaccounted, s)
		}
		if err := out.Close(); err != nil {
			rt.Error(err)
		}
	})
}

// A lane whose database has died while it rested sends no write whose outcome would be
// unknown.
func TestDeadWhileResting(t *testing.T) {
	pg := postgres(t)
	o := fresh(t)
	c := newCutter(t, fmt.Sprintf("127.0.0.1:%d", pg.Port))
	o.URL = strings.Replace(o.URL, fmt.Sprint(":", pg.Port), c.Addr().String()[strings.LastIndex(c.Addr().String(), ":"):], 1)
	n := join(t, o)
	e, err := n.Open(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	batch := func(seq delivery.Seq) *delivery.Batch {
		return &delivery.Batch{Sync: true, Accept: []delivery.Acceptance{note(seq, fmt.Sprint("i", seq), "a")}}
	}
	if err := e.Apply(batch(1 << 20)); err != nil {
		t.Fatal(err)
	}
	pgstore.Rest(e)
	if err := e.Apply(batch(2 << 20)); err != nil {
		t.Fatal("after a rest:", err)
	}
	c.left.Store(0)
	pgstore.Rest(e)
	if err := e.Apply(batch(3 << 20)); !errors.Is(err, store.ErrBroken) || !errors.Is(err, store.ErrUnsent) {
		t.Fatalf("the connection is gone: %v", err)
	}
}

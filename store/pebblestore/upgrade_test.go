package pebblestore_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// unpack puts testdata/format1.tar.gz, which commit 91a5e1c made, into the folder
// "data" of fs, synced. In it are devices with and without a token, and
// notifications whose IDs say how far each has come.
func unpack(t *testing.T, fs vfs.FS) {
	t.Helper()
	f, err := os.Open("testdata/format1.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	folders := []string{".", "data", "data/db"}
	for _, d := range folders[1:] {
		if err := fs.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		out, err := fs.Create(path.Join("data", h.Name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, io.LimitReader(r, 1<<20)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(out.Sync(), out.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range folders {
		dir, err := fs.OpenDir(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// upgraded is what a store of format 1 must look like in format 2, a line a thing.
const upgraded = `device offline of offline
device phone of ann
device pushed of pushed: apns com.example.app alert production aa01, held by pushed
device refused of refused: apns com.example.app alert sandbox aa02, held by refused
device watch of ann: apns com.example.watch alert production aa03, held by watch
notification acked: phone acked 1
notification server: phone acked 1
notification message: phone acked 1
notification two: phone acked 1, watch pushed 0 pushed
notification cancelled: phone cancelled 1, watch cancelled 0 pushed
notification pushed: pushed pushed 0 pushed
notification refused: refused waiting 0
notification old: offline superseded 0
notification waiting: offline waiting 0
notification expired: offline expired 0
notification last: offline waiting 0
record waiting: offline waiting, not refused
record last: offline waiting, not refused
record message: phone acked, not refused
record pushed: pushed pushed, not refused
record refused: refused waiting, refused 2
record two: watch pushed, not refused
totals {13 7}
`

func lookUpgraded(t *testing.T, s *pebblestore.Store) string {
	t.Helper()
	var b strings.Builder
	id := func(n *delivery.Notification) string {
		if _, made := delivery.SeqOf(n.ID); made {
			return "server"
		}
		return n.ID
	}
	ok := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(s.Devices("", func(d *delivery.Device) bool {
		fmt.Fprintf(&b, "device %s of %s", d.ID, d.Account)
		for _, r := range d.Registrations {
			holder, err := s.TokenOwner(r.Server, r.Token)
			ok(err)
			fmt.Fprintf(&b, ": %v %s, held by %s", r, r.Token, holder)
		}
		b.WriteString("\n")
		return true
	}))
	var lines []string
	ok(s.List("", 0, func(n *delivery.Notification) bool {
		ds, err := s.Deliveries(n.Seq)
		ok(err)
		line := ""
		for _, d := range ds {
			line += fmt.Sprintf(", %s %v %d", d.Device, d.State, d.Attempts)
			if d.Pushed {
				line += " pushed"
			}
		}
		lines = append(lines, fmt.Sprintf("notification %s: %s\n", id(n), strings.TrimPrefix(line, ", ")))
		return true
	}))
	slices.Reverse(lines)
	b.WriteString(strings.Join(lines, ""))
	ok(s.Unfinished(delivery.Shard{}, func(r *delivery.Record) bool {
		n, err := s.Notification(r.Seq)
		ok(err)
		refused := "not refused"
		if r.PushRefused != delivery.RefusedNot {
			refused = fmt.Sprintf("refused %d", r.PushRefused)
		}
		fmt.Fprintf(&b, "record %s: %s %v, %s\n", n.ID, r.Device, r.State, refused)
		return true
	}))
	totals, err := s.Totals()
	ok(err)
	fmt.Fprintf(&b, "totals %v\n", totals)
	return b.String()
}

func TestUpgrade(t *testing.T) { both(t, testUpgrade) }

func testUpgrade(t *testing.T, journal bool) {
	fs := vfs.NewMem()
	unpack(t, fs)
	if _, err := pebblestore.Open("data", pebblestore.Options{Journal: journal, FS: fs, ReadOnly: true}); err == nil || !strings.Contains(err.Error(), "has format 1") {
		t.Errorf("opened for reading before it is upgraded: error %v", err)
	}
	for range 2 {
		s := open(t, "data", pebblestore.Options{Journal: journal, FS: fs})
		if got := lookUpgraded(t, s); got != upgraded {
			t.Errorf("upgraded to\n%s\nwant\n%s", got, upgraded)
		}
		n, err := s.Prune(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), 1)
		if err != nil || n != 1 {
			t.Errorf("pruned %d (error %v), want 1", n, err)
		}
		closeStore(t, s)
		fs = vfs.NewMem()
		unpack(t, fs)
	}
}

// TestPowerLossWhileUpgrading: whatever of it is on the disk, the next start ends it.
func TestPowerLossWhileUpgrading(t *testing.T) { both(t, testPowerLossWhileUpgrading) }

func testPowerLossWhileUpgrading(t *testing.T, journal bool) {
	fs := vfs.NewCrashableMem()
	unpack(t, fs)
	faulty := newFaulty(fs)
	random := rand.New(rand.NewPCG(5, 6))
	var mu sync.Mutex
	var clones []*vfs.MemFS
	faulty.on(func(errorfs.Op) error { // at each step
		mu.Lock()
		defer mu.Unlock()
		clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[len(clones)%3], RNG: random}))
		return nil
	})
	closeStore(t, open(t, "data", pebblestore.Options{Journal: journal, FS: faulty}))
	for i, c := range clones {
		s, err := pebblestore.Open("data", pebblestore.Options{Journal: journal, FS: c})
		if err != nil {
			t.Errorf("after step %d of %d: %v", i, len(clones), err)
			continue
		}
		if got := lookUpgraded(t, s); got != upgraded {
			t.Errorf("after step %d of %d: upgraded to\n%s\nwant\n%s", i, len(clones), got, upgraded)
		}
		closeStore(t, s)
	}
	t.Logf("%d steps", len(clones))
}

// device is a channel that acknowledges each notification it gets, and says which.
type device chan delivery.Seq

func (d device) Publish(p delivery.Publication) error {
	if !p.Message {
		d <- p.Seq
	}
	go p.Acked()
	return nil
}
func (device) Closed() bool { return false }

// TestUpgradedIsDelivered: outstanding notifications of a store of format 1 are delivered.
func TestUpgradedIsDelivered(t *testing.T) { both(t, testUpgradedIsDelivered) }

func testUpgradedIsDelivered(t *testing.T, journal bool) {
	fs := vfs.NewMem()
	unpack(t, fs)
	box, err := store.New(store.Options{Open: opener("data", pebblestore.Options{Journal: journal, FS: fs}), History: time.Hour * 24 * 365 * 100})
	if err != nil {
		t.Fatal(err)
	}
	core := delivery.New(delivery.Options{
		Windows: delivery.Windows{Ack: time.Minute, Fallback: time.Minute}, Ack: delivery.AckReceived, TTL: time.Hour,
		MaxOutstanding: 100, MaxInflight: 16, ForgetDeviceAfter: time.Hour * 24 * 365 * 100,
	}, box, nil, slog.New(slog.DiscardHandler))
	if err := core.Start(); err != nil {
		t.Fatal(err)
	}
	got := make(device, 100)
	for id, account := range map[string]string{"phone": "ann", "watch": "ann", "offline": "offline", "pushed": "pushed", "refused": "refused"} {
		_, err := core.Online(delivery.OnlineInfo{Device: id, Account: account, Channel: got, Messages: true, Keepalive: time.Minute, App: delivery.AppForeground})
		if err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for range 5 { // all but `message`, of which the data alone is left to be sent
		n, err := core.Notification(<-got)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, n.ID)
	}
	slices.Sort(ids)
	if want := []string{"last", "pushed", "refused", "two", "waiting"}; !slices.Equal(ids, want) {
		t.Errorf("delivered %v, want %v", ids, want)
	}
	if err := errors.Join(core.Stop(context.Background()), box.Close()); err != nil {
		t.Error(err)
	}
}

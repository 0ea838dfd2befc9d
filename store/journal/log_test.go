package journal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/journal"
)

func options(fs vfs.FS) journal.Options {
	return journal.Options{FS: fs, Dir: "j", SegmentBytes: 1 << 10, Spares: 2, Begun: func(string, uint64) error { return nil }}
}

func payload(n uint64) []byte { return bytes.Repeat([]byte{byte(n)}, 50+int(n%50)) }

// written makes a journal of synced frames.
func written(t *testing.T, fs vfs.FS, frames uint64) *journal.Log {
	t.Helper()
	l, err := journal.Begin(options(fs), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := range frames {
		if err := errors.Join(l.Append(n+1, payload(n+1)), l.Sync()); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// replay returns the frames behind `from`, each of which must be whole.
func replay(t *testing.T, fs vfs.FS, from uint64) (frames uint64, end journal.End, err error) {
	t.Helper()
	end, err = journal.Replay(fs, "j", from, func(n uint64, p []byte) error {
		if frames++; n != from+frames || !bytes.Equal(p, payload(n)) {
			t.Errorf("frame %d came at place %d, with %d bytes", n, frames, len(p))
		}
		return nil
	})
	return frames, end, err
}

func edit(t *testing.T, fs vfs.FS, segment uint64, change func([]byte)) {
	t.Helper()
	name := fs.PathJoin("j", journal.Name(segment))
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	change(b)
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReplay(t *testing.T) {
	fs := vfs.NewMem()
	l := written(t, fs, 100)
	for _, from := range []uint64{0, 1, 50, 100} {
		if n, end, err := replay(t, fs, from); n != 100-from || end.Last != 100 || err != nil {
			t.Errorf("from %d: %d frames to %d (error %v)", from, n, end.Last, err)
		}
	}
	// What a table has is freed, and its segments are used again.
	if err := l.Free(50); err != nil {
		t.Fatal(err)
	}
	for n := uint64(101); n <= 200; n++ {
		if err := l.Append(n, payload(n)); err != nil {
			t.Fatal(err)
		}
	}
	if n, end, err := replay(t, fs, 50); n != 150 || end.Last != 200 || err != nil {
		t.Errorf("after recycling: %d frames to %d (error %v)", n, end.Last, err)
	}
	if _, _, err := replay(t, fs, 0); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("frames that were freed are needed: error %v", err)
	}
}

// frame returns where frame i of a segment begins.
func frame(b []byte, i int) int {
	at := 24
	for ; i > 0; i-- {
		at += 24 + int(b[at]) // none is longer than 255
	}
	return at
}

func TestDamage(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, fs vfs.FS, newest uint64)
		want   string // part of the error; "": the end is taken for torn
	}{
		{"middle segment missing", func(t *testing.T, fs vfs.FS, newest uint64) {
			if err := fs.Remove(fs.PathJoin("j", journal.Name(newest-2))); err != nil {
				t.Fatal(err)
			}
		}, "j000000000006.log is missing"},
		{"first segment missing", func(t *testing.T, fs vfs.FS, newest uint64) {
			if err := fs.Remove(fs.PathJoin("j", journal.Name(1))); err != nil {
				t.Fatal(err)
			}
		}, "j000000000001.log is missing"},
		{"frame of another segment", func(t *testing.T, fs vfs.FS, newest uint64) {
			edit(t, fs, newest-1, func(b []byte) { b[frame(b, 3)+30] ^= 1 })
		}, "j000000000007.log is damaged"},
		{"length of a frame of another segment", func(t *testing.T, fs vfs.FS, newest uint64) {
			edit(t, fs, newest-1, func(b []byte) { b[frame(b, 3)+3] ^= 0x80 })
		}, "j000000000007.log is damaged"},
		{"beginning of another segment", func(t *testing.T, fs vfs.FS, newest uint64) {
			edit(t, fs, 2, func(b []byte) { b[9] ^= 1 })
		}, "j000000000002.log is damaged"},
		{"synced frame of the newest", func(t *testing.T, fs vfs.FS, newest uint64) {
			edit(t, fs, newest, func(b []byte) { b[frame(b, 1)+30] ^= 1 })
		}, "j000000000008.log is damaged at byte"},
		{"beginning of the newest", func(t *testing.T, fs vfs.FS, newest uint64) {
			edit(t, fs, newest, func(b []byte) { b[9] ^= 1 })
		}, "j000000000008.log is damaged at its beginning"},
		{"beginning of the last but one, and its first frame", func(t *testing.T, fs vfs.FS, newest uint64) {
			edit(t, fs, newest-1, func(b []byte) { b[9] ^= 1; b[frame(b, 0)+30] ^= 1 })
		}, "j000000000007.log is damaged"},
		{"frame before a segment that was not begun", func(t *testing.T, fs vfs.FS, newest uint64) {
			edit(t, fs, newest, func(b []byte) { b[frame(b, 1)+30] ^= 1 })
			f, err := fs.Create(fs.PathJoin("j", journal.Name(newest+1)), vfs.WriteCategoryUnspecified)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}, "j000000000008.log is damaged at byte"},
		{"last frame", func(t *testing.T, fs vfs.FS, newest uint64) {
			edit(t, fs, newest, func(b []byte) { b[len(b)-1] ^= 1 })
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			written(t, fs, 75)
			_, end, err := replay(t, fs, 0)
			if err != nil || end.Segment != 8 {
				t.Fatalf("the journal ends in segment %d, not 8 (error %v)", end.Segment, err)
			}
			c.damage(t, fs, end.Segment)
			_, end, err = replay(t, fs, 0)
			switch {
			case c.want == "" && (err != nil || end.Last != 74):
				t.Errorf("torn end: frames to %d (error %v)", end.Last, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}

// TestDamageThatTablesHave: where the tables have the frame that is damaged, the frames behind it are replayed.
func TestDamageThatTablesHave(t *testing.T) {
	for _, segment := range []uint64{5, 8} {
		for _, at := range []int{1, 30} { // the length, the payload
			fs := vfs.NewMem()
			written(t, fs, 79)
			var first uint64
			flip := func(i int) {
				edit(t, fs, segment, func(b []byte) {
					first = binary.LittleEndian.Uint64(b[16:])
					b[frame(b, i)+at] ^= 1
				})
			}
			damaged := func(from uint64) {
				var damage *journal.Damage
				if _, _, err := replay(t, fs, from); !errors.As(err, &damage) {
					t.Errorf("byte %d of segment %d: from %d: error %v, want damage", at, segment, from, err)
				}
			}
			flip(1)
			for from := first + 1; from < first+5; from++ {
				if n, end, err := replay(t, fs, from); n != 79-from || end.Last != 79 || err != nil {
					t.Errorf("byte %d of segment %d: from %d: %d frames to %d (error %v)", at, segment, from, n, end.Last, err)
				}
			}
			damaged(first)
			flip(1)
			flip(4) // its place is found by the lengths before it
			flip(1)
			damaged(first + 1)
			damaged(first + 3)
		}
	}
}

// TestPowerLoss loses, tears and reorders unsynced writes.
func TestPowerLoss(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	fs := vfs.NewCrashableMem()
	l, err := journal.Begin(options(fs), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	synced, freed := uint64(0), uint64(0)
	for n := uint64(1); n < 400; n++ {
		if err := l.Append(n, payload(n)); err != nil {
			t.Fatal(err)
		}
		switch {
		case n%7 == 0:
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
			synced = n
		case n%50 == 1 && n > 50:
			freed = n - 40
			if err := l.Free(freed); err != nil {
				t.Fatal(err)
			}
		}
		lost := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(n % 101), RNG: random})
		_, end, err := replay(t, lost, freed)
		if err != nil || end.Last < synced || end.Last > n {
			t.Fatalf("after frame %d, %d synced: frames to %d (error %v)", n, synced, end.Last, err)
		}
		again, err := journal.Begin(options(lost), end.Segment, end.Last+1000)
		if err != nil {
			t.Fatal(err)
		}
		if _, after, err := replay(t, lost, end.Last+1000); err != nil || after.Last != end.Last+1000 {
			t.Fatalf("begun again behind frame %d: frames to %d (error %v)", end.Last+1000, after.Last, err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFreeTriesAgain: a segment that could not be removed is removed by the next Free.
func TestFreeTriesAgain(t *testing.T) {
	mem := vfs.NewMem()
	bad := true
	o := options(errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if bad && op.Kind == errorfs.OpRemove {
			return errors.New("it is read-only")
		}
		return nil
	})))
	o.Spares = 0
	l, err := journal.Begin(o, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Append(1, payload(1)), l.Roll()); err != nil {
		t.Fatal(err)
	}
	if err := l.Free(1); err == nil {
		t.Error("freed a segment that cannot be removed")
	}
	bad = false
	if err := l.Free(1); err != nil {
		t.Error(err)
	}
	if names, err := mem.List("j"); len(names) != 1 || err != nil {
		t.Errorf("files %v (error %v), want the newest segment alone", names, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCrashesWhileBeginning: several starts in a row lose power at any step of Begin. Each time the journal is whole.
func TestCrashesWhileBeginning(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	fs := vfs.NewCrashableMem()
	if err := written(t, fs, 30).Close(); err != nil {
		t.Fatal(err)
	}
	steps := 0
	var start func(fs *vfs.MemFS, last uint64, starts int)
	start = func(fs *vfs.MemFS, last uint64, starts int) {
		_, end, err := replay(t, fs, last)
		if err != nil || end.Last != last {
			t.Fatalf("%d starts before the last: frames to %d, want %d (error %v)", starts, end.Last, last, err)
		}
		if starts == 0 {
			return
		}
		last += 1000
		var lost []*vfs.MemFS
		each := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				lost = append(lost, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100 * (steps % 2), RNG: random}))
				steps++
			}
			return nil
		}))
		l, err := journal.Begin(options(each), end.Segment, last)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		for _, fs := range append(lost, fs) {
			start(fs, last, starts-1)
		}
	}
	start(fs, 30, 3)
	t.Logf("%d steps", steps)
}

func TestBatch(t *testing.T) {
	at := time.Date(2026, 11, 3, 9, 30, 0, 123456789, time.UTC)
	k := delivery.Key{Seq: 7, Device: "phone"}
	b := &delivery.Batch{
		Accept: []delivery.Acceptance{
			{Notification: &delivery.Notification{Seq: 7, ID: "a", Account: "ann", Title: "Tür", Devices: []string{"phone"}, AcceptedAt: at}, Data: []byte("{}")},
			{Notification: &delivery.Notification{Seq: 8, ID: "b", Account: "ann", AcceptedAt: at}},
		},
		Assign: []delivery.Key{k},
		Update: []delivery.Record{{Seq: 7, Device: "phone", Attempts: 2, Deadline: at}},
		Events: []delivery.Event{{Seq: 7, Number: 9, Time: at, Kind: delivery.EventPublished, Device: "phone", Attempt: 1}},
		Finish: []delivery.Finish{{Key: k, At: at, State: delivery.StateAcked, Attempts: 1, Pushed: true}},
		PutDevices: []delivery.Device{{ID: "phone", Account: "ann", SeenAt: at, Registrations: []delivery.Registration{
			{Server: "apns", Kind: delivery.KindAlert, Token: "00", RegisteredAt: at, Claims: true}, {Server: "apns", Kind: "voip", Token: "01", RegisteredAt: at},
		}}},
		RemoveDevices:    []delivery.DeviceKey{{ID: "old", Account: "ann"}},
		PutDismissals:    []delivery.Dismissal{{Seq: 7, Device: "phone"}},
		RemoveDismissals: []delivery.Key{k},
		Erase:            []delivery.Seq{3},
	}
	changes := []store.StateChange{{Key: "k", Value: []byte("v")}, {Key: "r", Remove: true}, {Key: "p", Remove: true, Prefix: true}}
	var e journal.Encoder
	p := e.Batch(b, changes)
	got, state, err := journal.Decode(p)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprintf("%+v", got.PutDevices), fmt.Sprintf("%+v", b.PutDevices); a != b {
		t.Errorf("devices %s, want %s", a, b)
	}
	got.PutDevices = b.PutDevices
	if !reflect.DeepEqual(got, b) || !reflect.DeepEqual(state, changes) {
		t.Errorf("got %+v and %+v\nwant %+v and %+v", got, state, b, changes)
	}
	for i := range p { // cut off or flipped: an error or another batch, no panic
		_, _, _ = journal.Decode(p[:i])
		flipped := bytes.Clone(p)
		flipped[i] ^= 0x81
		_, _, _ = journal.Decode(flipped)
	}
}

// noDirs is a file system in which no folder can be opened, once fail is set.
type noDirs struct {
	vfs.FS
	fail bool
}

func (n *noDirs) OpenDir(name string) (vfs.File, error) {
	if n.fail {
		return nil, errors.New("no descriptor left")
	}
	return n.FS.OpenDir(name)
}

// TestFailedLog: a log whose next segment could not be begun refuses everything after that.
func TestFailedLog(t *testing.T) {
	fs := &noDirs{FS: vfs.NewMem()}
	l, err := journal.Begin(options(fs), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	fs.fail = true
	if err := l.Roll(); err == nil {
		t.Error("a segment was begun")
	}
	fs.fail = false
	if err := l.Append(1, []byte("x")); err == nil {
		t.Error("a frame was written behind a failure")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

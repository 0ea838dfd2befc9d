package pebblestore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// filesWith returns the files below dir that hold text.
func filesWith(t *testing.T, dir, text string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // the store has just removed it
			return nil
		}
		if bytes.Contains(b, []byte(text)) {
			names = append(names, filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestScrub: erased data is in no file any more, neither in a table nor in a log,
// used or kept to be reused; the rest is as before.
func TestScrub(t *testing.T) { both(t, testScrub) }

func testScrub(t *testing.T, journal bool) {
	dir := t.TempDir()
	s := open(t, dir, pebblestore.Options{Journal: journal, MemTableBytes: 256 << 10})
	const secret, token = "Kq7vZp2wXr9LmT4c", "b81e5f09a7c3642d"
	put := func(seq delivery.Seq, title string) {
		b := accept(seq)
		n := b.Accept[0].Notification
		n.Title, n.HasMessage = title, true
		// It does not compress, and so can be found in a table.
		b.Accept[0].Data = json.RawMessage(`"` + title + `"`)
		apply(t, s, b)
	}
	registered := delivery.Device{ID: "d", Account: "ann", Registrations: []delivery.Registration{{Server: delivery.ServerAPNs, Kind: delivery.KindAlert, Token: token, Claims: true}}}
	apply(t, s, &delivery.Batch{PutDevices: []delivery.Device{registered}, Sync: true})
	put(1, secret)
	for seq := delivery.Seq(2); seq < 4000; seq++ { // logs and tables, many times over
		put(seq, "another")
	}
	put(4000, secret)
	if len(filesWith(t, dir, secret)) == 0 || len(filesWith(t, dir, token)) == 0 {
		t.Fatal("it is in no file before it is erased")
	}
	if did, err := s.Scrub(context.Background(), time.Now()); did || err != nil {
		t.Errorf("scrubbed %v (error %v), with nothing erased", did, err)
	}
	apply(t, s, &delivery.Batch{Erase: []delivery.Seq{1, 4000}, RemoveDevices: []delivery.DeviceKey{{ID: "d", Account: "ann"}}, Sync: true})
	if did, err := s.Scrub(context.Background(), time.Now().Add(-time.Hour)); did || err != nil {
		t.Errorf("scrubbed %v (error %v), an hour early", did, err)
	}
	closeStore(t, s)
	s = open(t, dir, pebblestore.Options{Journal: journal, MemTableBytes: 256 << 10}) // a restart does not forget it
	if did, err := s.Scrub(context.Background(), time.Now()); !did || err != nil {
		t.Errorf("scrubbed %v (error %v)", did, err)
	}
	for _, text := range []string{secret, token} {
		if names := filesWith(t, dir, text); len(names) > 0 {
			t.Errorf("%q is still in %v", text, names)
		}
	}
	if did, err := s.Scrub(context.Background(), time.Now()); did || err != nil {
		t.Errorf("scrubbed %v (error %v) again", did, err)
	}
	// Without a restart: the logs that wait to be reused hold it.
	put(5000, secret)
	for seq := delivery.Seq(5001); seq < 5001+800; seq++ {
		put(seq, "another")
	}
	apply(t, s, &delivery.Batch{Erase: []delivery.Seq{5000}, Sync: true})
	if did, err := s.Scrub(context.Background(), time.Now()); !did || err != nil {
		t.Errorf("scrubbed %v (error %v)", did, err)
	}
	if names := filesWith(t, dir, secret); len(names) > 0 {
		t.Errorf("%q is still in %v", secret, names)
	}
	n := 0
	if err := s.List("", 0, func(*delivery.Notification) bool { n++; return true }); err != nil || n != 3998+800 {
		t.Errorf("%d notifications are left (error %v), want %d", n, err, 3998+800)
	}
	closeStore(t, s)
}

// TestScrubTriesAgain: a segment that could not be removed is removed by the next scrub.
func TestScrubTriesAgain(t *testing.T) {
	fs := newFaulty(vfs.Default)
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, dir, pebblestore.Options{Journal: true, FS: fs})
	const secret = "Kq7vZp2wXr9LmT4c"
	b := accept(1)
	b.Accept[0].Data = json.RawMessage(`"` + secret + `"`)
	apply(t, s, b, &delivery.Batch{Erase: []delivery.Seq{1}, Sync: true})
	fs.on(failing(syscall.EIO, errorfs.OpRemove)("spare-"))
	if did, err := s.Scrub(t.Context(), time.Now()); !errors.Is(err, syscall.EIO) {
		t.Errorf("scrubbed %v (error %v), with a segment that cannot be removed", did, err)
	}
	fs.off()
	if did, err := s.Scrub(t.Context(), time.Now()); !did || err != nil {
		t.Errorf("scrubbed %v (error %v)", did, err)
	}
	if names := filesWith(t, dir, secret); len(names) > 0 {
		t.Errorf("%q is still in %v", secret, names)
	}
	closeStore(t, s)
}

package integration

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/internal/smalldisk"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestBackup: a backup that is made under load, restored as the operating page says,
// holds every notification that was accepted before it began, and loses no delivery.
func TestBackup(t *testing.T) {
	s := serve(t, "HEARTLINE_DELIVERY_MAX_OUTSTANDING_PER_DEVICE=1000000")
	for i := range 4 {
		s.register("offline", fmt.Sprintf("away-%d", i), "")
	}
	quit := device(s, "online", "phone", func(string) {})
	defer quit()
	retainer, err := rawmqtt.Dial(s.mqtt, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer retainer.Close()
	if _, err := retainer.Connect(rawmqtt.Connect{ID: "retainer", Username: "r", Keepalive: 60}); err != nil {
		t.Fatal(err)
	}
	if err := retainer.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: true}, TopicName: "plant/1", Payload: []byte("wet"), PacketID: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := retainer.Read(patience); err != nil { // its PUBACK
		t.Fatal(err)
	}

	var mu sync.Mutex
	var accepted []string
	var load sync.WaitGroup
	stop := make(chan struct{})
	begun := make(chan struct{}, 8)
	for n := range 8 {
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("n%d-%d", n, i)
				account := []string{"offline", "online"}[i%2]
				status, body, err := call(s.http, http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"account":%q,"title":"under load","id":%q,"data":{"some":"content"}}`, account, id))
				if err != nil || status != http.StatusAccepted {
					t.Errorf("%s: %d %s %v", id, status, body, err)
					return
				}
				mu.Lock()
				accepted = append(accepted, id)
				mu.Unlock()
				if i == 40 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range 8 {
		<-begun
	}
	mu.Lock()
	before := append([]string{}, accepted...)
	mu.Unlock()
	dir := filepath.Join(t.TempDir(), "backups", "today")
	r := s.heartline("backup", dir)
	close(stop)
	load.Wait()
	if r.code != 0 || !strings.HasPrefix(r.out, dir+"  ") || !strings.Contains(r.out, "audit 0") {
		t.Fatalf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(s.data, "backup.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the server keeps a copy: %v", err)
	}
	s.kill() // and its directory is lost

	restored := serve(t, "HEARTLINE_STORE_MIN_FREE=0")
	restored.stop()
	if err := errors.Join(os.RemoveAll(restored.data), os.CopyFS(restored.data, os.DirFS(dir))); err != nil {
		t.Fatal(err)
	}
	restored.start()
	for _, id := range before {
		restored.notification(id)
	}
	status, figures := restored.call(http.MethodGet, "/metrics", "")
	if status != http.StatusOK || !strings.Contains(string(figures), "\nheartline_unaccounted 0\n") {
		t.Errorf("the audit after the restore: %d", status)
	}
	reader, err := rawmqtt.Dial(restored.mqtt, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := reader.Connect(rawmqtt.Connect{ID: "reader", Username: "r", Keepalive: 60}); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Subscribe(1, 0, "plant/#"); err != nil {
		t.Fatal(err)
	}
	if pk, err := reader.Read(patience); err != nil || string(pk.Payload) != "wet" {
		t.Errorf("retained message: %q, %v", pk.Payload, err)
	}
	t.Logf("%d notifications were accepted before the backup began", len(before))
	restored.stop()
}

// backup makes a backup. The server may not have noticed yet that the one before was broken off.
func (s *server) backup(dir string) (r result) {
	await(s.t, "the end of the backup before", func() bool {
		r = s.heartline("backup", dir)
		return !strings.Contains(r.errors, "another backup is being made")
	})
	return r
}

// TestBackupRefused: each with its reason, and nothing is left behind.
func TestBackupRefused(t *testing.T) {
	s := serve(t)
	s.register("alice", "phone", "")
	for range 20 {
		s.notify(`{"account":"alice","title":"x","data":"` + strings.Repeat("y", 100_000) + `"}`)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(dir string, code int, parts ...string) {
		t.Helper()
		r := s.backup(dir)
		if r.code != code || r.out != "" {
			t.Errorf("%s: %+v", dir, r)
		}
		for _, part := range parts {
			if !strings.Contains(r.errors, part) {
				t.Errorf("%s: got %q, want %q in it", dir, r.errors, part)
			}
		}
	}
	refused(full, 2, full+" is not empty (it holds photo.jpg)", "name a new or an empty directory")
	refused(filepath.Join(full, "photo.jpg"), 2, "is a file")
	refused(filepath.Join(full, "photo.jpg", "below"), 2, "is a file")
	refused(s.data, 2, "is not empty")
	refused("/proc/self/heartline/backup", 1, "make the directory")
	t.Run("full disk", func(t *testing.T) {
		disk, free, err := smalldisk.New(512 << 10)
		if err != nil {
			testtool.LeaveOut(t, "a small file system cannot be made: "+err.Error(), "root on Linux 5.2 or newer")
		}
		defer free()
		refused(filepath.Join(disk, "a", "b"), 1, "the disk of", "is full, no backup was made")
		refused(disk, 1, "is full, no backup was made")
		if left, err := os.ReadDir(disk); err != nil || len(left) > 0 {
			t.Errorf("left on the full disk: %v (error %v)", left, err)
		}
	})
	empty := t.TempDir()
	if r := s.backup(empty); r.code != 0 {
		t.Errorf("after the full disk: %+v", r)
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) == 0 {
		t.Errorf("the backup holds %v (error %v)", left, err)
	}

	memory := serve(t, "HEARTLINE_STORE_ENGINE=memory")
	target := filepath.Join(t.TempDir(), "new")
	r := memory.heartline("backup", target)
	if r.code != 1 || !strings.Contains(r.errors, "there is nothing to back up: store.engine is memory") {
		t.Errorf("%+v", r)
	}
	memory.stop()
	if r := memory.heartline("backup", target); r.code != 1 || !strings.Contains(r.errors, "nothing listens on") {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left of a refused backup: %v", err)
	}

	// The server dies while it sends.
	pipe := filepath.Join(t.TempDir(), "half")
	s.signal(t, syscall.SIGSTOP)
	cmd := exec.Command(binary, "backup", pipe)
	cmd.Env = environ(t, "HEARTLINE_SERVER="+s.http)
	p := launch(t, cmd)
	await(t, "the command to begin", func() bool { _, err := os.Stat(pipe); return err == nil })
	s.kill()
	if code := p.wait(t); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(pipe); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a backup is left: %v", err)
	}
	// Its next start removes the checkpoint that it had begun.
	s.start()
	s.stop()
}

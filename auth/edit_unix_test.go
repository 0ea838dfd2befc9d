//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestEditsAtTheSameTime: no command loses the edit of another, by whatever name they know
// the file.
func TestEditsAtTheSameTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "users.yaml"), filepath.Join(t.TempDir(), "link.yaml")
	if err := auth.AddToken(path, auth.Entry{Name: "first"}, auth.NewToken()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	const n = 6 // each waits its turn for 10 s at most
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := auth.AddToken([]string{path, link}[i%2], auth.Entry{Name: fmt.Sprint("token-", i)}, auth.NewToken()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	tokens, err := auth.Tokens(path)
	if err != nil || len(tokens) != n+1 {
		t.Errorf("%d tokens, want %d: %v", len(tokens), n+1, err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("the directory holds %v: %v", files, err)
	}
}

// TestEditBehindALinkToNothing: the edit does not make a file where nobody expects it.
func TestEditBehindALinkToNothing(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "users.yaml")
	if err := os.Symlink(filepath.Join(dir, "nothing"), link); err != nil {
		t.Fatal(err)
	}
	want := link + " is a symbolic link to a file that does not exist: make that file, or remove the link"
	if err := auth.AddToken(link, auth.Entry{Name: "one"}, auth.NewToken()); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestEditWhileTheDirectoryIsLocked: who may read the directory can hold its lock, and must not
// hold up an edit for ever.
func TestEditWhileTheDirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users.yaml")
	held, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	testtool.Bubble(t, func(t *testing.T) {
		if err := auth.AddToken(path, auth.Entry{Name: "one"}, auth.NewToken()); err == nil || err.Error() != "another command edits a file of "+dir {
			t.Errorf("while another holds the lock: %v", err)
		}
		time.AfterFunc(5*time.Second, func() { _ = syscall.Flock(int(held.Fd()), syscall.LOCK_UN) })
		if err := auth.AddToken(path, auth.Entry{Name: "one"}, auth.NewToken()); err != nil {
			t.Errorf("after another has held the lock: %v", err)
		}
	})
}

// TestEditKeepsTheOwner: a server that runs as a user of its own can read the file after an
// edit by root.
func TestEditKeepsTheOwner(t *testing.T) {
	if os.Getuid() != 0 {
		testtool.LeaveOut(t, "only root can give a file to another user", "run it as root")
	}
	path := filepath.Join(t.TempDir(), "users.yaml")
	if err := auth.AddToken(path, auth.Entry{Name: "one"}, auth.NewToken()); err != nil {
		t.Fatal(err)
	}
	const uid, gid = 12345, 23456
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := auth.RemoveToken(path, "one"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if is := info.Sys().(*syscall.Stat_t); is.Uid != uid || is.Gid != gid || info.Mode().Perm() != 0o640 {
		t.Errorf("owner %d:%d, mode %04o; want %d:%d, 0640", is.Uid, is.Gid, info.Mode().Perm(), uid, gid)
	}
}

package api_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
)

// TestBackup: admins only; the archive ends with the file that makes it whole, and a
// file that cannot be read cuts it off.
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"FORMAT", "WATERMARK", "db/000001.log", "db/MANIFEST-1"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	removed := 0
	s := serve(t, withTokens, func(o *api.Options, _ *delivery.Options) {
		o.Backup = func() (string, func() error, error) { return dir, func() error { removed++; return nil }, err }
	})
	s.wantProblem(s.do("POST", "/v1/backup", "", "Authorization", "Bearer service"), 403, "this call is for the role admin")
	download := func() (*http.Response, []byte, error) {
		r, err := http.NewRequest(http.MethodPost, s.server.URL+"/v1/backup", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer admin")
		resp, err := s.server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, body, err
	}
	resp, body, rerr := download()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-tar" {
		t.Fatalf("got %s", resp.Status)
	}
	if rerr != nil {
		t.Fatal(rerr)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(body)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		content, rerr := io.ReadAll(r)
		if err != nil || rerr != nil || string(content) != h.Name {
			t.Fatalf("%v %v %q", err, rerr, content)
		}
		names = append(names, h.Name)
	}
	if want := []string{"WATERMARK", "db/000001.log", "db/MANIFEST-1", "FORMAT"}; !slices.Equal(names, want) || removed != 1 {
		t.Errorf("got %v, removed %d times, want %v and once", names, removed, want)
	}

	if err := os.Symlink("nowhere", filepath.Join(dir, "db", "gone")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := download(); err == nil || removed != 2 {
		t.Errorf("cut off with error %v, removed %d times", err, removed)
	}
	err = errors.New("the server's disk is full")
	s.wantProblem(s.do("POST", "/v1/backup", "", "Authorization", "Bearer admin"), 503, "no backup was made: the server's disk is full")

	s = serve(t, withTokens, func(o *api.Options, _ *delivery.Options) { o.NoBackup = "store.engine is memory" })
	s.wantProblem(s.do("POST", "/v1/backup", "", "Authorization", "Bearer admin"), 501, "there is nothing to back up: store.engine is memory")
}

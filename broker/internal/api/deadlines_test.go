package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
)

// overHTTP2 has the API served by a server that speaks HTTP/2, as a host's may.
func (s *service) overHTTP2() {
	s.server.Close()
	s.server = httptest.NewUnstartedServer(s.api)
	s.server.EnableHTTP2 = true
	s.server.StartTLS()
}

// TestPausesOverHTTP2: a stream or a batch that is quiet for longer than a write may take goes on.
func TestPausesOverHTTP2(t *testing.T) {
	s := serve(t)
	const write, pause = 500 * time.Millisecond, 750 * time.Millisecond
	s.api.Hurry(pause, write, 0)
	s.overHTTP2()
	s.device("alice", "phone")
	e := s.stream("")
	batch, results := s.talk()
	for i := range 3 {
		if _, err := fmt.Fprintf(batch, `{"account":"alice","title":"x","id":"t%d"}`+"\n", i); err != nil {
			t.Fatal(err)
		}
		if line, err := results.ReadString('\n'); err != nil || !strings.Contains(line, `"status":202`) {
			t.Fatalf("line %d: %q, %v", i, line, err)
		}
		for line := e.next(); line != ": heartbeat\n"; {
			line = e.next()
		}
		<-time.After(pause) // what is tested is the passing of time itself
	}
	_ = batch.Close()
}

// deadlines is a writer that fails the test where a write has no deadline.
type deadlines struct {
	*httptest.ResponseRecorder
	*testing.T
	armed  bool
	writes int
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.armed = !at.IsZero()
	return nil
}

func (d *deadlines) Write(p []byte) (int, error) {
	d.writes++
	if !d.armed {
		d.Errorf("write %d has no deadline", d.writes)
	}
	return d.ResponseRecorder.Write(p)
}

// TestDeadlinesOfABackup: each write has a deadline, and none runs between two of them.
func TestDeadlinesOfABackup(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"FORMAT", "WATERMARK"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := &deadlines{ResponseRecorder: httptest.NewRecorder(), T: t}
	s := serve(t, withTokens, func(o *api.Options, _ *delivery.Options) {
		o.Backup = func() (string, func() error, error) {
			if w.armed {
				t.Error("a deadline runs while the checkpoint is made")
			}
			return dir, func() error {
				if w.armed {
					t.Error("a deadline runs after the last file")
				}
				return nil
			}, nil
		}
	})
	r := httptest.NewRequest(http.MethodPost, "/v1/backup", http.NoBody)
	r.RemoteAddr = "127.0.0.1:9"
	r.Header.Set("Authorization", "Bearer admin")
	s.api.ServeHTTP(w, r)
	if w.Code != 200 || w.writes == 0 || !w.armed {
		t.Errorf("status %d, %d writes, the end of the answer has a deadline: %v, %q", w.Code, w.writes, w.armed, w.Body)
	}
}

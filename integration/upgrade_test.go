package integration

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestUpgradedDirectory: a data directory that an earlier build left, of format 1, is
// opened, and everything outstanding in it is delivered.
func TestUpgradedDirectory(t *testing.T) {
	s := &server{t: t, data: filepath.Join(t.TempDir(), "data"), env: environ(t)}
	s.args = []string{"serve", "--data-dir", s.data, "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json"}
	extract(t, "../store/pebblestore/testdata/format1.tar.gz", s.data)
	s.start()
	outstanding := func() (ids []string) {
		for _, state := range []string{"pending", "published", "pushing", "pushed", "waiting"} {
			var list wire.NotificationList
			s.must(http.MethodGet, "/v1/notifications?state="+state, "", &list)
			for _, n := range list.Notifications {
				ids = append(ids, n.ID)
			}
		}
		slices.Sort(ids)
		return ids
	}
	want := []string{"last", "pushed", "refused", "two", "waiting"}
	if got := outstanding(); !slices.Equal(got, want) {
		t.Fatalf("outstanding after the upgrade: %v, want %v", got, want)
	}
	got := &received{}
	for device, account := range map[string]string{"offline": "offline", "pushed": "pushed", "refused": "refused", "watch": "ann", "phone": "ann"} {
		defer everything(s, account, device, got.add)()
	}
	await(t, "everything outstanding to be delivered", func() bool { return len(outstanding()) == 0 })
	await(t, "the message that was on its way", func() bool { return got.has("messages message") })
	for _, id := range want {
		if !got.has("notifications " + id) {
			t.Errorf("%s was not received", id)
		}
		if n := s.notification(id); n.State != "acked" {
			t.Errorf("%s is %s", id, n.State)
		}
	}
	s.stop()
}

// extract unpacks an archive of files.
func extract(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil && !filepath.IsLocal(h.Name) && h.Name != "./" {
			err = errors.New("not local: " + h.Name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(r)
		file := filepath.Join(dir, h.Name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// received collects "notifications ID" and "messages ID".
type received struct {
	mu  sync.Mutex
	all []string
}

func (r *received) add(x string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, x)
}

func (r *received) has(x string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.all, x)
}

// everything connects a device that acknowledges and displays all that it gets.
func everything(s *server, account, id string, got func(string)) (quit func()) {
	s.t.Helper()
	c, err := rawmqtt.Dial(s.mqtt, 5)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Connect(rawmqtt.Connect{ID: id, Username: account, Keepalive: 60, SessionExpiry: 3600}); err != nil {
		s.t.Fatal(err)
	}
	filters := packets.Subscriptions{{Filter: "heartline/devices/" + id + "/notifications", Qos: 1}, {Filter: "heartline/devices/" + id + "/messages", Qos: 1}}
	if err := c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: filters}); err != nil {
		s.t.Fatal(err)
	}
	if err := c.Publish(0, 0, "heartline/devices/"+id+"/state", []byte(`{"app":"foreground"}`)); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			pk, err := c.Read(time.Hour)
			if err != nil {
				return
			}
			if pk.FixedHeader.Type != packets.Publish {
				continue
			}
			var n struct{ ID string }
			if err := json.Unmarshal(pk.Payload, &n); err != nil {
				s.t.Errorf("device %s got %q: %v", id, pk.Payload, err)
			}
			got(path.Base(pk.TopicName) + " " + n.ID)
			if c.Puback(pk.PacketID) != nil {
				return
			}
			if kind := path.Base(pk.TopicName); kind == "notifications" { // some ask for this ack
				if c.Publish(0, 0, "heartline/devices/"+id+"/acks", []byte(`{"id":"`+n.ID+`","status":"displayed"}`)) != nil {
					return
				}
			}
		}
	}()
	return func() { c.Close(); <-done }
}

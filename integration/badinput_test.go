package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// refusedStart is a command line that must not start anything.
type refusedStart struct {
	name string
	args []string // after serve
	env  []string
	uid  uint32   // whom it runs as; 0: as the test
	code int      // 1: it did not work; 2: the command line or the configuration is wrong
	want []string // in this order, a line each
}

func (r refusedStart) check(t *testing.T) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"serve"}, r.args...)...)
	cmd.Env, cmd.Dir = environ(t, r.env...), t.TempDir()
	if r.uid != 0 {
		cmd.Dir = "/" // a test's own directory is for its owner alone
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: r.uid, Gid: r.uid}}
	}
	p := launch(t, cmd)
	if code := p.wait(t); code != r.code {
		t.Errorf("exit code %d, want %d", code, r.code)
	}
	got := p.stderr.all
	if out := p.stdout.String(); out != "" {
		t.Errorf("on standard output: %s", out)
	}
	if len(got) != len(r.want) {
		t.Errorf("got %d lines, want %d:\n%s", len(got), len(r.want), p.stderr)
		return
	}
	for i, want := range r.want {
		if !strings.HasPrefix(got[i], "heartline: ") || !strings.Contains(got[i], want) {
			t.Errorf("line %d is\n%s\nwant heartline: … %s", i+1, got[i], want)
		}
	}
}

// tree is every file below dir with its size.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			files = append(files, fmt.Sprint(path, " ", info.Mode(), " ", info.Size()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestBadConfiguration: every mistake is told, with its key, and nothing is made.
func TestBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "heartline.yaml")
	text := "delivery: {ttl: 2s}\nmqtt: {max_packet_size: lots}\nauth: {mode: open, colour: red}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("mqtt: {address: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	const wrong = "the configuration is wrong:"
	for _, r := range []refusedStart{
		{
			name: "four mistakes in one file", args: []string{"--config", file}, code: 2,
			want: []string{wrong, "auth.colour: ", "mqtt.max_packet_size: ", "auth.mode: must be none, file, jwt, http or tls, got open", "delivery.ttl: must be longer than delivery.ack_window (3s)"},
		},
		{name: "a file that is missing", args: []string{"--config", "nope.yaml"}, code: 2, want: []string{wrong, "nope.yaml: "}},
		{name: "a file that is no YAML", args: []string{"--config", broken}, code: 2, want: []string{wrong, "broken.yaml"}},
		{name: "an unknown variable", env: []string{"HEARTLINE_DELIVERY_ACK_WINDOWS=3s"}, code: 2, want: []string{wrong, "HEARTLINE_DELIVERY_ACK_WINDOWS: "}},
		{name: "a bad variable", env: []string{"HEARTLINE_DELIVERY_TTL=3"}, code: 2, want: []string{wrong, "delivery.ttl: "}},
		{name: "an address for all without authentication", args: []string{"--mqtt-address", ":1883"}, code: 2, want: []string{wrong, "mqtt.address: "}},
		{name: "an unknown flag", args: []string{"--colour", "red"}, code: 2, want: []string{"unknown flag: --colour", "see `"}},
	} {
		t.Run(r.name, func(t *testing.T) { r.check(t) })
	}
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
}

// TestBadDataDirectory: a directory that cannot be used is named, and stays as it
// is.
func TestBadDataDirectory(t *testing.T) {
	s := serve(t)
	s.register("alice", "phone", "")
	id := s.notify(`{"account":"alice","title":"kept"}`)
	root, err := os.MkdirTemp("", "heartline-data-") //nolint:usetesting // t.TempDir lies where no other user may go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil { // another user is to come that far
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(root, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("file", "")
	write("foreign/notes.txt", "mine")
	if err := os.Mkdir(path("readonly"), 0o555); err != nil {
		t.Fatal(err)
	}
	var nobody uint32 // root may write everywhere
	if os.Geteuid() == 0 {
		nobody = 65534
	}
	damaged := serve(t)
	damaged.stop()
	if err := os.WriteFile(filepath.Join(damaged.data, "FORMAT"), []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	headless := serve(t)
	headless.stop()
	manifests, err := filepath.Glob(filepath.Join(headless.data, "db", "MANIFEST-*"))
	if err != nil || len(manifests) == 0 {
		t.Fatal("no manifest", err)
	}
	for _, m := range manifests {
		if err := os.Truncate(m, 10); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []struct {
		refusedStart
		dir  string
		look bool // at what is in it
	}{
		{refusedStart{name: "in use", want: []string{"is in use by another Heartline"}}, s.data, false},
		{refusedStart{name: "a file", want: []string{"is a file; name a directory"}}, path("file"), true},
		{refusedStart{name: "below a file", want: []string{"a part of the path is a file"}}, path("file/data"), false},
		{refusedStart{name: "not writable", uid: nobody, want: []string{"is not writable (permission denied)"}}, path("readonly"), true},
		{refusedStart{name: "in one that is not writable", uid: nobody, want: []string{"cannot be made (permission denied)"}}, path("readonly/data"), false},
		{refusedStart{name: "someone else's", want: []string{"holds other files (notes.txt) and no store"}}, path("foreign"), true},
		{refusedStart{name: "not a store any more", want: []string{"file FORMAT is damaged"}}, damaged.data, true},
		{refusedStart{name: "damaged", want: []string{"restore the directory from a backup"}}, headless.data, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			r.code = 1
			if r.name != "damaged" { // which file it is that is damaged is Pebble's matter
				r.want[0] = "data directory " + r.dir + ": " + r.want[0]
			}
			r.args = []string{"--data-dir", r.dir, "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"}
			var before, after []string
			if r.look {
				before = contents(t, r.dir)
			}
			r.check(t)
			if r.look {
				after = contents(t, r.dir)
			}
			if !slices.Equal(before, after) {
				t.Errorf("before: %v\nafter: %v", before, after)
			}
		})
	}
	if n := s.notification(id); n.State != "waiting" { // the one that was there first goes on
		t.Errorf("got %+v", n)
	}
	s.stop()
}

// contents is tree without directories: the size of one says nothing of its content.
func contents(t *testing.T, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(tree(t, dir), func(line string) bool {
		_, rest, _ := strings.Cut(line, " ")
		return strings.HasPrefix(rest, "d")
	})
}

// TestPortTaken: each listener names its key.
func TestPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	for _, r := range []refusedStart{
		{name: "mqtt", args: []string{"--mqtt-address", address, "--http-address", "127.0.0.1:0"}, code: 1, want: []string{"mqtt.address: " + address + " is in use by another process"}},
		{name: "http", args: []string{"--mqtt-address", "127.0.0.1:0", "--http-address", address}, code: 1, want: []string{"http.address: " + address + " is in use by another process"}},
		{name: "dev", args: []string{"--dev", "--mqtt-address", "127.0.0.1:0", "--http-address", address}, code: 1, want: []string{"http.address: " + address + " is in use by another process"}},
	} {
		t.Run(r.name, func(t *testing.T) { r.check(t) })
	}
}

// badContent is what no backend may say, over HTTP or MQTT, and a part of the
// answer. The account is there, its device too.
var badContent = []struct {
	name, content string
	status        int
	code          byte
	want          string
}{
	{"broken JSON", `{"title":"x"`, 422, 0x99, "JSON"},
	{"no object", `[]`, 422, 0x99, "body"},
	{"nothing", ``, 422, 0x99, ""},
	{"an unknown field", `{"title":"x","titel":"y"}`, 422, 0x99, "titel"},
	{"a field of another type", `{"title":7}`, 422, 0x99, "title"},
	{"nothing to say", `{}`, 422, 0x99, "title"},
	{"a TTL that is none", `{"title":"x","ttl":"soon"}`, 422, 0x99, "ttl: must be a duration"},
	{"a TTL too long", `{"title":"x","ttl":"721h"}`, 422, 0x99, "720h"},
	{"a TTL below 0", `{"title":"x","ttl":"-1s"}`, 422, 0x99, "ttl: must be 0 to 720h (30 days)"},
	{"a bad id", `{"title":"x","id":"a b"}`, 422, 0x99, "id: "},
	{"a bad ack", `{"title":"x","ack":"maybe"}`, 422, 0x99, "ack: "},
	{"an unknown device", `{"title":"x","devices":["other"]}`, 404, 0x90, "other"},
	{"a text too long", `{"title":"` + strings.Repeat("x", 2049) + `"}`, 422, 0x99, "2048"},
	{"data too long", `{"title":"x","data":"` + strings.Repeat("x", 256<<10) + `"}`, 422, 0x99, "262144"},
}

// TestBadRequests: HTTP.
func TestBadRequests(t *testing.T) {
	s := serve(t)
	s.register("alice", "phone", "")
	check := func(name, body string, status int, want string) {
		t.Run(name, func(t *testing.T) {
			got, answer := s.call(http.MethodPost, "/v1/notifications", body)
			var p wire.Problem
			if err := json.Unmarshal(answer, &p); err != nil {
				t.Fatalf("%v in %s", err, answer)
			}
			if got != status || p.Status != status || p.Title == "" || !strings.Contains(p.Detail, want) {
				t.Errorf("%d %s, want %d with %q", got, answer, status, want)
			}
			if len(answer) > 2000 || strings.Contains(string(answer), "goroutine") {
				t.Errorf("a long answer: %s", answer)
			}
		})
	}
	for _, bad := range badContent {
		body := strings.Replace(bad.content, "{", `{"account":"alice",`, 1)
		body = strings.Replace(body, `,}`, `}`, 1)
		check(bad.name, body, bad.status, bad.want)
	}
	check("an unknown account", `{"account":"zoe","title":"x"}`, 404, "zoe")
	check("no account", `{"title":"x"}`, 422, "account")
	check("a body without end", `{"account":"alice","title":"`+strings.Repeat("x", 600<<10)+`"}`, 413, "at most")
	s.wantNothing()
	s.stop()
}

// wantNothing: no notification was accepted.
func (s *server) wantNothing() {
	s.t.Helper()
	var list wire.NotificationList
	s.must(http.MethodGet, "/v1/notifications", "", &list)
	if len(list.Notifications) > 0 {
		s.t.Errorf("accepted all the same: %+v", list.Notifications)
	}
}

// TestBadPublishes: MQTT 5 has a reason code and a reason string for it, and the
// connection goes on; MQTT 3.1.1 has no word but the end of the connection.
func TestBadPublishes(t *testing.T) {
	s := serve(t)
	s.register("alice", "phone", "")
	connect := func(t *testing.T, version byte) *rawmqtt.Client {
		t.Helper()
		c, err := rawmqtt.Dial(s.mqtt, version)
		if err == nil {
			_, err = c.Connect(rawmqtt.Connect{ID: fmt.Sprintf("backend-%d", version), Username: "shop", Keepalive: 60, Clean: true})
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	v5 := connect(t, 5)
	check := func(name, account, content string, code byte, want string) {
		topic := "heartline/accounts/" + account + "/notifications"
		t.Run("5/"+name, func(t *testing.T) {
			if err := v5.Publish(7, 1, topic, []byte(content)); err != nil {
				t.Fatal(err)
			}
			pk, err := v5.Read(patience)
			if err != nil || pk.FixedHeader.Type != packets.Puback || pk.PacketID != 7 || pk.ReasonCode != code || !strings.Contains(pk.Properties.ReasonString, want) {
				t.Errorf("got a packet of type %d, 0x%02x %q, %v; want 0x%02x with %q", pk.FixedHeader.Type, pk.ReasonCode, pk.Properties.ReasonString, err, code, want)
			}
		})
		t.Run("3.1.1/"+name, func(t *testing.T) {
			c := connect(t, 4)
			if err := c.Publish(7, 1, topic, []byte(content)); err != nil {
				t.Fatal(err)
			}
			// There is no negative PUBACK: an answer that would be the same the next time
			// is an ack, and the reason comes on the refusals topic (contract §3).
			if pk, err := c.Read(patience); err != nil || pk.FixedHeader.Type != packets.Puback || pk.PacketID != 7 {
				t.Errorf("got a packet of type %d, %v; want the PUBACK", pk.FixedHeader.Type, err)
			}
		})
	}
	for _, bad := range badContent {
		check(bad.name, "alice", bad.content, bad.code, bad.want)
	}
	check("an unknown account", "zoe", `{"title":"x"}`, 0x90, "zoe")
	s.wantNothing()

	// mosquitto_pub tells its user.
	for version, want := range map[string]string{"mqttv5": "account zoe has no device", "mqttv311": ""} {
		r := s.publish(version, "shop", "pub-"+version, "heartline/accounts/zoe/notifications", `{"title":"x"}`)
		if want == "" && r.errors != "" || !strings.Contains(r.errors, want) {
			t.Errorf("mosquitto_pub -V %s: %+v", version, r)
		}
	}
	s.stop()
}

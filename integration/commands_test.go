package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/wire"
)

// TestConfigPrint: the printed configuration loads again, and prints the same; the defaults
// are the example file.
func TestConfigPrint(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.yaml"), filepath.Join(dir, "second.yaml")
	env := []string{
		"HEARTLINE_DELIVERY_ACK_WINDOW=1500ms", "HEARTLINE_MQTT_MAX_PACKET_SIZE=512KiB", "HEARTLINE_AUTH_JWT_SECRET=do not tell anyone, ever, please",
		`HEARTLINE_FALLBACK_APNS_APPS=[{"topic":"com.example.other","key_file":"k.p8","key_id":"ABC123DEFG","team_id":"DEF123GHIJ"}]`,
	}
	printed := heartline(t, env, "config", "print")
	if printed.code != 0 || printed.errors != "" {
		t.Fatalf("%+v", printed)
	}
	for part, want := range map[string]bool{"ack_window: 1.5s": true, "512KiB": true, "com.example.other": true, "do not tell": false} {
		if strings.Contains(printed.out, part) != want {
			t.Errorf("%q in what is printed: %t, want %t:\n%s", part, !want, want, printed.out)
		}
	}
	if err := os.WriteFile(first, []byte(printed.out), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := heartline(t, nil, "config", "check", "--config", first); r.code != 0 {
		t.Errorf("what is printed is refused: %+v", r)
	}
	// All but the line that says where the secret came from.
	want := regexp.MustCompile("(?m)^ *#.*\n").ReplaceAllString(printed.out, "")
	if again := heartline(t, nil, "config", "print", "--config", first); again.out != want {
		t.Errorf("printed first:\n%s\nthen:\n%s", want, again.out)
	}

	defaults := heartline(t, nil, "config", "print", "--defaults")
	example, err := os.ReadFile("../heartline.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if defaults.out != string(example) {
		t.Error("heartline.example.yaml is not what config print --defaults prints: make example")
	}
	if err := os.WriteFile(second, example, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := heartline(t, nil, "config", "check", "--config", second); r.code != 0 {
		t.Errorf("%+v", r)
	}
}

// TestCommands: the commands that ask a server, on a real one.
func TestCommands(t *testing.T) {
	s := serve(t, "HEARTLINE_DELIVERY_MAX_OUTSTANDING_PER_DEVICE=1000000")
	watch := exec.Command(binary, "watch", "--json")
	watch.Env = environ(t, "HEARTLINE_SERVER="+s.http)
	w := launch(t, watch)
	// It says nothing when it is connected: every event after the first that
	// it shows is certain.
	s.register("zoe", "zoe-phone", "")
	for w.stdout.len() == 0 {
		s.notify(`{"account":"zoe","title":"are you watching?","ttl":"1m"}`)
	}

	if r := s.heartline("devices", "alice"); r.code != 0 || !strings.HasPrefix(r.out, "no devices") {
		t.Errorf("devices: %+v", r)
	}
	if r := s.heartline("send", "--account", "alice", "--title", "One"); r.code != 1 || !strings.Contains(r.errors, "account alice has no device") {
		t.Errorf("send to nobody: %+v", r)
	}
	quit := device(s, "alice", "phone", func(string) {})
	defer quit()
	await(t, "alice's phone", func() bool {
		_, body := s.call("GET", "/v1/accounts/alice/devices/phone", "")
		return strings.Contains(string(body), `"state":"up"`)
	})
	r := s.heartline("send", "--account", "alice", "--title", "One", "--id", "one", "--wait")
	if r.code != 0 || !strings.HasPrefix(r.out, "one  to alice\n") || !inOrder(r.out, "accepted", "published", "received") {
		t.Errorf("send --wait: %+v", r)
	}
	if r := s.heartline("send", "--account", "zoe", "--body", "nobody is there", "--ttl", "1s", "--wait"); r.code != 1 || !inOrder(r.out, "accepted", "waiting", "expired") || !strings.Contains(r.errors, "zoe-phone expired") {
		t.Errorf("send --wait to nobody: %+v", r)
	}
	if r := s.heartline("timeline", "one"); r.code != 0 || !inOrder(r.out, "state         acked", "DEVICE", "phone   acked", "accepted", "published", "received") {
		t.Errorf("timeline: %+v", r)
	}
	r = s.heartline("timeline", "--json", "one")
	var n wire.NotificationView
	if err := json.Unmarshal([]byte(r.out), &n); err != nil || n.ID != "one" || len(n.Timeline) != 3 {
		t.Errorf("timeline --json: %v, %+v", err, r)
	}
	if r := s.heartline("timeline", "two"); r.code != 1 || !strings.Contains(r.errors, `there is no notification "two"`) && !strings.Contains(r.errors, "not found") {
		t.Errorf("timeline of nothing: %+v", r)
	}
	if r := s.heartline("devices"); r.code != 0 || !inOrder(r.out, "ACCOUNT", "alice", "phone", "up", "1m0s", "zoe", "zoe-phone", "down") {
		t.Errorf("devices: %+v", r)
	}
	for _, event := range []string{"accepted", "published", "received"} {
		w.stdout.until(t, `"event":"`+event+`","id":"one"`)
	}
	w.signal(t, syscall.SIGINT)
	if code := w.wait(t); code != 0 || w.stderr.String() != "" {
		t.Errorf("watch ended with %d: %s", code, w.stderr)
	}
	s.stop()
	if r := s.heartline("devices"); r.code != 1 || !strings.Contains(r.errors, "nothing listens on ") {
		t.Errorf("devices of no server: %+v", r)
	}
}

func inOrder(text string, parts ...string) bool {
	for _, p := range parts {
		i := strings.Index(text, p)
		if i < 0 {
			return false
		}
		text = text[i+len(p):]
	}
	return true
}

// TestApnsSim: the stand-in for Apple's server as a process of its own, and a server
// that takes the lines it prints as its configuration.
func TestApnsSim(t *testing.T) {
	cmd := exec.Command(binary, "apns-sim", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--topic", "com.example.app")
	cmd.Env = environ(t)
	sim := launch(t, cmd)
	control := strings.TrimPrefix(sim.stdout.until(t, "# Control API: "), "# Control API: ")
	file := filepath.Join(t.TempDir(), "heartline.yaml")
	if err := os.WriteFile(file, []byte(sim.stdout.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "HEARTLINE_CONFIG="+file, "HEARTLINE_FALLBACK_APNS_TOPIC=com.example.app")
	s.register("alice", "phone", deviceToken(1))
	id := s.notify(`{"account":"alice","title":"by push"}`)
	status, body, err := call(control, "GET", "/wait?n=1&timeout=20s", "")
	if err != nil || status != 200 || !strings.Contains(string(body), `"collapse_id":"`+id+`"`) {
		t.Errorf("%d %s, %v", status, body, err)
	}
	if line := sim.stdout.until(t, " 200 "); !strings.Contains(line, id) {
		t.Errorf("shown: %s", line)
	}
	sim.signal(t, syscall.SIGTERM)
	if code := sim.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, sim.stderr)
	}
	s.stop()
}

// TestDemoSpeaksAtOnce: the demo's first line comes before the broker starts, so that its
// user sees at once that it runs.
func TestDemoSpeaksAtOnce(t *testing.T) {
	cmd := exec.Command(binary, "demo")
	cmd.Env = environ(t)
	began := time.Now()
	p := launch(t, cmd)
	line, _, err := p.stdout.find(0, func(string) bool { return true })
	if err != nil || !strings.HasPrefix(line, "Starting a broker") {
		t.Errorf("the first line is %q, error %v", line, err)
	}
	t.Logf("the first line came after %v", time.Since(began).Round(time.Millisecond))
}

package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestClientsPagePayloads: a device gets the payloads that docs/clients.md shows: the notification
// over the channel, Apple's push and the browser's.
func TestClientsPagePayloads(t *testing.T) {
	t.Parallel()
	var page []string
	for _, b := range blocks("", documents(t)["docs/clients.md"]) {
		if b.language == "json" {
			page = append(page, b.text)
		}
	}
	if len(page) != 3 {
		t.Fatalf("the page shows %d payloads", len(page))
	}
	sim, env := apple(t)
	browsers, more := pushService(t)
	s := serve(t, append(env, more...)...)
	events := s.events("")
	const content = `,"account":"alice","title":"Order 7","body":"It is ready","badge":3,"data":{}`

	d := s.raw(5, "alice", "online")
	defer d.Close()
	s.notify(`{"devices":["online"],"sound":"default","category":"order"` + content + `}`)
	samePayload(t, next(t, d).Payload, page[0])

	s.register("alice", "phone", deviceToken(1))
	events.until("pushed", s.notify(`{"devices":["phone"],"sound":"default","category":"order"`+content+`}`))
	samePayload(t, sim.ReceivedFor(deviceToken(1))[0].Payload, page[1])

	subscription, err := browsers.Subscribe("")
	if err != nil {
		t.Fatal(err)
	}
	registration, err := json.Marshal(map[string]any{"webpush": subscription})
	if err != nil {
		t.Fatal(err)
	}
	s.must(http.MethodPut, "/v1/accounts/alice/devices/page", string(registration), nil)
	events.until("pushed", s.notify(`{"devices":["page"],"collapse_key":"order"`+content+`}`))
	samePayload(t, browsers.Received(subscription.Endpoint)[0].Message, page[2])
}

// samePayload compares JSON but for the ID, which the page makes up, and the times.
func samePayload(t *testing.T, got []byte, want string) {
	t.Helper()
	plain := func(text string) (v any) {
		text = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`).ReplaceAllString(moments.ReplaceAllString(text, "TIME"), "ID")
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return v
	}
	if !reflect.DeepEqual(plain(string(got)), plain(want)) {
		t.Errorf("it is\n%s\nthe page shows\n%s", got, want)
	}
}

// paho is what the C example of docs/clients.md leaves to its reader: the IDs that were shown, and
// a screen.
const paho = `
int shown(const char *topic, const char *id) {
    static char last[256];
    char key[256];
    snprintf(key, sizeof key, "%s %s", topic, id);
    if (strcmp(key, last) == 0) return 1;
    strcpy(last, key);
    return 0;
}
void show(const char *kind, const cJSON *body) {
    char *json = cJSON_PrintUnformatted(body);
    printf("%s %s\n", kind, json);
    fflush(stdout);
    free(json);
}
`

// TestClientsPageC compiles and runs the example for Eclipse Paho of docs/clients.md.
func TestClientsPageC(t *testing.T) {
	t.Parallel()
	gcc := tool(t, "gcc", "gcc libc6-dev")
	for _, header := range []string{"MQTTAsync.h", "cjson/cJSON.h"} {
		if _, err := os.Stat("/usr/include/" + header); err != nil {
			testtool.LeaveOut(t, header+" is missing", "apt-get install libpaho-mqtt-dev libcjson-dev")
		}
	}
	s := serve(t)
	dir := t.TempDir()
	for _, b := range blocks("", documents(t)["docs/clients.md"]) {
		if b.language == "c" {
			source := strings.Replace(b.text, "mqtt.example.com:1883", s.mqtt, 1) + paho
			if err := os.WriteFile(filepath.Join(dir, "device.c"), []byte(source), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	compile := exec.CommandContext(t.Context(), gcc, "-Wall", "-Wextra", "-Werror", "-o", "device", "device.c", "-lpaho-mqtt3a", "-lcjson")
	compile.Dir = dir
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(filepath.Join(dir, "device"))
	cmd.Env = environ(t)
	device := launch(t, cmd)
	await(t, "the device", func() bool {
		_, body := s.call(http.MethodGet, "/v1/accounts/alice/devices/phone", "")
		return strings.Contains(string(body), `"state":"up"`)
	})
	events := s.events("")
	id := s.notify(`{"account":"alice","title":"Order 7","ack":"displayed"}`)
	device.stdout.until(t, `"title":"Order 7"`)
	events.until("displayed", id)
	s.must(http.MethodPost, "/v1/notifications/"+id+"/dismissal", "", nil)
	device.stdout.until(t, "dismiss {")
	events.until("dismissed", id)
}

// pahoPython are stand-ins for the modules of paho-mqtt 2, which Debian 12 does not package. The
// connection brings what a server sends.
var pahoPython = map[string]string{
	"packettypes.py": "class PacketTypes:\n    CONNECT, DISCONNECT = 1, 14\n",
	"properties.py":  "class Properties:\n    def __init__(self, kind):\n        pass\n",
	"reasoncodes.py": "def ReasonCode(kind, name):\n    return name\n",
	"client.py": `
import json
from types import SimpleNamespace

CallbackAPIVersion = SimpleNamespace(VERSION2=2)
MQTTv5 = 5


class Client:
    def __init__(self, version, client_id, protocol):
        self.own = f"heartline/devices/{client_id}/"

    def username_pw_set(self, username, password): pass
    def reconnect_delay_set(self, min_delay, max_delay): pass
    def connect(self, host, port, keepalive, clean_start, properties): pass
    def disconnect(self): print("disconnect")
    def publish(self, topic, payload, qos): print("publish", topic.removeprefix(self.own), payload)
    def subscribe(self, filters): print("subscribe", *[f"{topic.removeprefix(self.own)} {qos}" for topic, qos in filters])

    def arrives(self, topic, **body):
        self.on_message(self, None, SimpleNamespace(topic=self.own + topic, payload=json.dumps(body).encode()))

    def loop_forever(self):
        self.on_connect(self, None, None, SimpleNamespace(is_failure=False), None)
        for _ in range(2):
            self.arrives("notifications", id="a", title="A", body="first", ack="displayed")
            self.arrives("messages", id="a", data=7)
        self.arrives("dismissals", id="a")
        self.arrives("dismissals", id="b")
        self.arrives("notifications", id="b", title="B", ack="received") # late
        self.on_disconnect(self, None, None, "Session taken over", None)
`,
}

// TestClientsPagePython runs the example for Python of docs/clients.md.
func TestClientsPagePython(t *testing.T) {
	t.Parallel()
	python, dir := tool(t, "python3", "python3"), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "paho", "mqtt"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range pahoPython {
		write(filepath.Join("paho", "mqtt", name), text)
	}
	for _, b := range blocks("", documents(t)["docs/clients.md"]) {
		if b.language == "python" {
			write("device.py", b.text)
		}
	}
	r := toEnd(t, exec.Command(python, filepath.Join(dir, "device.py")))
	want := `publish state {"app": "background"}
subscribe notifications 1 messages 1 dismissals 1
tip A first
publish acks {"id": "a", "status": "displayed"}
message 7
publish acks {"id": "a", "status": "displayed"}
dismiss a
dismiss b
disconnect
`
	if r.code != 0 || r.out != want {
		t.Errorf("exit code %d, it prints\n%s%s\nwant\n%s", r.code, r.out, r.errors, want)
	}
}

// TestClientsPageTopics: each example of docs/clients.md names all topics on which the server
// sends to a device, where it subscribes and where it handles what arrives.
func TestClientsPageTopics(t *testing.T) {
	t.Parallel()
	examples := 0
	for _, b := range blocks("", documents(t)["docs/clients.md"]) {
		if !strings.Contains(b.text, `"heartline/devices/`) {
			continue
		}
		examples++
		for _, topicName := range []string{"notifications", "messages", "dismissals"} {
			if strings.Count(b.text, `"`+topicName) < 2 {
				t.Errorf("the example in %s does not subscribe to %s, or does not handle it", b.language, topicName)
			}
		}
	}
	if examples != 4 {
		t.Errorf("the page has %d examples, want 4", examples)
	}
}

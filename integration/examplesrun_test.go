package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestExampleChat: a message comes to both devices of an account, and is taken off the one
// once it is read on the other.
func TestExampleChat(t *testing.T) {
	t.Parallel()
	clientBuilt(t)
	s := serve(t)
	backend := func(heartline string) (address string) {
		cmd := exec.Command("node", "../examples/chat/backend.mjs")
		cmd.Env = environ(t, "HEARTLINE_SERVER="+heartline, "PORT=0")
		_, address, _ = strings.Cut(launch(t, cmd).stdout.until(t, "chat backend on "), " on ")
		return strings.TrimSpace(address)
	}
	address, lost := backend(s.http), backend("http://127.0.0.1:1")
	device := func(account, id string) (*process, func(string)) {
		cmd := exec.Command("node", "../examples/chat/chat.mjs", account, id)
		cmd.Env = environ(t, "HEARTLINE_SERVER="+s.http, "CHAT_BACKEND="+address, "CHAT_STORE="+filepath.Join(t.TempDir(), "shown"))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		p := launch(t, cmd)
		p.stdout.until(t, "(up)")
		return p, func(line string) {
			if _, err := fmt.Fprintln(in, line); err != nil {
				t.Fatal(err)
			}
		}
	}
	phone, type1 := device("anna", "anna-phone")
	tablet, _ := device("anna", "anna-tablet")
	ben, typeBen := device("ben", "ben-phone")
	typeBen("anna: lunch?")
	phone.stdout.until(t, "ben: lunch?")
	tablet.stdout.until(t, "ben: lunch?")
	type1("read")
	tablet.stdout.until(t, "(read on another device)")
	type1("ben: at noon")
	ben.stdout.until(t, "anna: at noon")
	typeBen("nobody: hello")
	ben.stdout.until(t, "(not sent: ")

	// A character comes in two pieces.
	text := `{"from":"carl","to":"anna","text":"süß"}`
	half := strings.Index(text, "ü") + 1
	conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST /messages HTTP/1.1\r\nHost: chat\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n",
		half, text[:half], len(text)-half, text[half:]); err != nil {
		t.Fatal(err)
	}
	phone.stdout.until(t, "carl: süß")

	// A fault of the sender has another status than one of Heartline.
	for body, want := range map[string]int{text: http.StatusBadGateway, `{"from":"carl"}`: http.StatusBadRequest, "null": http.StatusBadRequest, "{": http.StatusBadRequest} {
		answer, err := http.Post(lost+"/messages", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if _ = answer.Body.Close(); answer.StatusCode != want {
			t.Errorf("%s: %d, want %d", body, answer.StatusCode, want)
		}
	}
}

// failOnce is a proxy to a server that fails the first of the same requests: with an error
// that is no JSON, or by closing the connection.
func failOnce(t *testing.T, s *server) (address string) {
	t.Helper()
	target, err := url.Parse(s.http)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	var mu sync.Mutex
	failed := map[string]bool{}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		key := r.Method + " " + r.URL.Path + " " + string(body)
		mu.Lock()
		again, n := failed[key], len(failed)
		failed[key] = true
		mu.Unlock()
		switch {
		case again:
			proxy.ServeHTTP(w, r)
		case n%2 == 0:
			http.Error(w, "<h1>Bad Gateway</h1>", http.StatusBadGateway)
		default:
			panic(http.ErrAbortHandler) // closes the connection
		}
	}))
	t.Cleanup(web.Close)
	return web.URL
}

// TestExampleAlarm: the first person is pushed to at once and does not look; the second has
// seen it on the phone, while the tablet is off, and the first one's is taken back. Each
// request fails the first time.
func TestExampleAlarm(t *testing.T) {
	t.Parallel()
	python := tool(t, "python3", "python3")
	sim, env := apple(t)
	s := serve(t, env...)
	s.register("anna", "anna-phone", deviceToken(1))
	s.register("ben", "ben-tablet", deviceToken(2))
	address := failOnce(t, s)
	alarm := func(args ...string) *process {
		cmd := exec.Command(python, append([]string{"../examples/alarm/alarm.py", "Cold store 3: 9 °C"}, args...)...)
		cmd.Env = environ(t, "HEARTLINE_SERVER="+address)
		return launch(t, cmd)
	}
	ben := exec.Command(binary, "terminal", "--server", "mqtt://"+s.mqtt, "--account", "ben", "--device", "ben-phone", "--background", "--ack", "displayed")
	ben.Env = environ(t)
	launch(t, ben)
	await(t, "ben's phone", func() bool {
		_, body := s.call("GET", "/v1/accounts/ben/devices/ben-phone", "")
		return strings.Contains(string(body), `"state":"up"`)
	})
	p := alarm("anna", "ben", "--after", "5", "--name", "cold")
	p.stdout.until(t, "anna is notified")
	p.stdout.until(t, "ben has seen it")
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
	if got := sim.ReceivedFor(deviceToken(1)); len(got) == 0 {
		t.Error("anna was not pushed to")
	}
	if got := s.notification("cold-anna").State; got != "cancelled" {
		t.Errorf("anna's alarm is %s", got)
	}
	if got := s.notification("cold-ben").State; got == "acked" {
		t.Error("ben's tablet has acked the alarm, too: the test shows nothing")
	}
	if p := alarm("anna", "--after", "0.1", "--name", "nobody"); p.wait(t) != 1 {
		t.Errorf("%s", p.stderr)
	}
}

// TestExampleFleet: a truck's position is retained, it takes notifications on the same
// connection, and its will tells of its death.
func TestExampleFleet(t *testing.T) {
	t.Parallel()
	s := serve(t)
	program := filepath.Join(t.TempDir(), "fleet")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../examples/fleet").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(program, "truck-7")
	cmd.Env = environ(t, "MQTT_SERVER=mqtt://"+s.mqtt)
	truck := launch(t, cmd)
	truck.stdout.until(t, "connected")
	events := s.events("?account=truck-7")
	id := s.notify(`{"account":"truck-7","title":"New route","body":"via Ulm"}`)
	truck.stdout.until(t, "New route: via Ulm")
	events.until("received", id)
	s.must("POST", "/v1/notifications/"+id+"/dismissal", "", nil)
	truck.stdout.until(t, "taken back: "+id)
	events.until("dismissed", id)

	room, err := rawmqtt.Dial(s.mqtt, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer room.Close()
	if _, err := room.Connect(rawmqtt.Connect{ID: "room", Username: "room", Keepalive: 60, Clean: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := room.Subscribe(1, 0, "fleet/+/position"); err != nil {
		t.Fatal(err)
	}
	if pk := receive(t, room); !pk.FixedHeader.Retain || !strings.Contains(string(pk.Payload), `"connected":true`) {
		t.Errorf("the last position: %s, retained %v", pk.Payload, pk.FixedHeader.Retain)
	}
	connected := func(is string) {
		t.Helper()
		for last := ""; !strings.Contains(last, `"connected":`+is); {
			last = string(receive(t, room).Payload)
		}
	}
	truck.signal(t, syscall.SIGKILL)
	connected("false")

	// A truck that ends by itself has no will any more.
	cmd = exec.Command(program, "truck-7")
	cmd.Env = environ(t, "MQTT_SERVER=mqtt://"+s.mqtt)
	truck = launch(t, cmd)
	connected("true")
	truck.signal(t, syscall.SIGTERM)
	connected("false")
	if code := truck.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, truck.stderr)
	}
}

package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/wire"
)

// patience is how long anything may take that should happen soon, the start of a browser or
// a server too: two slow cores, the race detector, and other tests running.
const patience = 2 * time.Minute

// lines collects what a process writes, and tells whoever waits for a line.
type lines struct {
	mu      sync.Mutex
	all     []string
	ended   bool
	changed chan struct{}
	done    chan struct{} // the stream has ended
}

func readLines(r io.Reader) *lines {
	l := &lines{changed: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		in := bufio.NewScanner(r)
		in.Buffer(nil, 4<<20)
		for in.Scan() {
			l.add(in.Text(), false)
		}
		l.add("", true)
	}()
	return l
}

func (l *lines) add(line string, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ended {
		l.ended = true
	} else {
		l.all = append(l.all, line)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// find waits for the first line from index from on that match takes, and returns
// it with its index.
func (l *lines) find(from int, match func(string) bool) (string, int, error) {
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		for ; from < len(l.all); from++ {
			if match(l.all[from]) {
				line := l.all[from]
				l.mu.Unlock()
				return line, from, nil
			}
		}
		ended, changed := l.ended, l.changed
		l.mu.Unlock()
		if ended {
			return "", 0, errors.New("the output ended without it")
		}
		select {
		case <-changed:
		case <-timeout:
			return "", 0, fmt.Errorf("it did not come within %s", patience)
		}
	}
}

// until is find from the start, of a part of a line, and fails t without it.
func (l *lines) until(t *testing.T, part string) string {
	t.Helper()
	line, _, err := l.find(0, func(s string) bool { return strings.Contains(s, part) })
	if err != nil {
		t.Fatalf("waiting for %q: %v; the output so far:\n%s", part, err, l)
	}
	return line
}

func (l *lines) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// process is a program that the test has started.
type process struct {
	cmd    *exec.Cmd
	stdout *lines
	stderr *lines
	ended  chan struct{}
	err    error // of Wait, once ended is closed
}

// launch starts a program. It is killed at the end of the test if need be.
func launch(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, ended: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdout, p.stderr = readLines(out), readLines(errs)
	go func() {
		<-p.stdout.done // Wait closes the pipes: everything is to be read before
		<-p.stderr.done
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-p.ended
	})
	return p
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal %s: %v", s, err)
	}
	if s == syscall.SIGSTOP { // a thread may go on for a moment
		await(t, "the process to stand still", p.stopped)
	}
}

// stopped reports whether all threads of the process are stopped. It takes that for granted where
// there is no /proc.
func (p *process) stopped() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	for _, file := range threads {
		stat, err := os.ReadFile(file)
		_, state, _ := strings.Cut(string(stat), ") ")
		if err == nil && !strings.HasPrefix(state, "T") && !strings.HasPrefix(state, "Z") { // Z: it has ended
			return false
		}
	}
	return true
}

// wait returns the exit code; -1 is a death by signal.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("%s has not ended; its standard error:\n%s", p.cmd, p.stderr)
		return 0
	}
}

// server is `heartline serve` in a process of its own. Its data outlives it, until
// the end of the test.
type server struct {
	*process
	t    *testing.T
	data string // its data directory
	args []string
	env  []string
	mqtt string // host:port
	http string // base URL

	several bool // nodes: a request that meets a change of owner, 503, is made again
}

// environ is what a program sees of the machine: a home with nothing in it, and
// where programs are.
func environ(t testing.TB, more ...string) []string {
	t.Helper()
	home := filepath.Join(os.TempDir(), "heartline-no-home") // is not there: nobody may need it
	return append([]string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "TZ=UTC", "LC_ALL=C", "GORACE=atexit_sleep_ms=50"}, more...)
}

// serve starts a server on ports of its own choice and waits until it is ready.
// env is added to its environment.
func serve(t *testing.T, env ...string) *server {
	t.Helper()
	s := &server{
		t: t, data: filepath.Join(t.TempDir(), "data"), env: environ(t, env...),
	}
	s.args = []string{"serve", "--data-dir", s.data, "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json"}
	s.start()
	return s
}

// start starts the process, again after its end.
func (s *server) start() {
	s.t.Helper()
	cmd := exec.Command(binary, s.args...)
	cmd.Env = s.env
	s.process = launch(s.t, cmd)
	p := s.process
	s.t.Cleanup(func() { sane(s.t, p) })
	s.awaitReady()
}

func (s *server) awaitReady() {
	s.t.Helper()
	var ready struct{ MQTT, HTTP string }
	if err := json.Unmarshal([]byte(s.stderr.until(s.t, `"heartline is ready"`)), &ready); err != nil {
		s.t.Fatal(err)
	}
	s.mqtt, s.http = ready.MQTT, "http://"+ready.HTTP
}

// sane looks at what a server has said in its life, after its end.
func sane(t *testing.T, p *process) {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
	text := p.stderr.String()
	for _, bad := range []string{"DATA RACE", "panic:", "goroutine ", "fatal error:"} {
		if strings.Contains(text, bad) {
			t.Errorf("the server said %q:\n%s", bad, text)
			return
		}
	}
}

// kill is kill -9.
func (s *server) kill() {
	s.t.Helper()
	s.signal(s.t, syscall.SIGKILL)
	s.wait(s.t)
}

// stop asks the server to end, and it has to end well.
func (s *server) stop() {
	s.t.Helper()
	s.signal(s.t, syscall.SIGTERM)
	if code := s.wait(s.t); code != 0 {
		s.t.Fatalf("exit code %d at SIGTERM:\n%s", code, s.stderr)
	}
}

// result is a command that has run.
type result struct {
	code        int
	out, errors string
}

// heartline runs a command against the server.
func (s *server) heartline(args ...string) result {
	s.t.Helper()
	return heartline(s.t, []string{"HEARTLINE_SERVER=" + s.http}, args...)
}

// heartline runs a command to its end.
func heartline(t testing.TB, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env, cmd.Dir = environ(t, env...), t.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("heartline %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// call calls the API and returns the status and the body.
func (s *server) call(method, path, body string) (int, []byte) {
	s.t.Helper()
	late := time.Now().Add(patience)
	for {
		status, b, err := call(s.http, method, path, body)
		if err != nil {
			s.t.Fatalf("%s %s: %v", method, path, err)
		}
		if status != http.StatusServiceUnavailable || !s.several || time.Now().After(late) {
			return status, b
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func call(base, method, path, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// must is call for requests that have to work: any status below 300.
func (s *server) must(method, path, body string, out any) {
	s.t.Helper()
	status, b := s.call(method, path, body)
	if status >= 300 {
		s.t.Fatalf("%s %s: %d %s", method, path, status, b)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(b, out); err != nil {
		s.t.Fatalf("%s %s: %v in %s", method, path, err, b)
	}
}

// notify sends a notification and returns its ID.
func (s *server) notify(body string) string {
	s.t.Helper()
	var a wire.Accepted
	s.must(http.MethodPost, "/v1/notifications", body, &a)
	return a.ID
}

// register makes a device known; with a push token unless token is "".
func (s *server) register(account, device, token string) {
	s.t.Helper()
	body := "{}"
	if token != "" {
		body = fmt.Sprintf(`{"apns":{"token":%q}}`, token)
	}
	s.must(http.MethodPut, "/v1/accounts/"+account+"/devices/"+device, body, nil)
}

// notification is what the server knows of one.
func (s *server) notification(id string) wire.NotificationView {
	s.t.Helper()
	var n wire.NotificationView
	s.must(http.MethodGet, "/v1/notifications/"+id, "", &n)
	return n
}

// kinds are the events of a timeline.
func kinds(n wire.NotificationView) []string {
	var out []string
	for _, e := range n.Timeline {
		out = append(out, e.Event)
	}
	return out
}

// timelineText is the timeline of a notification as a failed test prints it.
func timelineText(n wire.NotificationView) string {
	var b strings.Builder
	for _, e := range n.Timeline {
		fmt.Fprintf(&b, "\n\t%s %s %s %d %s", e.Time, e.Event, e.Device, e.Attempt, e.Detail)
	}
	return b.String()
}

// wantTimeline compares the whole timeline of a notification.
func (s *server) wantTimeline(id string, want ...string) {
	s.t.Helper()
	if got := kinds(s.notification(id)); !slices.Equal(got, want) {
		s.t.Errorf("the timeline of %s is %v, want %v", id, got, want)
	}
}

// awaitDown waits until the server has noticed that a device is gone. There is no
// event for it: nobody is to be notified.
func (s *server) awaitDown(account, device string) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var d wire.DeviceView
		s.must(http.MethodGet, "/v1/accounts/"+account+"/devices/"+device, "", &d)
		if d.Channel.State == "down" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("device %s is still up: %+v", device, d)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// events is the live stream of events, from the moment events returns.
type events struct {
	t    *testing.T
	c    chan wire.StreamEvent
	seen []wire.StreamEvent
}

func (s *server) events(query string) *events {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.http+"/v1/events"+query, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("events: %s", resp.Status)
	}
	e := &events{t: s.t, c: make(chan wire.StreamEvent, 1<<16)}
	in := bufio.NewScanner(resp.Body)
	in.Scan() // ": connected": from here on nothing is missed
	go func() {
		defer close(e.c)
		defer resp.Body.Close()
		for in.Scan() {
			var ev wire.StreamEvent
			if data, ok := strings.CutPrefix(in.Text(), "data: "); ok && json.Unmarshal([]byte(data), &ev) == nil {
				e.c <- ev
			}
		}
	}()
	return e
}

// until waits for an event of a notification. One that has come already will do: with
// several devices, see untilOf.
func (e *events) until(event, id string) wire.StreamEvent {
	e.t.Helper()
	return e.find(func(ev wire.StreamEvent) bool { return ev.Event == event && ev.ID == id })
}

// untilOf waits for an event of a notification on its way to one device.
func (e *events) untilOf(event, id, device string) wire.StreamEvent {
	e.t.Helper()
	return e.find(func(ev wire.StreamEvent) bool { return ev.Event == event && ev.ID == id && ev.Device == device })
}

// find returns the first event that matches, of those that came and those to come.
func (e *events) find(match func(wire.StreamEvent) bool) wire.StreamEvent {
	e.t.Helper()
	if i := slices.IndexFunc(e.seen, match); i >= 0 {
		return e.seen[i]
	}
	for {
		if ev := e.next(); match(ev) {
			return ev
		}
	}
}

// next waits for the next event of any notification.
func (e *events) next() wire.StreamEvent {
	e.t.Helper()
	select {
	case ev, ok := <-e.c:
		if !ok {
			e.t.Fatalf("the stream has ended; it had %+v", e.seen)
		}
		e.seen = append(e.seen, ev)
		return ev
	case <-time.After(patience):
		e.t.Fatalf("nothing more comes; the stream had %+v", e.seen)
		return wire.StreamEvent{}
	}
}

// apple starts a stand-in for Apple's server in the test's own process, where it
// outlives the server's death, and returns what a server needs to push to it.
func apple(t *testing.T) (*apnssim.Server, []string) {
	t.Helper()
	sim, err := apnssim.Start(apnssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, sim.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	key := sim.Key()
	return sim, []string{
		"HEARTLINE_FALLBACK_APNS_ENABLED=true", "HEARTLINE_FALLBACK_APNS_ENDPOINT=" + sim.URL(), "HEARTLINE_FALLBACK_APNS_CA_FILE=" + ca,
		"HEARTLINE_FALLBACK_APNS_KEY=" + string(key.PEM), "HEARTLINE_FALLBACK_APNS_KEY_ID=" + key.KeyID,
		"HEARTLINE_FALLBACK_APNS_TEAM_ID=" + key.TeamID, "HEARTLINE_FALLBACK_APNS_TOPIC=com.example.app",
	}
}

// deviceToken makes up a device token.
func deviceToken(n int) string { return fmt.Sprintf("%064x", n) }

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/heartline-mqtt/heartline/internal/procstat"
)

// patience bounds every step that should end soon. It is long: a run must not fail for
// other work on the machine.
const patience = 2 * time.Minute

// process is one run of the binary.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of Wait, valid once ended is closed

	mu   sync.Mutex
	tail []string // the last lines of its output
	all  bool     // tail keeps every line from now on
}

// begin starts the binary and calls line for each line of its output.
func begin(binary string, line func(string), args ...string) (*process, error) {
	p := &process{cmd: exec.Command(binary, args...), ended: make(chan struct{})} //nolint:gosec,noctx // stop ends it, in its own order
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = in, in
	err = p.cmd.Start()
	_ = in.Close() // the child holds a copy
	if err != nil {
		_ = out.Close() // nobody writes
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			p.mu.Lock()
			if p.tail = append(p.tail, lines.Text()); len(p.tail) > 200 && !p.all {
				p.tail = slices.Delete(p.tail, 0, 100)
			}
			p.mu.Unlock()
			line(lines.Text())
		}
		_, _ = io.Copy(io.Discard, out) // after a line that is too long
		p.err = p.cmd.Wait()
		_ = out.Close()
	}()
	return p, nil
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tail, "\n")
}

// stop asks the process to end and returns how long it took.
func (p *process) stop() (time.Duration, error) {
	begun := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, fmt.Errorf("the process ended early: %w\n%s", err, p.said())
	}
	select {
	case <-p.ended:
	case <-time.After(2 * patience):
		return 0, fmt.Errorf("the process does not end within %s", 2*patience)
	}
	if p.err != nil {
		return 0, fmt.Errorf("at SIGTERM: %w\n%s", p.err, p.said())
	}
	return time.Since(begun), nil
}

// kill ends the process if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// settings is a configuration: nested sections by their names in YAML.
type settings map[string]any

// set sets the value at a path such as delivery.ack_window.
func (s settings) set(path string, value any) {
	section, name, nested := strings.Cut(path, ".")
	if !nested {
		s[section] = value
		return
	}
	below, ok := s[section].(map[string]any)
	if !ok {
		below = map[string]any{}
		s[section] = below
	}
	settings(below).set(name, value)
}

// clone copies the sections, so that a change to one copy does not reach the other.
func (s settings) clone() settings {
	c := maps.Clone(s)
	for name, value := range c {
		if below, ok := value.(map[string]any); ok {
			c[name] = map[string]any(settings(below).clone())
		}
	}
	return c
}

// write writes the file in one step: the server may read it at any moment.
func (s settings) write(file string) error {
	text, err := yaml.Marshal(map[string]any(s))
	if err != nil {
		return err
	}
	return replaceFile(file, text)
}

func replaceFile(file string, content []byte) error {
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// simulators are the stand-ins for the notification servers.
type simulators struct {
	*process
	control  string   // base URL of their control API
	settings settings // the section fallback of a server that uses them
}

// startSimulators starts the stand-ins, and reads the lines that they print for a server's
// configuration.
func startSimulators(binary, dir string) (*simulators, error) {
	var text bytes.Buffer
	ready := make(chan string, 1)
	free := "127.0.0.1:0"
	p, err := begin(binary, func(line string) {
		if control, ok := strings.CutPrefix(line, "# Control API: "); ok {
			ready <- control
			return
		}
		text.WriteString(line + "\n")
	}, "push-sim", "--apns", free, "--fcm", free, "--webpush", free, "--control", free, "--cert-dir", dir)
	if err != nil {
		return nil, err
	}
	s := &simulators{process: p}
	select {
	case s.control = <-ready:
	case <-p.ended:
		return nil, fmt.Errorf("push-sim ended before it was ready\n%s", p.said())
	case <-time.After(patience):
		p.kill()
		return nil, fmt.Errorf("push-sim is not ready within %s", patience)
	}
	// Not into settings itself: the decoder would give every section that type.
	var sections map[string]any
	if err := yaml.Unmarshal(text.Bytes(), &sections); err != nil {
		p.kill()
		return nil, fmt.Errorf("read the configuration that push-sim prints: %w", err)
	}
	s.settings = sections
	s.settings.set("fallback.apns.topic", app)
	return s, nil
}

// app is the bundle ID of the app on the iPhones.
const app = "com.example.app"

// server is the server under test.
type server struct {
	*process
	mqtt, tls string // host:port
	http      string // base URL
	token     string // of an admin
	client    *http.Client

	mu   sync.Mutex
	logs map[string]int // messages of its log at warning level and above, and of reloads
}

// startServer starts a server and waits until it is ready. Its log must be JSON.
func startServer(binary, file, token string, verbose io.Writer) (*server, error) {
	s := &server{
		token: token, logs: map[string]int{},
		client: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	ready := make(chan struct{}, 1)
	p, err := begin(binary, func(text string) {
		fmt.Fprintln(verbose, text)
		var line struct {
			Level, Msg, MQTT, HTTP string
			TLS                    string `json:"mqtt_tls"`
		}
		if json.Unmarshal([]byte(text), &line) != nil {
			line.Level, line.Msg = "OUTPUT", text
		}
		switch {
		case line.Msg == "heartline is ready":
			s.mqtt, s.tls, s.http = line.MQTT, line.TLS, "http://"+line.HTTP
			ready <- struct{}{}
		case line.Level != "INFO" && line.Level != "DEBUG", strings.Contains(line.Msg, "reload"):
			s.mu.Lock()
			s.logs[line.Level+" "+line.Msg]++
			s.mu.Unlock()
		}
	}, "serve", "--config", file)
	if err != nil {
		return nil, err
	}
	s.process = p
	select {
	case <-ready:
		return s, nil
	case <-p.ended:
		return nil, fmt.Errorf("the server ended before it was ready\n%s", p.said())
	case <-time.After(patience):
		p.kill()
		return nil, fmt.Errorf("the server is not ready within %s\n%s", patience, p.said())
	}
}

// logged returns how often the log has a message that begins with this text, its level
// first.
func (s *server) logged(text string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for msg, times := range s.logs {
		if strings.HasPrefix(msg, text) {
			n += times
		}
	}
	return n
}

// stacks ends the server and returns the name of a file with the stacks of its
// goroutines, or why there is none.
func (s *server) stacks() string {
	s.process.mu.Lock()
	s.process.all = true
	s.process.mu.Unlock()
	_ = s.cmd.Process.Signal(syscall.SIGQUIT) // it may have ended
	select {
	case <-s.ended:
	case <-time.After(patience):
		return "no file: it does not end"
	}
	file := filepath.Join(os.TempDir(), fmt.Sprintf("heartline-soak-stacks-%d.txt", s.cmd.Process.Pid))
	if err := os.WriteFile(file, []byte(s.said()), 0o600); err != nil {
		return err.Error()
	}
	return file
}

// call calls the API as admin and returns the status and the body of the answer. An
// error means that no answer came.
func (s *server) call(ctx context.Context, method, path, body string) (int, []byte, error) {
	return s.callAs(ctx, method, path, body, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+s.token) })
}

func (s *server) callAs(ctx context.Context, method, path, body string, as func(*http.Request)) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.http+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	as(req)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// metrics reads /metrics: the sum of the series of each name.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	status, text, err := s.call(ctx, http.MethodGet, "/metrics", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("/metrics answers %d", status)
	}
	if err != nil {
		return nil, err
	}
	m := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err == nil {
				name, _, _ := strings.Cut(line[:i], "{")
				m[name] += v
			}
		}
	}
	return m, nil
}

// resident returns the resident memory of the process in bytes.
func (p *process) resident() (float64, error) {
	s, err := procstat.Read(p.cmd.Process.Pid)
	return float64(s.Resident), err
}

// cpuOf returns the CPU time that a process has used.
func cpuOf(pid int) (time.Duration, error) {
	s, err := procstat.Read(pid)
	return s.CPU(), err
}

// descriptors returns the number of file descriptors that the process has open.
func (p *process) descriptors() (float64, error) {
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return float64(len(names)), err
}

// diskUsage returns the bytes of the files below dir. Files may be removed meanwhile.
func diskUsage(dir string) (float64, error) {
	var sum float64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				sum += float64(info.Size())
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
	return sum, err
}

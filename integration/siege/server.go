package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long anything may take that should happen soon, and startPatience how long
// the program may take to start.
const (
	patience      = 30 * time.Second
	startPatience = 3 * time.Minute
)

// server is the program in a process of its own.
type server struct {
	cmd    *exec.Cmd
	mqtt   string // host:port
	http   string // base URL
	client *http.Client
	ended  chan struct{}
	err    error // of Wait, once ended is closed
	said   []byte
}

// start starts the program and waits until it is ready. files bounds its file
// descriptors.
func start(binary, data string, files int, env []string, log io.Writer) (*server, error) {
	args := []string{binary, "serve", "--data-dir", data, "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json"}
	if files > 0 {
		// Both limits: Go raises the soft one to the hard one.
		args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, files), "sh"}, args...)
	}
	s := &server{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})} //nolint:gosec,noctx // it outlives the siege, which it is asked to end after
	s.cmd.Env = append(os.Environ(), env...)
	s.client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: callers, MaxConnsPerHost: callers + 1}}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the program: %w", err)
	}
	ready := make(chan error, 1)
	go func() {
		defer close(s.ended)
		in := bufio.NewScanner(stderr)
		in.Buffer(nil, 4<<20)
		for in.Scan() {
			fmt.Fprintln(log, in.Text())
			var line struct{ Msg, MQTT, HTTP string }
			if json.Unmarshal(in.Bytes(), &line) == nil && line.Msg == "heartline is ready" {
				s.mqtt, s.http = line.MQTT, "http://"+line.HTTP
				ready <- nil
				continue
			}
			if len(s.said) < 1<<20 {
				s.said = append(append(s.said, in.Bytes()...), '\n')
			}
		}
		s.err = s.cmd.Wait()
		ready <- errors.New("it ended before it was ready")
	}()
	select {
	case err = <-ready:
	case <-time.After(startPatience):
		err = fmt.Errorf("not ready within %s", startPatience)
	}
	if err != nil {
		s.kill()
		return nil, fmt.Errorf("start the program: %w\n%s", err, s.said)
	}
	return s, nil
}

// stop asks the program to end, and tells how that went.
func (s *server) stop() (string, error) {
	begin := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return "was gone", fmt.Errorf("the program has ended: %w\n%s", err, s.said)
	}
	select {
	case <-s.ended:
	case <-time.After(patience):
		return "hangs", fmt.Errorf("the program does not end within %s", patience)
	}
	if s.err != nil {
		return s.err.Error(), fmt.Errorf("at SIGTERM: %w\n%s", s.err, s.said)
	}
	return fmt.Sprintf("exit 0 in %.1f s", time.Since(begin).Seconds()), nil
}

// kill ends the program if it still runs.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.ended
	s.client.CloseIdleConnections()
}

// resident is a figure of /proc/…/status in bytes.
func (s *server) resident(field string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(status), field+":")
	if !ok {
		return 0, fmt.Errorf("no %s in the status of the process: it has ended", field)
	}
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return kib * 1024, err
}

// call calls the API and decodes the answer into out.
func (s *server) call(ctx context.Context, method, path, body string, out any) error {
	b, err := s.read(ctx, method, path, body)
	if err == nil && out != nil {
		err = json.Unmarshal(b, out)
	}
	return err
}

func (s *server) read(ctx context.Context, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.http+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, b)
	}
	return b, err
}

// metrics are the program's own counts, by name and labels.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	text, err := s.read(ctx, http.MethodGet, "/metrics", "")
	if err != nil {
		return nil, err
	}
	m := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && !strings.HasPrefix(line, "#") {
			if v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err == nil {
				m[line[:i]] = v
			}
		}
	}
	return m, nil
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is the real program.
type server struct {
	cmd        *exec.Cmd
	mqtt, http string
	ready      time.Duration // from its start
	drained    chan struct{} // its log has ended
}

func (p *program) start(ctx context.Context, data string) (*server, error) {
	cmd := exec.CommandContext(ctx, p.binary, "serve") //nolint:gosec // the path is of our own making
	cmd.Env = append(os.Environ(), "HEARTLINE_DATA_DIR="+data, "HEARTLINE_MQTT_ADDRESS=127.0.0.1:0", "HEARTLINE_HTTP_ADDRESS=127.0.0.1:0")
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, drained: make(chan struct{})}
	lines := bufio.NewScanner(log)
	var said []string
	for s.http == "" && lines.Scan() {
		if _, line, ok := strings.Cut(lines.Text(), "heartline is ready"); ok {
			s.mqtt, s.http = field(line, " mqtt="), field(line, " http=")
		}
		said = append(said, lines.Text())
	}
	s.ready = time.Since(begun)
	go func() { // so that it is not held up by its log
		defer close(s.drained)
		_, _ = io.Copy(io.Discard, log)
	}()
	if s.http == "" {
		return nil, errors.Join(fmt.Errorf("the server ended before it was ready:\n%s", strings.Join(said, "\n")), s.stop())
	}
	return s, nil
}

func field(line, name string) string {
	_, rest, _ := strings.Cut(line, name)
	value, _, _ := strings.Cut(rest, " ")
	return value
}

// stop ends the server. It has stopped when stop returns.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.drained
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("the server stopped with an error: %w", err)
	}
	return nil
}

// resident is the memory that the server holds, in bytes; 0 where there is no /proc.
func (s *server) resident() float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, _ := strconv.ParseFloat(append(strings.Fields(rest), "0")[0], 64) // the kernel writes a number
	return kib * 1024
}

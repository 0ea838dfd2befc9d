package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// contestant is a broker that is measured.
type contestant struct {
	name   string
	mode   string   // of `heartline bench`: what it is sent
	binary string   // of Heartline
	env    []string // in addition
	// command starts it with its data in dir; ready finds its addresses.
	command func(ctx context.Context, dir string, env []string) (*exec.Cmd, error)
	ready   func(cmd *exec.Cmd, lines *bufio.Scanner) (addresses, error)
}

// addresses are where a server listens; "" is nowhere.
type addresses struct{ mqtt, tls, http string }

func heartline(name, binary, mode string) contestant {
	return contestant{
		name: name, mode: mode, binary: binary,
		command: func(ctx context.Context, dir string, env []string) (*exec.Cmd, error) {
			cmd := exec.CommandContext(ctx, binary, "serve")
			cmd.Env = append(os.Environ(), "HEARTLINE_DATA_DIR="+filepath.Join(dir, "data"), "HEARTLINE_MQTT_ADDRESS=127.0.0.1:0", "HEARTLINE_HTTP_ADDRESS=127.0.0.1:0")
			cmd.Env = append(cmd.Env, env...)
			return cmd, nil
		},
		ready: func(_ *exec.Cmd, lines *bufio.Scanner) (addresses, error) {
			line, err := lineWith(lines, "heartline is ready")
			return addresses{field(line, "mqtt="), strings.Trim(field(line, "mqtt_tls="), `"`), field(line, "http=")}, err
		},
	}
}

func mochi(name, store string) contestant {
	return contestant{
		name: name, mode: "topics",
		command: func(ctx context.Context, dir string, env []string) (*exec.Cmd, error) {
			self, err := os.Executable()
			cmd := exec.CommandContext(ctx, self, "-mochi", store, "-dir", dir) //nolint:gosec // this program itself
			cmd.Env = append(os.Environ(), env...)
			return cmd, err
		},
		ready: func(_ *exec.Cmd, lines *bufio.Scanner) (addresses, error) {
			line, err := lineWith(lines, "mochi is ready")
			return addresses{mqtt: field(line, "mqtt="), tls: field(line, "mqtt_tls=")}, err
		},
	}
}

// mosquitto has its queue's bound taken away, so that it does not drop what the
// others keep, and Nagle's delay, which would be all there is to its latency.
func mosquitto(name string, settings ...string) contestant {
	var port string
	return contestant{
		name: name, mode: "topics",
		command: func(ctx context.Context, dir string, _ []string) (*exec.Cmd, error) {
			free, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			_, port, _ = net.SplitHostPort(free.Addr().String()) // it has just been made
			_ = free.Close()                                     // nothing listens there until the broker does
			file := filepath.Join(dir, "mosquitto.conf")
			conf := append([]string{
				"listener " + port + " 127.0.0.1", "allow_anonymous true", "user root", "log_dest stderr", "log_type error", "log_type warning",
				"max_queued_messages 0", "set_tcp_nodelay true", "persistence_location " + dir + "/",
			}, settings...)
			if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
				return nil, err
			}
			return exec.CommandContext(ctx, "mosquitto", "-c", file), nil //nolint:gosec // the file is of our own making
		},
		ready: func(*exec.Cmd, *bufio.Scanner) (addresses, error) {
			address := net.JoinHostPort("127.0.0.1", port)
			for until := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
				conn, err := net.Dial("tcp", address)
				if err == nil {
					_ = conn.Close() // it has answered
					return addresses{mqtt: address}, nil
				}
				if time.Now().After(until) {
					return addresses{}, err
				}
			}
		},
	}
}

func lineWith(lines *bufio.Scanner, part string) (string, error) {
	var all []string
	for lines.Scan() {
		if strings.Contains(lines.Text(), part) {
			return lines.Text(), nil
		}
		all = append(all, lines.Text())
	}
	return "", fmt.Errorf("it ended before it was ready:\n%s", strings.Join(all, "\n"))
}

func field(line, name string) string {
	_, rest, _ := strings.Cut(line, name)
	value, _, _ := strings.Cut(rest, " ")
	return value
}

// server is a contestant that runs.
type server struct {
	contestant
	addresses
	cmd  *exec.Cmd
	dir  string
	read chan struct{} // its output has ended
}

func (c contestant) start(ctx context.Context) (_ *server, err error) {
	dir, err := os.MkdirTemp("", "heartline-compare-")
	if err != nil {
		return nil, err
	}
	s := &server{contestant: c, dir: dir, read: make(chan struct{})}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s: %w", c.name, errors.Join(err, s.stop()))
		}
	}()
	if s.cmd, err = c.command(ctx, dir, c.env); err != nil {
		return nil, err
	}
	// Both of its outputs in one pipe.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.cmd.Stdout, s.cmd.Stderr = in, in
	if err := s.cmd.Start(); err != nil {
		_, _ = in.Close(), out.Close()
		s.cmd = nil
		return nil, err
	}
	_ = in.Close() // the server has its own
	lines := bufio.NewScanner(out)
	s.addresses, err = c.ready(s.cmd, lines)
	go func() { // so that it is not held up by its log
		defer close(s.read)
		_, _ = io.Copy(io.Discard, out)
		_ = out.Close() // nothing is left in it
	}()
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return s, err
}

// stop ends the server and takes its data away.
func (s *server) stop() error {
	defer func() { _ = os.RemoveAll(s.dir) }()
	if s.cmd == nil {
		return nil
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	done := make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // its exit says nothing about the figures
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second): // mochi's Close can hang
		_ = s.cmd.Process.Kill()
		<-done
	}
	<-s.read
	return nil
}

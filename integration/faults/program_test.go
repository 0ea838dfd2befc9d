package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long anything may take that should happen soon, on two slow
// cores with other work.
const patience = 2 * time.Minute

// Program is `heartline serve` in a process of its own. It can be killed and
// started again on the same data.
type Program struct {
	binary string
	env    []string
	data   string

	mu    sync.Mutex
	run   *run
	up    chan struct{} // closed while it is up
	lives []Life
}

// run is one life of the process.
type run struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	mqtt   string
	http   string
	ended  chan struct{}
	ready  chan struct{}
	answer chan string // lines on its standard output

	mu   sync.Mutex
	tail []string // of its standard error
	sick string   // a line that no program should write
	fell []string // that line and those after it which are no log: a race, a panic
}

// NewProgram starts nothing. env is added to an environment with nothing in it but the
// store's engine, where HEARTLINE_FAULTS_ENGINE names one.
func NewProgram(binary, data string, env ...string) *Program {
	if engine := os.Getenv("HEARTLINE_FAULTS_ENGINE"); engine != "" {
		env = append(env, "HEARTLINE_STORE_ENGINE="+engine)
	}
	return &Program{
		binary: binary, data: data, up: make(chan struct{}),
		env: append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "TMPDIR=" + os.TempDir(), "TZ=UTC", "GORACE=atexit_sleep_ms=50"}, env...),
	}
}

// Start starts it and waits until it is ready.
func (p *Program) Start(ctx context.Context) error {
	r := &run{ended: make(chan struct{}), ready: make(chan struct{}), answer: make(chan string, 64)}
	r.cmd = exec.Command(p.binary, "serve", "--data-dir", p.data, "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json") // the paths are of our own making; the rig kills it
	r.cmd.Env = p.env
	p.lives = append(p.lives, Life{Start: time.Now()})
	stdin, err1 := r.cmd.StdinPipe()
	stdout, err2 := r.cmd.StdoutPipe()
	stderr, err3 := r.cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3, r.cmd.Start()); err != nil {
		return fmt.Errorf("start the program: %w", err)
	}
	r.stdin = stdin
	var reading sync.WaitGroup
	reading.Go(func() { r.readLog(stderr) })
	reading.Go(func() {
		for in := bufio.NewScanner(stdout); in.Scan(); {
			select {
			case r.answer <- in.Text():
			default: // nobody has asked for that much
			}
		}
	})
	go func() {
		reading.Wait()   // Wait closes the pipes
		_ = r.cmd.Wait() // how it ended is in ProcessState
		close(r.ended)
	}()
	select {
	case <-r.ready:
	case <-r.ended:
		return fmt.Errorf("the program has ended: %s\n%s", r.cmd.ProcessState, r.log())
	case <-ctx.Done():
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.ended
		return fmt.Errorf("the program is not ready: %w\n%s", ctx.Err(), r.log())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.run = r
	close(p.up)
	return nil
}

func (r *run) readLog(from io.Reader) {
	in := bufio.NewScanner(from)
	in.Buffer(nil, 4<<20)
	isReady := false
	for in.Scan() {
		line := in.Text()
		if !isReady && strings.Contains(line, `"heartline is ready"`) {
			var at struct{ MQTT, HTTP string }
			if json.Unmarshal([]byte(line), &at) == nil {
				r.mqtt, r.http, isReady = at.MQTT, "http://"+at.HTTP, true
				close(r.ready)
			}
		}
		r.mu.Lock()
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if r.sick == "" && strings.Contains(line, bad) {
				r.sick = line
			}
		}
		if r.sick != "" && !strings.HasPrefix(line, "{") && len(r.fell) < 200 {
			r.fell = append(r.fell, line)
		}
		if r.tail = append(r.tail, line); len(r.tail) > 400 {
			r.tail = append([]string(nil), r.tail[200:]...)
		}
		r.mu.Unlock()
	}
}

func (r *run) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(append(slices.Clone(r.fell), r.tail[max(0, len(r.tail)-40):]...), "\n")
}

func (p *Program) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

// Up waits until it runs, and returns where it listens.
func (p *Program) Up(ctx context.Context) (mqtt, http string, err error) {
	for {
		p.mu.Lock()
		r, up := p.run, p.up
		p.mu.Unlock()
		if r != nil {
			return r.mqtt, r.http, nil
		}
		select {
		case <-up:
		case <-ctx.Done():
			return "", "", ctx.Err()
		}
	}
}

// MQTT waits until it runs, and returns where clients connect.
func (p *Program) MQTT(ctx context.Context) (string, error) {
	mqtt, _, err := p.Up(ctx)
	return mqtt, err
}

func (p *Program) down() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.run
	if r != nil {
		p.run, p.up = nil, make(chan struct{})
	}
	return r
}

// Kill is kill -9.
func (p *Program) Kill() error {
	r := p.down()
	if r == nil {
		return nil
	}
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.ended
	p.ended(true)
	return r.healthy()
}

// ended notes the end of a life.
func (p *Program) ended(killed bool) {
	l := &p.lives[len(p.lives)-1]
	l.End, l.Killed = time.Now(), killed
}

// Died waits for a death that was planted.
func (p *Program) Died(ctx context.Context) error {
	r := p.current()
	select {
	case <-r.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.down()
	p.ended(true)
	return r.healthy()
}

// Ended is closed when the life at hand has ended.
func (p *Program) Ended() <-chan struct{} { return p.current().ended }

// Stop asks it to end, and it has to end well.
func (p *Program) Stop() error {
	r := p.down()
	if r == nil {
		return nil
	}
	_ = r.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-r.ended:
	case <-time.After(patience):
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.ended
		return fmt.Errorf("the program did not end within %s\n%s", patience, r.log())
	}
	p.ended(false)
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the program ended with exit code %d\n%s", code, r.log())
	}
	return r.healthy()
}

func (r *run) healthy() error {
	r.mu.Lock()
	sick := r.sick
	r.mu.Unlock()
	if sick != "" {
		return fmt.Errorf("the program said %q\n%s", sick, r.log())
	}
	return nil
}

// Tell gives an order to a program that was built by BuildFaulty, and waits until
// it is in force.
func (p *Program) Tell(ctx context.Context, order string) error {
	r := p.current()
	if r == nil {
		return errors.New("the program is down")
	}
	if _, err := io.WriteString(r.stdin, order+"\n"); err != nil {
		return fmt.Errorf("tell the program %q: %w", order, err)
	}
	select {
	case got := <-r.answer:
		if got != "did "+order {
			return fmt.Errorf("the program was told %q and said %q", order, got)
		}
		return nil
	case <-r.ended:
		return fmt.Errorf("the program was told %q and ended", order)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Package xmppkit starts a real ejabberd or Prosody on loopback with a throw-away
// directory, and has the smallest client that a device needs (client.go). The demo and the
// tests use it.
//
// A Server is a child process; a Client runs one goroutine until Close or Kill. The package
// imports nothing of ours.
package xmppkit

import (
	"bytes"
	"context"
	_ "embed" // the configurations are those that docs/xmpp.md shows
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed ejabberd.yml
var ejabberdConfig string

//go:embed prosody.cfg.lua
var prosodyConfig string

// Names of the servers.
const (
	Ejabberd = "ejabberd"
	Prosody  = "prosody"
)

// Server is one that has been started.
type Server struct {
	Kind             string
	Host             string // of its users
	Component        string // the name of Heartline's component
	Secret           string
	ComponentAddress string
	ClientAddress    string

	dir   string
	admin string
	hosts bool // ejabberd resolves the component's name
	cmd   *exec.Cmd
	ended chan struct{}
}

// ErrMissing: the server is not installed. The text says what to install.
var ErrMissing = errors.New("not installed")

// ejabberdLib is where Debian has ejabberd; its directory carries the version.
const ejabberdLib = "/usr/lib/*/ejabberd-*/ebin"

// Installed reports whether a server can be started here; the error wraps ErrMissing.
func Installed(kind string) error {
	if kind == Ejabberd {
		found, err := filepath.Glob(ejabberdLib)
		_, noErlang := exec.LookPath("erl")
		if err != nil || len(found) == 0 || noErlang != nil {
			return fmt.Errorf("ejabberd: %w: apt-get install ejabberd", ErrMissing)
		}
		return nil
	}
	_, err := exec.LookPath("prosody")
	_, noModules := os.Stat("/usr/lib/prosody/modules/mod_cloud_notify")
	if err != nil || noModules != nil {
		return fmt.Errorf("prosody: %w: apt-get install prosody prosody-modules", ErrMissing)
	}
	return nil
}

// Options say how a server is started.
type Options struct {
	Users []string // their password is "secret"
	// Hosts makes ejabberd resolve the component's name to loopback, as docs/xmpp.md tells
	// an operator to. It needs root.
	Hosts bool
	Edit  func(config string) string // changes the documented configuration; nil leaves it
}

// given are the ports that freeAddress has returned. Their servers may not listen yet, or not now.
var given sync.Map

// freeAddress returns an address that nobody listens at. The system gives no port of this range
// to others, so that it is still free when the server has started.
func freeAddress(ctx context.Context) (string, error) {
	for tries := 0; ; tries++ {
		port := 12_000 + rand.N(20_000)
		if _, taken := given.LoadOrStore(port, nil); taken {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprint("127.0.0.1:", port))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
		if tries == 100 {
			return "", err
		}
	}
}

// Start starts a server in dir, which must be empty.
func Start(ctx context.Context, kind, dir string, o Options) (*Server, error) {
	if err := Installed(kind); err != nil {
		return nil, err
	}
	s := &Server{Kind: kind, Host: "example.test", Component: "push.example.test", Secret: "component-secret", dir: dir, hosts: o.Hosts}
	for _, address := range []*string{&s.ComponentAddress, &s.ClientAddress, &s.admin} {
		var err error
		if *address, err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.configure(o); err != nil {
		return nil, err
	}
	if err := s.Run(ctx); err != nil {
		return nil, err
	}
	if kind == Ejabberd {
		for _, u := range o.Users {
			if err := s.register(ctx, u); err != nil {
				return nil, errors.Join(err, s.Stop())
			}
		}
	}
	return s, nil
}

func port(address string) string { _, p, _ := net.SplitHostPort(address); return p }

// configure fills in the ports and the directory of the documented configurations.
func (s *Server) configure(o Options) error {
	name, text := "ejabberd.yml", ejabberdConfig
	if s.Kind == Prosody {
		name, text = "prosody.cfg.lua", prosodyConfig
	}
	text = strings.NewReplacer(
		"example.org", s.Host, "the-secret", s.Secret, "5347", port(s.ComponentAddress), "5222", port(s.ClientAddress), "5280", port(s.admin), "/var/lib/xmpp", s.dir,
	).Replace(text)
	if o.Edit != nil {
		text = o.Edit(text)
	}
	for _, d := range []string{"spool", "logs", "data"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o700); err != nil {
			return err
		}
	}
	if s.Kind == Prosody {
		if err := os.MkdirAll(s.accounts(), 0o700); err != nil {
			return err
		}
		for _, u := range o.Users {
			if err := s.writeUser(u); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600)
}

// startPatience is how long a server may take to start: ejabberd has taken more than a minute
// on two cores with twenty busy processes.
const startPatience = 3 * time.Minute

// Run starts the process, again after Kill or Stop, and waits until it takes clients.
func (s *Server) Run(ctx context.Context) error {
	s.cmd = s.command()
	log, err := os.OpenFile(filepath.Join(s.dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	ownGroup(s.cmd)
	err = s.cmd.Start()
	if closed := log.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Kind, err)
	}
	cmd, ended := s.cmd, make(chan struct{})
	s.ended = ended
	go func() {
		_ = cmd.Wait() // its exit code says nothing that its log does not
		close(ended)
	}()
	for deadline := time.Now().Add(startPatience); ; {
		if s.listens(ctx) {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("%s has ended: %s", s.Kind, s.console())
		case <-ctx.Done():
			return errors.Join(ctx.Err(), s.Stop())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s does not listen after %s: %s", s.Kind, startPatience, s.console()), s.Stop())
		}
	}
}

func (s *Server) listens(ctx context.Context) bool {
	addresses := []string{s.ComponentAddress, s.ClientAddress}
	if s.Kind == Ejabberd {
		addresses = append(addresses, s.admin) // ejabberd opens its ports one after the other
	}
	for _, address := range addresses {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return false
		}
		_ = conn.Close()
	}
	return true
}

func (s *Server) console() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "console.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// Log returns the end of the server's log.
func (s *Server) Log() string {
	if s.Kind == Prosody {
		return s.console() // its log goes there
	}
	b, err := os.ReadFile(filepath.Join(s.dir, "logs", "ejabberd.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-5000):])
}

func (s *Server) command() *exec.Cmd {
	if s.Kind == Prosody {
		return exec.Command("prosody", "--config", filepath.Join(s.dir, "prosody.cfg.lua"))
	}
	found, _ := filepath.Glob(ejabberdLib) // Installed has looked
	ebin := found[len(found)-1]
	args := []string{"erl", "-noinput", "+S", "1", "-mnesia", "dir", strconv.Quote(filepath.Join(s.dir, "spool")), "-s", "ejabberd", "-pa", ebin}
	if s.hosts {
		hosts := filepath.Join(s.dir, "hosts")
		_ = os.WriteFile(hosts, []byte("127.0.0.1 localhost "+s.Component+"\n"), 0o644) // mount says if it is not there
		args = append([]string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(),
		"EJABBERD_CONFIG_PATH="+filepath.Join(s.dir, "ejabberd.yml"), "EJABBERD_LOG_PATH="+filepath.Join(s.dir, "logs", "ejabberd.log"),
		"SPOOL_DIR="+filepath.Join(s.dir, "spool"), "HOME="+s.dir, "ERL_LIBS="+filepath.Dir(filepath.Dir(ebin)), "ERL_CRASH_DUMP_BYTES=0")
	return cmd
}

// accounts is where Prosody keeps its users.
func (s *Server) accounts() string { return filepath.Join(s.dir, "data", fileName(s.Host), "accounts") }

// fileName is Prosody's name of a file: each byte that is no letter and no digit as %xx.
func fileName(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

// writeUser makes a user of Prosody.
func (s *Server) writeUser(user string) error {
	return os.WriteFile(filepath.Join(s.accounts(), fileName(user)+".dat"), []byte("return {\n\t[\"password\"] = \"secret\";\n};\n"), 0o600)
}

// AddUser makes a user while the server runs. The password is "secret".
func (s *Server) AddUser(ctx context.Context, user string) error {
	if s.Kind == Prosody {
		return s.writeUser(user)
	}
	return s.register(ctx, user)
}

// register makes a user of ejabberd over its HTTP API.
func (s *Server) register(ctx context.Context, user string) error {
	body := fmt.Sprintf(`{"user":%q,"host":%q,"password":"secret"}`, user, s.Host)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.admin+"/api/register", strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("register %s: %s %s: %w", user, resp.Status, answer, err)
	}
	return nil
}

// Account is how one of the users logs in.
func (s *Server) Account(user, resource string) Account {
	return Account{Address: s.ClientAddress, Host: s.Host, User: user, Password: "secret", Resource: resource}
}

// CPU is the processor time that the server has used; 0 where there is no /proc.
func (s *Server) CPU() time.Duration { return CPUOf(s.cmd.Process.Pid) }

// CPUOf is the processor time that a process has used; 0 where there is no /proc.
func CPUOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from the third on
	if len(fields) < 13 {
		return 0
	}
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// Kill is kill -9.
func (s *Server) Kill() error { return s.end(true) }

// Stop ends the process.
func (s *Server) Stop() error { return s.end(false) }

// end signals the process and its children, which have a group of their own.
func (s *Server) end(kill bool) error {
	if err := signalGroup(s.cmd, kill); err != nil {
		return err
	}
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		if err := signalGroup(s.cmd, true); err != nil {
			return err
		}
		<-s.ended
	}
	return nil
}

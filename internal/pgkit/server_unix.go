//go:build unix

package pgkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/heartline-mqtt/heartline/internal/child"
	"github.com/heartline-mqtt/heartline/internal/procstat"
)

// Server is a PostgreSQL in a temporary directory. Its administrator is the user "admin",
// whom it lets in without a password; "secretive" has to give one.
type Server struct {
	Dir  string // of the data
	Port int
	// Env is added to the environment of its processes, from the next Start on.
	Env []string

	bin   string
	root  string // everything is below
	cred  *syscall.Credential
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has
	log   string
}

// postgresBin returns where PostgreSQL's programs are; "": nowhere.
func postgresBin() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path)
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // Debian does not put it on the path
	if len(found) == 0 {
		return ""
	}
	slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) })
	return filepath.Dir(found[len(found)-1])
}

// Installed reports whether Start can start a server here; the error wraps ErrMissing.
func Installed() error {
	if postgresBin() == "" {
		return fmt.Errorf("%w: apt-get install postgresql", ErrMissing)
	}
	if os.Getuid() == 0 {
		if _, err := unprivileged(); err != nil {
			return fmt.Errorf("%w: it does not run as root, and there is no user postgres or nobody: %w", ErrMissing, err)
		}
	}
	return nil
}

// unprivileged is a user that runs the server in the place of root.
func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

// Start makes a cluster and starts it. settings are lines of postgresql.conf. Its data
// survives the end of its processes, but not of the machine: fsync is off unless a setting
// turns it on. It takes some 2 s.
func Start(ctx context.Context, settings ...string) (_ *Server, err error) {
	if err := Installed(); err != nil {
		return nil, err
	}
	p := &Server{bin: postgresBin()}
	if p.root, err = os.MkdirTemp("", "heartline-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if os.Getuid() == 0 {
		if p.cred, err = unprivileged(); err != nil {
			return nil, err
		}
		if err = os.Chown(p.root, int(p.cred.Uid), int(p.cred.Gid)); err != nil {
			return nil, err
		}
	}
	p.Dir, p.log = filepath.Join(p.root, "data"), filepath.Join(p.root, "log")
	if out, err := p.command(ctx, "initdb", "-D", p.Dir, "-U", "admin", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if p.Port, err = freePort(); err != nil {
		return nil, err
	}
	conf := append([]string{
		"listen_addresses = '127.0.0.1'", "port = " + strconv.Itoa(p.Port), "unix_socket_directories = '" + p.root + "'",
		"fsync = off", "max_connections = 200", "shared_buffers = 64MB", "log_line_prefix = '%m [%p] %a '",
	}, settings...)
	if err = appendTo(filepath.Join(p.Dir, "postgresql.conf"), strings.Join(conf, "\n")+"\n"); err != nil {
		return nil, err
	}
	hba := "host all secretive 127.0.0.1/32 scram-sha-256\nhost all nobody_at_all 127.0.0.1/32 reject\nhost all,replication all 127.0.0.1/32 trust\n"
	if err = os.WriteFile(filepath.Join(p.Dir, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return nil, err
	}
	return p, p.start(ctx)
}

// Admit lets in the users of a network as it does those of loopback, once the server listens there.
func (p *Server) Admit(network string) error {
	if err := appendTo(filepath.Join(p.Dir, "pg_hba.conf"), "host all all "+network+" trust\n"); err != nil {
		return err
	}
	_, err := p.SQL("postgres", "SELECT pg_reload_conf()")
	return err
}

func appendTo(name, text string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (p *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, name), args...) //nolint:gosec // PostgreSQL's own programs
	cmd.Dir = p.root
	if len(p.Env) > 0 {
		cmd.Env = append(os.Environ(), p.Env...)
	}
	cmd.SysProcAttr = child.Attr(syscall.SIGQUIT) // it takes its own processes with it
	cmd.SysProcAttr.Credential = p.cred
	return cmd
}

// startPatience is how long PostgreSQL may take to start on two cores with other work, and to
// end after a kill.
const startPatience = 3 * time.Minute

// Start starts the server again, after Kill, and returns when it takes connections.
func (p *Server) Start() error { return p.start(context.Background()) }

func (p *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) //nolint:gosec // the server runs as another user
		if err != nil {
			return err
		}
		cmd, ended := p.command(context.WithoutCancel(ctx), "postgres", "-D", p.Dir), make(chan struct{})
		cmd.Stdout, cmd.Stderr = log, log
		if err := errors.Join(cmd.Start(), log.Close()); err != nil {
			return err
		}
		go func() { _ = cmd.Wait(); close(ended) }()
		p.cmd, p.ended = cmd, ended
		if p.ready(ctx) {
			return nil
		}
		// After a kill, those of its processes that still end hold its memory.
		if err := ctx.Err(); err != nil {
			out, _ := os.ReadFile(p.log)
			return fmt.Errorf("PostgreSQL does not start: %w: %s", err, out[max(0, len(out)-2000):])
		}
	}
}

func (p *Server) ready(ctx context.Context) bool {
	for ctx.Err() == nil {
		if p.command(ctx, "pg_isready", "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(p.Port)).Run() == nil {
			return true
		}
		select {
		case <-p.ended:
			return false
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// Kill kills the server as a loss of power to it would, and returns when it is gone.
// Start starts it again.
func (p *Server) Kill() {
	children := p.children()
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.ended
}

// children are the server's processes below the first.
func (p *Server) children() (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		pid, _ := strconv.Atoi(filepath.Base(name)) // the pattern has only digits
		if s, err := procstat.Read(pid); err == nil && s.Parent == p.cmd.Process.Pid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// CPU is the CPU time of all processes of the server, also of those that have ended.
func (p *Server) CPU() (time.Duration, error) {
	s, err := procstat.Read(p.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	sum := s.CPU() + s.Ended
	for _, pid := range p.children() {
		if s, err := procstat.Read(pid); err == nil { // one that has ended is among the ended
			sum += s.CPU()
		}
	}
	return sum, nil
}

// closePatience is how long the server may take to end by itself.
const closePatience = 10 * time.Second

// Close stops the server and removes all of it, its shared memory too: SIGQUIT has it end
// at once, and leaves nothing as a kill would.
func (p *Server) Close() error {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // it may have ended
		select {
		case <-p.ended:
		case <-time.After(closePatience):
			p.Kill()
		}
	}
	return os.RemoveAll(p.root)
}

// URL is that of a database for a user. options are appended: "&sslmode=disable".
func (p *Server) URL(user, database, options string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable%s", user, p.Port, database, options)
}

// SQL runs statements as the administrator and returns what psql prints.
func (p *Server) SQL(database, sql string) (string, error) {
	out, err := p.command(context.Background(), "psql", "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", strconv.Itoa(p.Port), "-U", "admin", "-d", database, "-c", sql).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

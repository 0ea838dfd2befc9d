//go:build unix

package pgkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// Standby makes a standby of the server and starts it. It streams from address, which may be
// that of a proxy to the server, as application_name name. Promote makes it a primary.
func (p *Server) Standby(ctx context.Context, name, address string) (_ *Server, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	s := &Server{bin: p.bin, cred: p.cred}
	if s.root, err = os.MkdirTemp("", "heartline-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.cred != nil {
		if err = os.Chown(s.root, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			return nil, err
		}
	}
	s.Dir, s.log = filepath.Join(s.root, "data"), filepath.Join(s.root, "log")
	from := fmt.Sprintf("host=%s port=%s user=admin application_name=%s", host, port, name)
	if out, err := s.command(ctx, "pg_basebackup", "-R", "-D", s.Dir, "-d", from, "-c", "fast", "--no-sync").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	conf := "port = " + strconv.Itoa(s.Port) + "\nunix_socket_directories = '" + s.root + "'\n"
	if err = appendTo(filepath.Join(s.Dir, "postgresql.conf"), conf); err != nil {
		return nil, err
	}
	return s, s.start(ctx)
}

// Promote makes a standby a primary, and returns when it is one.
func (p *Server) Promote() error {
	_, err := p.SQL("postgres", "SELECT pg_promote(true, 60)")
	return err
}

// Ended reports whether the server has ended by itself.
func (p *Server) Ended() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

package cmd

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/broker"
)

// backupMark is the last file of a backup: without it, Heartline refuses the directory.
const backupMark = "FORMAT"

func (p *program) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup DIR",
		Short: "Copy the store of a running server into a new directory",
		Long: `Copies the store of a running server into DIR, which must be empty or not there. DIR
is then a data_dir as it was at one moment: it holds every notification that was
accepted before the command began, and the sessions and retained messages of ordinary
MQTT. The server goes on meanwhile. The copy is read and audited before the command
ends; an incomplete copy is removed.

The token must be of the role admin. The configuration, the users file, keys and
certificates are files of yours: copy them, too.

To restore, stop the server, copy DIR to data_dir, and start it.`,
		Example: "  heartline backup /var/backups/heartline/$(date +%F) --token-file admin.token",
		Args:    exactArgs(1, "backup DIR"),
	}
	srv := p.callsServer(cmd)
	cmd.RunE = p.action(func(ctx context.Context, args []string) error { return p.backup(ctx, srv, args[0]) })
	return cmd
}

func (p *program) backup(ctx context.Context, srv *server, dir string) error {
	c, err := srv.client()
	if err != nil {
		return err
	}
	began := time.Now()
	t, err := newBackupTarget(dir)
	if err != nil {
		return err
	}
	n, err := t.fetch(ctx, c)
	if err != nil {
		return t.discard(err)
	}
	audit, err := broker.CheckBackup(dir)
	if err != nil {
		return t.discard(fmt.Errorf("the backup is not whole: %w", err))
	}
	summary := fmt.Sprintf("%s  %.1f MB in %s, %d deliveries, %d of them unfinished, audit %d",
		dir, float64(n)/1e6, time.Since(began).Round(10*time.Millisecond), audit.Accepted, audit.Unfinished, audit.Unaccounted)
	if _, err := fmt.Fprintln(p.Stdout, plain(summary)); err != nil {
		return err
	}
	if audit.Unaccounted != 0 {
		return fmt.Errorf("%d deliveries are unaccounted for in the server's store, and so in its backup: see its log", audit.Unaccounted)
	}
	return nil
}

// backupTarget is the directory that a backup is written to.
type backupTarget struct {
	dir  string
	made []string // directories that were made, the outermost first
}

// newBackupTarget makes dir, or takes an empty one, and shows that it can be written.
func newBackupTarget(dir string) (*backupTarget, error) {
	t := &backupTarget{dir: dir}
	names, err := os.ReadDir(dir)
	switch {
	case len(names) > 0:
		return nil, usagef("%s is not empty (it holds %s): name a new or an empty directory", dir, names[0].Name())
	case errors.Is(err, fs.ErrNotExist):
		for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
			if _, err := os.Lstat(d); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			t.made = append([]string{d}, t.made...)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, t.discard(fmt.Errorf("make the directory: %w", err))
		}
	case errors.Is(err, syscall.ENOTDIR):
		return nil, usagef("%s is a file: name a new or an empty directory", dir)
	case err != nil:
		return nil, fmt.Errorf("look into the directory: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		return nil, t.discard(fmt.Errorf("write into the directory: %w", err))
	}
	return t, nil
}

// discard removes everything that was written, and returns why.
func (t *backupTarget) discard(why error) error {
	err := func() error {
		names, err := os.ReadDir(t.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, n := range names {
			err = errors.Join(err, os.RemoveAll(filepath.Join(t.dir, n.Name())))
		}
		for _, d := range slices.Backward(t.made) {
			if rerr := os.Remove(d); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				return errors.Join(err, rerr)
			}
		}
		return nil
	}()
	if err != nil {
		return fmt.Errorf("%w\nan unfinished backup is left in %s, which no server accepts: remove it (%w)", why, t.dir, err)
	}
	return why
}

// fetch writes the archive that the server sends, and syncs it.
func (t *backupTarget) fetch(ctx context.Context, c *client) (n int64, err error) {
	resp, err := c.send(ctx, http.MethodPost, "/v1/backup", nil, http.Header{"Accept": {"application/x-tar, application/problem+json"}}, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return 0, err
	}
	defer root.Close() //nolint:errcheck // nothing is written to it
	archive := tar.NewReader(resp.Body)
	last := ""
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, cutOff(ctx, c, err)
		}
		if d := path.Dir(h.Name); h.Typeflag != tar.TypeReg || d != "." && d != "db" {
			return n, fmt.Errorf("%s sent %q, which belongs to no backup: is --server right?", c.base.Host, h.Name)
		}
		if err := writeSynced(root, h.Name, archive); err != nil {
			switch {
			case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
				return n, fmt.Errorf("the disk of %s is full, no backup was made: free some space or name another directory", t.dir)
			case errors.Is(err, errReading):
				return n, cutOff(ctx, c, err)
			}
			return n, err
		}
		n += h.Size
		last = h.Name
	}
	if last != backupMark {
		return n, cutOff(ctx, c, io.ErrUnexpectedEOF)
	}
	return n, errors.Join(syncDir(filepath.Join(t.dir, "db")), syncDir(t.dir), syncDir(filepath.Dir(filepath.Clean(t.dir))))
}

func cutOff(ctx context.Context, c *client, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted, no backup was made")
	}
	return fmt.Errorf("%s has cut the backup off (%w), no backup was made: its log says why", c.base.Host, err)
}

// errReading marks an error of the source of a copy.
var errReading = errors.New("read")

type source struct{ io.Reader }

func (s source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errReading, err)
	}
	return n, err
}

func writeSynced(root *os.Root, name string, from io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, source{from})
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDir puts the names in a directory on the disk. Not every system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // nothing is written to it
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !strings.Contains(err.Error(), "handle") {
		return err
	}
	return nil
}

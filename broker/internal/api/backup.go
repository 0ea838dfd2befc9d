package api

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// lastFile ends a backup: a directory without it is no store, so that a backup that was
// cut off cannot be taken for a whole one.
const lastFile = "FORMAT"

func (a *API) registerBackup() {
	raw(a, huma.Operation{
		OperationID: "backup", Method: http.MethodPost, Path: "/v1/backup",
		Summary: "Copy the store while the server works",
		Description: "For the role admin. The answer is a tar archive of a data_dir: it holds every notification that was accepted before the call, " +
			"and the state of ordinary MQTT. It is whole if its last entry is " + lastFile + "; `heartline backup` checks that and more.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The archive", Content: map[string]*huma.MediaType{"application/x-tar": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}},
		}},
		Errors: []int{http.StatusNotImplemented, http.StatusServiceUnavailable},
	}, nil, a.backup)
}

func (a *API) backup(w http.ResponseWriter, r *http.Request, _ *struct{}) error {
	if who := callerOf(r.Context()); !who.Admin {
		return newProblem(http.StatusForbidden, codeForbidden, "this call is for the role admin")
	}
	if a.opts.Backup == nil {
		return newProblem(http.StatusNotImplemented, codeUnsupported, "there is nothing to back up: %s",
			cmp.Or(a.opts.NoBackup, "this server has no store on a disk"))
	}
	begun := time.Now()
	out := &slowWriter{ResponseWriter: w, rc: http.NewResponseController(w), api: a}
	out.disarm()    // the checkpoint takes its time
	defer out.arm() // the server writes the end of the answer
	dir, remove, err := a.opts.Backup()
	if err != nil {
		p := newProblem(http.StatusServiceUnavailable, codeUnavailable, "no backup was made: %s", err)
		p.headers.Set("Retry-After", retryUnavailable)
		a.log.Error("backup failed", "error", err)
		return p
	}
	w.Header().Set("Content-Type", "application/x-tar")
	err = a.sendBackup(r.Context(), out, dir)
	if err := remove(); err != nil {
		a.log.Error("checkpoint of a backup not removed, the next start removes it", "path", dir, "error", err)
	}
	if err != nil {
		a.log.Error("backup cut off", "sent_bytes", out.n, "error", err)
		panic(http.ErrAbortHandler) // the client must not take it for a whole one
	}
	a.log.Info("backup made", "bytes", out.n, "took", time.Since(begun).Round(time.Millisecond))
	return nil
}

// sendBackup writes the files of dir as a tar archive, lastFile last. A client that
// takes no bytes for the write timeout ends it.
func (a *API) sendBackup(ctx context.Context, out io.Writer, dir string) error {
	files, err := filesOf(dir)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	for _, name := range files {
		if err := addFile(archive, dir, name); err != nil {
			return errors.Join(fmt.Errorf("send %s: %w", name, err), ctx.Err())
		}
	}
	return archive.Close()
}

func filesOf(dir string) (names []string, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(isLast(a), isLast(b))
	})
	return names, err
}

func isLast(name string) int {
	if name == lastFile {
		return 1
	}
	return 0
}

func addFile(archive *tar.Writer, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o600, ModTime: info.ModTime(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}

// slowWriter gives each write its own deadline, and ends where the API closes.
type slowWriter struct {
	http.ResponseWriter
	rc  *http.ResponseController
	api *API
	n   int64
}

func (w *slowWriter) Write(p []byte) (int, error) {
	select {
	case <-w.api.closing:
		return 0, errors.New("the server is shutting down")
	default:
	}
	w.arm()
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	if err == nil {
		w.disarm()
	}
	return n, err
}

func (w *slowWriter) arm() { _ = w.rc.SetWriteDeadline(time.Now().Add(w.api.timing.write)) } // not every writer can

// disarm takes the deadline back: over HTTP/2 one that passes between two writes resets the
// stream.
func (w *slowWriter) disarm() { _ = w.rc.SetWriteDeadline(time.Time{}) }

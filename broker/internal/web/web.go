package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

// The pattern names no folder, so that it has something to match where dist/ has
// not been built: dist.html.
//
//go:embed dist*
var embedded embed.FS

// TerminalPath is where Terminal is to be mounted: its page asks for addresses
// below it, and its service worker may serve nothing else.
const TerminalPath = "/terminal/"

// TerminalOptions are what the page has to know of its broker.
type TerminalOptions struct {
	TopicPrefix string // contract §3
	Password    bool   // the broker asks for one
}

// Terminal is the handler of the web terminal.
func Terminal(o TerminalOptions) http.Handler { return terminal(embedded, o) }

func terminal(files fs.FS, o TerminalOptions) http.Handler {
	settings, err := json.Marshal(map[string]any{"topic_prefix": o.TopicPrefix, "password": o.Password})
	if err != nil {
		panic(fmt.Errorf("settings of the web terminal: %w", err)) // a string and a bool
	}
	p := pages{"settings.json": newFile("settings.json", settings)}
	if err := p.add(files, "dist"); err != nil {
		panic(fmt.Errorf("embedded files of the web terminal: %w", err)) // they are in memory
	}
	if _, built := p[""]; !built {
		page, err := fs.ReadFile(files, "dist.html")
		if err != nil {
			panic(fmt.Errorf("embedded files of the web terminal: %w", err))
		}
		p[""] = newFile("dist.html", page)
	}
	return http.StripPrefix(TerminalPath, p)
}

// pages are files by their path; "" is the index.
type pages map[string]file

type file struct {
	content     []byte
	contentType string
	etag        string
	immutable   bool // its name changes with its content
}

// assets is the folder whose files have the hash of their content in their names.
const assets = "assets/"

// A map of our own: mime.TypeByExtension asks the system, which may say anything.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
	".json": "application/json",
	".txt":  "text/plain; charset=utf-8",
}

func newFile(name string, content []byte) file {
	sum := sha256.Sum256(content)
	return file{
		content: content, contentType: contentTypes[path.Ext(name)], immutable: strings.HasPrefix(name, assets),
		etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`,
	}
}

// add adds the files of a folder, if the folder exists.
func (p pages) add(files fs.FS, dir string) error {
	if _, err := fs.Stat(files, dir); err != nil {
		return nil //nolint:nilerr // not built; terminal says so
	}
	return fs.WalkDir(files, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		name = strings.TrimPrefix(name, dir+"/")
		f := newFile(name, content)
		if f.contentType == "" {
			return fmt.Errorf("%s: no content type is known for it", name)
		}
		if name == "index.html" {
			name = ""
		}
		p[name] = f
		return nil
	})
}

// policy lets a page use resources of its own origin, and nothing else. A
// WebSocket to the same host is of 'self' (CSP 3 §6.7.2.8).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ServeHTTP implements http.Handler.
func (p pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "a page takes GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	f, ok := p[r.URL.Path]
	if !ok {
		http.Error(w, "there is no such page", http.StatusNotFound)
		return
	}
	h.Set("Content-Type", f.contentType)
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer") // an address names account and device
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Etag", f.etag)
	if f.immutable {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache") // kept, and asked about
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content)) // for If-None-Match and ranges
}

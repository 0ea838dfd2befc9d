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

// TerminalPath and DashboardPath are where the handlers are to be mounted: their pages
// ask for addresses below them, and a service worker may serve nothing else.
const (
	TerminalPath  = "/terminal/"
	DashboardPath = "/dashboard/"
)

// TerminalOptions are what the web terminal has to know of its broker.
type TerminalOptions struct {
	TopicPrefix string // contract §3
	Password    bool   // the broker asks for one
	WebPushKey  string // the application server key of its pushes; "": it makes none to browsers
}

// DashboardOptions are what the dashboard has to know of its broker.
type DashboardOptions struct {
	Token bool // the API asks for a token
}

// Terminal is the handler of the web terminal.
func Terminal(o TerminalOptions) http.Handler { return terminal(embedded, o) }

func terminal(files fs.FS, o TerminalOptions) http.Handler {
	settings := map[string]any{"topic_prefix": o.TopicPrefix, "password": o.Password}
	if o.WebPushKey != "" {
		settings["webpush_key"] = o.WebPushKey
	}
	return http.StripPrefix(TerminalPath, newPages(files, "dist", "dist.html", settings))
}

// Dashboard is the handler of the dashboard.
func Dashboard(o DashboardOptions) http.Handler { return dashboard(embedded, o) }

func dashboard(files fs.FS, o DashboardOptions) http.Handler {
	return http.StripPrefix(DashboardPath, newPages(files, "dist-dashboard", "dist-dashboard.html", map[string]any{"token": o.Token}))
}

// Built reports whether the binary holds the pages. Without them it serves
// placeholders that say how to have them.
func Built() bool {
	_, err := fs.Stat(embedded, "dist-dashboard")
	return err == nil
}

// newPages are the files of a folder, or a placeholder where it has not been built.
func newPages(files fs.FS, dir, placeholder string, settings map[string]any) pages {
	text, err := json.Marshal(settings)
	if err != nil {
		panic(fmt.Errorf("settings of a page: %w", err)) // strings and bools
	}
	p := pages{"settings.json": newFile("settings.json", text)}
	if err := p.add(files, dir); err != nil {
		panic(fmt.Errorf("embedded files of a page: %w", err)) // they are in memory
	}
	if _, built := p[""]; !built {
		page, err := fs.ReadFile(files, placeholder)
		if err != nil {
			panic(fmt.Errorf("embedded files of a page: %w", err))
		}
		p[""] = newFile(placeholder, page)
	}
	return p
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
	".png":  "image/png",
	".json": "application/json",
	".txt":  "text/plain; charset=utf-8",

	".webmanifest": "application/manifest+json",
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
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; manifest-src 'self'; " +
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

package web

import (
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func request(h http.Handler, method, path string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

var built = fstest.MapFS{
	"dist.html":                 {Data: []byte("run make web")},
	"dist/index.html":           {Data: []byte("<p>page")},
	"dist/sw.js":                {Data: []byte("worker")},
	"dist/licences.txt":         {Data: []byte("MIT")},
	"dist/assets/main-AB12.js":  {Data: []byte("program")},
	"dist/assets/style-1.css":   {Data: []byte("style")},
	"dist/assets/icon-1.svg":    {Data: []byte("<svg/>")},
	"dist/assets/icon-2.png":    {Data: []byte("PNG")},
	"dist/manifest.webmanifest": {Data: []byte("{}")},
}

func TestTerminal(t *testing.T) {
	h := terminal(built, TerminalOptions{TopicPrefix: "a/b", Password: true, WebPushKey: "BAEC"})
	const kept, asked = "public, max-age=31536000, immutable", "no-cache"
	for _, tt := range []struct{ path, body, contentType, cache string }{
		{"/terminal/", "<p>page", "text/html; charset=utf-8", asked},
		{"/terminal/sw.js", "worker", "text/javascript; charset=utf-8", asked},
		{"/terminal/licences.txt", "MIT", "text/plain; charset=utf-8", asked},
		{"/terminal/settings.json", `{"password":true,"topic_prefix":"a/b","webpush_key":"BAEC"}`, "application/json", asked},
		{"/terminal/assets/main-AB12.js", "program", "text/javascript; charset=utf-8", kept},
		{"/terminal/assets/style-1.css", "style", "text/css; charset=utf-8", kept},
		{"/terminal/assets/icon-1.svg", "<svg/>", "image/svg+xml", kept},
		{"/terminal/assets/icon-2.png", "PNG", "image/png", kept},
		{"/terminal/manifest.webmanifest", "{}", "application/manifest+json", asked},
	} {
		w := request(h, http.MethodGet, tt.path+"?account=alice", nil)
		header := w.Result().Header
		if w.Code != http.StatusOK || w.Body.String() != tt.body || header.Get("Content-Type") != tt.contentType || header.Get("Cache-Control") != tt.cache {
			t.Errorf("%s: %d %q %v", tt.path, w.Code, w.Body, header)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Content-Security-Policy": policy,
		} {
			if header.Get(name) != want {
				t.Errorf("%s: %s is %q", tt.path, name, header.Get(name))
			}
		}
		again := request(h, http.MethodGet, tt.path, http.Header{"If-None-Match": {header.Get("Etag")}})
		if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s again: %d", tt.path, again.Code)
		}
		if w := request(h, http.MethodHead, tt.path, nil); w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("HEAD %s: %d", tt.path, w.Code)
		}
	}
	for _, path := range []string{"/terminal/nothing", "/terminal/index.html", "/terminal/assets/", "/terminal/../dist.html", "/terminal/dist.html"} {
		if w := request(h, http.MethodGet, path, nil); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := request(h, http.MethodPost, "/terminal/", nil); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %v", w.Code, w.Header())
	}
	for _, word := range []string{"unsafe", "http:", "https:", "*", "data:", "blob:"} {
		if strings.Contains(policy, word) {
			t.Errorf("the policy lets %s in", word)
		}
	}
}

// TestNotBuilt: `go build` in a fresh checkout works, and the page says what to do.
func TestNotBuilt(t *testing.T) {
	page, err := fs.ReadFile(embedded, "dist.html")
	if err != nil {
		t.Fatal(err)
	}
	h := terminal(fstest.MapFS{"dist.html": {Data: page}}, TerminalOptions{})
	if w := request(h, http.MethodGet, TerminalPath, nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "make web") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := request(h, http.MethodGet, TerminalPath+"sw.js", nil); w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
}

// TestDashboardNotBuilt: the same of the dashboard.
func TestDashboardNotBuilt(t *testing.T) {
	page, err := fs.ReadFile(embedded, "dist-dashboard.html")
	if err != nil {
		t.Fatal(err)
	}
	h := dashboard(fstest.MapFS{"dist-dashboard.html": {Data: page}}, DashboardOptions{Token: true})
	if w := request(h, http.MethodGet, DashboardPath, nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "make web") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := request(h, http.MethodGet, DashboardPath+"settings.json", nil); w.Body.String() != `{"token":true}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestEmbedded: the built pages are served, and load nothing from elsewhere.
func TestEmbedded(t *testing.T) {
	for _, page := range []struct {
		name, index, path string
		handler           http.Handler
	}{
		{"terminal", "dist/index.html", TerminalPath, Terminal(TerminalOptions{TopicPrefix: "heartline"})},
		{"dashboard", "dist-dashboard/index.html", DashboardPath, Dashboard(DashboardOptions{})},
	} {
		t.Run(page.name, func(t *testing.T) {
			index, err := fs.ReadFile(embedded, page.index)
			if err != nil {
				testtool.LeaveOut(t, "the web pages are not built", "make web, which needs npm: apt-get install nodejs npm")
			}
			found := 0
			for _, attribute := range []string{`src="`, `href="`} {
				for _, rest := range strings.Split(string(index), attribute)[1:] {
					address, _, _ := strings.Cut(rest, `"`)
					if strings.HasPrefix(address, "#") {
						continue
					}
					found++
					if w := request(page.handler, http.MethodGet, page.path+address, nil); w.Code != http.StatusOK {
						t.Errorf("%s: %d", address, w.Code)
					}
				}
			}
			if found < 4 {
				t.Errorf("the page loads only %d files", found)
			}
			if strings.Contains(string(index), "<style") || strings.Contains(string(index), "style=") || strings.Contains(string(index), "onclick=") {
				t.Error("the page has inline styles or scripts, which its policy forbids")
			}
		})
	}
}

// TestLockFile: it names each installed package and its hash, and not the address of
// the download.
func TestLockFile(t *testing.T) {
	for _, name := range []string{"package-lock.json", "../../../clients/js/package-lock.json"} {
		lock, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(lock), `"resolved"`) || !strings.Contains(string(lock), `"integrity": "sha512-`) {
			t.Errorf("%s must have hashes and no addresses: npm config set omit-lockfile-registry-resolved true", name)
		}
	}
}

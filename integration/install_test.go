package integration

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const releases = "https://github.com/heartline-mqtt/heartline/releases/download"

// release serves this tree's program as a release that release.sh has made.
func release(t *testing.T) *httptest.Server {
	t.Helper()
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	var archive strings.Builder
	zipped := gzip.NewWriter(&archive)
	files := tar.NewWriter(zipped)
	if err := files.WriteHeader(&tar.Header{Name: "heartline", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := files.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dir, name := path.Split(r.URL.Path)
		archiveName := "heartline_" + strings.Trim(strings.TrimPrefix(dir, "/v"), "/") + "_linux_amd64.tar.gz"
		switch name {
		case archiveName:
			_, _ = io.WriteString(w, archive.String())
		case "SHA256SUMS":
			_, _ = fmt.Fprintf(w, "%x  heartline_of_another_platform.tar.gz\n%x  %s\n", sha256.Sum256(nil), sha256.Sum256([]byte(archive.String())), archiveName)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// TestInstallPage runs the commands with which docs/install.md fetches a release.
func TestInstallPage(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"curl", "sha256sum"} {
		tool(t, name, name)
	}
	page, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sh\n(.*?)```").FindStringSubmatch(string(page))
	if block == nil || !strings.Contains(block[1], releases) {
		t.Fatalf("the first commands of docs/install.md fetch no release: %q", block)
	}
	cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", strings.ReplaceAll(block[1], releases, release(t).URL))
	cmd.Dir, cmd.Env = t.TempDir(), environ(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDeployedConfigurations: `config check` accepts the configuration of the .deb, of the
// container and of Kubernetes.
func TestDeployedConfigurations(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users.yaml")
	if r := heartline(t, nil, "token", "create", "--file", users, "backend"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	configs := map[string]string{}
	for _, name := range []string{"deb", "docker"} {
		text, err := os.ReadFile("../deploy/" + name + "/heartline.yaml")
		if err != nil {
			t.Fatal(err)
		}
		configs[name] = string(text)
	}
	manifests, err := os.Open("../deploy/kubernetes/heartline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manifests.Close() }()
	var configMap struct{ Data map[string]string }
	if err := yaml.NewDecoder(manifests).Decode(&configMap); err != nil { // the first document
		t.Fatal(err)
	}
	configs["kubernetes"] = configMap.Data["heartline.yaml"]
	nodes, err := os.ReadFile("../deploy/docker/nodes/heartline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	url := filepath.Join(t.TempDir(), "url") // of setup.sh; the certificates are compose.yaml's
	if err := os.WriteFile(url, []byte("postgres://heartline:secret@primary,standby/heartline"), 0o600); err != nil {
		t.Fatal(err)
	}
	nodesText, _, _ := strings.Cut(strings.ReplaceAll(string(nodes), "/run/secrets/database-url", url), "\ncluster:")
	configs["nodes"] = nodesText
	for name, text := range configs {
		file := filepath.Join(t.TempDir(), "heartline.yaml")
		text = regexp.MustCompile(`/[a-z/-]*/users\.yaml`).ReplaceAllString(text, users)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := heartline(t, nil, "config", "check", "--config", file); r.code != 0 || text == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestKubernetesProbes: a pod whose disk is nearly full at its start runs, is not
// restarted, and keeps its place in the Service.
func TestKubernetesProbes(t *testing.T) {
	manifests, err := os.Open("../deploy/kubernetes/heartline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manifests.Close() }()
	type probe struct {
		HTTPGet struct{ Path string } `yaml:"httpGet"`
	}
	var set struct {
		Kind string
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Startup   *probe `yaml:"startupProbe"`
						Readiness *probe `yaml:"readinessProbe"`
						Liveness  *probe `yaml:"livenessProbe"`
					}
				}
			}
		}
	}
	for documents := yaml.NewDecoder(manifests); set.Kind != "StatefulSet"; {
		if err := documents.Decode(&set); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, "HEARTLINE_STORE_MIN_FREE=1000TiB")
	if status, body := s.call(http.MethodGet, "/readyz", ""); status != http.StatusServiceUnavailable {
		t.Fatalf("/readyz answers %d: %s", status, body)
	}
	c := set.Spec.Template.Spec.Containers[0]
	if c.Startup == nil || c.Liveness == nil {
		t.Fatal("no startup probe or no liveness probe")
	}
	for kind, p := range map[string]*probe{"startup": c.Startup, "readiness": c.Readiness, "liveness": c.Liveness} {
		if p == nil {
			continue
		}
		if status, _ := s.call(http.MethodGet, p.HTTPGet.Path, ""); p.HTTPGet.Path == "" || status != http.StatusOK {
			t.Errorf("%s probe: %q answers %d", kind, p.HTTPGet.Path, status)
		}
	}
}

package integration

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/credentials"
)

// fenced is a block of code of a page.
type fenced struct {
	page, language, mark, text string
}

// documents are the pages that users read, by their paths from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md", "examples/*.md", "examples/*/*.md", "clients/js/*.md"} {
		names, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			found[strings.TrimPrefix(filepath.ToSlash(name), "../")] = string(text)
		}
	}
	if len(found) < 25 {
		t.Fatalf("only %d pages found", len(found))
	}
	return found
}

var fence = regexp.MustCompile("(?ms)^ *```([a-z]*)([^\n`]*)\n(.*?)^ *```$")

// blocks returns the blocks of code of a page.
func blocks(page, text string) (all []fenced) {
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		all = append(all, fenced{page, m[1], strings.TrimSpace(m[2]), m[3]})
	}
	return all
}

// ranBy names the test that runs or checks the blocks of a page, by page and language, with
// the mark behind the language where that matters. "not run: " begins the reason why none can.
var ranBy = map[string]string{
	"README.md sh":                   "TestReadme",
	"README.md json":                 "TestReadme",
	"README.md text":                 "TestReadme",
	"README.md go":                   "TestReadmePlugin",
	"README.md ":                     "not run: a drawing",
	"clients/js/README.md js":        "not run: the first lines of the example of docs/clients.md, which TestJavaScriptClient runs",
	"docs/architecture.md ":          "TestArchitecturePage",
	"docs/backend.md sh":             "TestBackendPageCurl",
	"docs/backend.md json":           "TestBackendPageCurl",
	"docs/backend.md text":           "TestBackendPageCurl",
	"docs/backend.md text output":    "TestBackendPagePrograms",
	"docs/backend.md text webhook":   "TestBackendPageWebhooks",
	"docs/backend.md js":             "TestBackendPagePrograms",
	"docs/backend.md python":         "TestBackendPagePrograms",
	"docs/backend.md go":             "TestBackendPagePrograms",
	"docs/backend.md php":            "TestBackendPagePrograms",
	"docs/backend.md js webhook":     "TestBackendPageWebhooks",
	"docs/backend.md python webhook": "TestBackendPageWebhooks",
	"docs/backend.md go webhook":     "TestBackendPageWebhooks",
	"docs/backend.md php webhook":    "TestBackendPageWebhooks",
	"docs/backend.md yaml":           "TestConfigurationsInPages",
	"docs/clients.md sh":             "TestJavaScriptPack",
	"docs/clients.md js":             "TestJavaScriptClient",
	"docs/clients.md js page":        "TestJavaScriptPage",
	"docs/clients.md js worker":      "TestJavaScriptPage",
	"docs/clients.md js bare":        "TestJavaScriptWorker",
	"docs/clients.md json":           "TestClientsPagePayloads",
	"docs/clients.md c":              "TestClientsPageC",
	"docs/clients.md jsx":            "not run: React Native needs a phone; TestJavaScriptPackage runs the package as Metro bundles it",
	"docs/clients.md swift":          "not run: needs Xcode, for iOS's frameworks and CocoaMQTT",
	"docs/clients.md kotlin":         "not run: needs a Kotlin compiler and Maven",
	"docs/clients.md python":         "TestClientsPagePython",
	"docs/install.md sh":             "TestInstallPage",
	"docs/install.md sh deb":         "not run: make package-test installs the .deb, as root in a Debian that systemd boots",
	"docs/install.md ini deb":        "not run: make package-test runs the service with it",
	"docs/install.md sh docker":      "not run: needs a container engine; make image-test runs what the Dockerfile lays out",
	"docs/install.md sh users":       "not run: make package-test runs them, as root in a Debian that systemd boots",
	"docs/install.md yaml":           "TestConfigurationsInPages",
	"docs/install.md yaml users":     "TestConfigurationsInPages",
	"docs/mqtt.md yaml":              "TestConfigurationsInPages",
	"docs/operating.md console":      "TestOperatingPageCommands",
	"docs/push-content.md json":      "TestPushContentPage",
	"docs/state-machine.md ":         "not run: a drawing",
	"docs/xmpp.md lua":               "TestDocumentedConfigurations",
	"docs/xmpp.md yaml":              "TestConfigurationsInPages",
	"docs/xmpp.md yaml ejabberd":     "TestDocumentedConfigurations",
	"docs/xmpp.md xml":               "not run: TestSlixmpp's client, integration/xmpp/client.py, sends these stanzas to both servers",
	"examples/alarm/README.md sh":    "TestExamplesAsWritten",
	"examples/chat/README.md sh":     "TestExamplesAsWritten",
	"examples/fleet/README.md sh":    "TestExamplesAsWritten",
	"examples/plugin/README.md sh":   "not run: its ports are fixed; TestPlugin of examples/plugin makes these calls on others",
}

// TestLayoutEveryBlockIsRun: each block of code of a page has a test that runs or compares
// it, or a reason why that cannot be.
func TestLayoutEveryBlockIsRun(t *testing.T) {
	tests := map[string]bool{}
	err := fs.WalkDir(os.DirFS("."), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for page, text := range documents(t) {
		for _, b := range blocks(page, text) {
			key := page + " " + b.language
			if exact := key + " " + b.mark; ranBy[exact] != "" {
				key = exact
			}
			by := ranBy[key]
			used[key] = true
			switch {
			case by == "":
				t.Errorf("no test runs this block of %s (%s %s): write one and name it in ranBy, or give the reason\n%s", page, b.language, b.mark, b.text)
			case !tests[by] && !strings.HasPrefix(by, "not run: "):
				t.Errorf("ranBy names %s for %s, which is no test", by, key)
			}
		}
	}
	for key := range ranBy {
		if !used[key] {
			t.Errorf("ranBy names %q, and there is no such block", key)
		}
	}
}

var (
	inline  = regexp.MustCompile("`([^`]+)`")
	invoked = regexp.MustCompile(`(?m)(?:^|[\s(|;&])(?:\./)?heartline ([a-z][^|;)&>#]*)`)
	made    = regexp.MustCompile(`(?m)(?:^|[(|;&] *)make ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)`)
	option  = regexp.MustCompile(`^--?[a-zA-Z][a-z0-9-]*`)
)

// commandLines are what a page tells its reader to type: lines of blocks of sh and console,
// and code within a line.
func commandLines(page, text string) (lines []string) {
	for _, b := range blocks(page, text) {
		if b.language == "sh" {
			lines = append(lines, strings.Split(strings.ReplaceAll(b.text, "\\\n", " "), "\n")...)
		}
		for line := range strings.Lines(b.text) {
			if command, is := strings.CutPrefix(line, "$ "); is && b.language == "console" {
				lines = append(lines, strings.TrimSpace(command))
			}
		}
	}
	for _, m := range inline.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		lines = append(lines, strings.Join(strings.Fields(m[1]), " "))
	}
	return lines
}

// TestCommandsInPages: every command of heartline that a page shows exists, with its flags;
// every target of make does, too.
func TestCommandsInPages(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	helps := map[string]string{}
	help := func(command string) string {
		if helps[command] == "" {
			helps[command] = heartline(t, nil, append(strings.Fields(command), "--help")...).out
		}
		return helps[command]
	}
	checked := 0
	for page, text := range documents(t) {
		if page == "CHANGELOG.md" { // it also names what is gone
			continue
		}
		for _, line := range commandLines(page, text) {
			for _, m := range made.FindAllStringSubmatch(line, -1) {
				checked++
				for target := range strings.FieldsSeq(m[1]) {
					if !strings.Contains(string(makefile), "\n"+target+":") {
						t.Errorf("%s: %q: the Makefile has no target %s", page, line, target)
					}
				}
			}
			for _, m := range invoked.FindAllStringSubmatch(line, -1) {
				checked++
				words := strings.Fields(m[1])
				command := words[0]
				if !strings.Contains(help(command), "\n  heartline "+command) {
					t.Errorf("%s: %q: heartline has no command %s", page, line, command)
					continue
				}
				if len(words) > 1 && strings.Contains(help(command), "\n  "+words[1]+" ") {
					command += " " + words[1]
				}
				for _, word := range words[1:] {
					if flag := option.FindString(word); flag != "" && !slices.Contains(strings.FieldsFunc(help(command), func(r rune) bool { return r == ' ' || r == ',' || r == '\n' }), flag) {
						t.Errorf("%s: %q: heartline %s has no flag %s", page, line, command, flag)
					}
				}
			}
		}
	}
	if checked < 80 {
		t.Errorf("only %d commands found", checked)
	}
	t.Logf("%d commands", checked)
}

// TestConfigurationsInPages: `config check` accepts each piece of a configuration that a page
// shows, with files of this test in the place of those it names.
func TestConfigurationsInPages(t *testing.T) {
	t.Parallel()
	sim, _ := apple(t)
	dir := t.TempDir()
	secrets := map[string]string{
		"webhook.secret": credentials.NewWebhookSecret() + "\n",
		"xmpp-secret":    "the-secret\n",
		"apns.p8":        string(sim.Key().PEM),
	}
	for name, text := range secrets {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, checked := filepath.Join(dir, "heartline.yaml"), 0
	for page, text := range documents(t) {
		for _, b := range blocks(page, text) {
			if b.language != "yaml" || b.mark == "ejabberd" {
				continue
			}
			checked++
			named := regexp.MustCompile(`/(?:etc/heartline|run/credentials/heartline\.service)/([a-z0-9.-]+)`).ReplaceAllStringFunc(b.text, func(path string) string {
				if secrets[filepath.Base(path)] == "" {
					t.Errorf("%s names %s, of which this test knows nothing", page, path)
				}
				return filepath.Join(dir, filepath.Base(path))
			})
			if err := os.WriteFile(file, []byte(named), 0o600); err != nil {
				t.Fatal(err)
			}
			// What the piece leaves to its reader to have.
			env := []string{"HEARTLINE_AUTH_MODE=none"}
			if strings.Contains(b.text, "apns:") {
				env = append(env, "HEARTLINE_FALLBACK_APNS_ENABLED=true", "HEARTLINE_FALLBACK_APNS_KEY_ID=KEYKEYKEY1", "HEARTLINE_FALLBACK_APNS_TEAM_ID=TEAMTEAM12", "HEARTLINE_FALLBACK_APNS_TOPIC=com.example.app")
			}
			if r := heartline(t, env, "config", "check", "--config", file); r.code != 0 {
				t.Errorf("%s:\n%s%s", page, b.text, r.errors)
			}
		}
	}
	if checked < 5 {
		t.Errorf("only %d pieces found", checked)
	}
}

// TestOperatingPageCommands runs the commands of docs/operating.md that show an answer, each on a
// server in the state that the page speaks of.
func TestOperatingPageCommands(t *testing.T) {
	t.Parallel()
	sim, env := apple(t)
	s := serve(t, env...)
	half := s.raw(5, "alice", "phone") // acknowledges nothing, and has no token
	defer half.Close()
	s.register("bob", "tablet", deviceToken(1))
	sim.Script(apnssim.Script{Status: http.StatusGone, Reason: "Unregistered", Timestamp: time.Now().Add(time.Minute).UnixMilli()})
	events := s.events("")
	s.notify(`{"id":"half","account":"alice","title":"Table for two"}`)
	gone := s.notify(`{"account":"bob","title":"Hello"}`)
	events.until("waiting", "half")
	events.until("waiting", gone)

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "admin.token"), []byte("unused\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	figures := regexp.MustCompile(`(\d+m)?\d+(\.\d+)?( [kM]?B|m?s\b)?`)
	page := documents(t)["docs/operating.md"]
	for _, b := range blocks("docs/operating.md", page) {
		if b.language != "console" {
			continue
		}
		command, want, _ := strings.Cut(strings.TrimPrefix(b.text, "$ "), "\n")
		cmd := exec.CommandContext(t.Context(), "bash", "-ec", strings.ReplaceAll(command, "/var/backups", dir))
		cmd.Dir, cmd.Env = dir, append(environ(t), "HEARTLINE_SERVER="+s.http)
		cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		got := strings.ReplaceAll(string(out), dir, "/var/backups")
		if strings.Contains(command, "backup") {
			got, want = figures.ReplaceAllString(normal(got), "N"), figures.ReplaceAllString(normal(want), "N")
		}
		if err != nil || normal(got) != normal(want) {
			t.Errorf("%s: %v; it shows\n%s\nwant\n%s", command, err, got, want)
		}
	}
}

// TestPushContentPage: the request of docs/push-content.md is accepted, and Apple's server gets
// the keys that only it knows.
func TestPushContentPage(t *testing.T) {
	t.Parallel()
	sim, env := apple(t)
	s := serve(t, env...)
	s.register("alice", "phone", deviceToken(1))
	events := s.events("")
	for _, b := range blocks("", documents(t)["docs/push-content.md"]) {
		if b.language != "json" {
			continue
		}
		events.until("pushed", s.notify(b.text))
		got := sim.ReceivedFor(deviceToken(1))
		if len(got) != 1 || !strings.Contains(string(got[0].Payload), `"relevance-score":0.9`) || got[0].Priority != "1" {
			t.Errorf("Apple's server has %+v", got)
		}
	}
}

// TestJavaScriptPack makes the package as docs/clients.md says, from the built client, and looks
// into it for each file that its package.json promises. It works on a copy: npm pack compiles
// dist/ again, from which other tests run at the same time.
func TestJavaScriptPack(t *testing.T) {
	t.Parallel()
	clientBuilt(t)
	tool(t, "npm", "nodejs npm")
	command := ""
	for _, b := range blocks("", documents(t)["docs/clients.md"]) {
		if b.language == "sh" {
			command = strings.Replace(b.text, "make client\n", "", 1)
		}
	}
	root := t.TempDir()
	dir := filepath.Join(root, "clients", "js")
	if err := os.CopyFS(filepath.Join(dir, "src"), os.DirFS(filepath.Join(clientPackage, "src"))); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(clientPackage, "[a-zA-Z]*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, filepath.Join(clientPackage, "LICENSE")) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	modules, err := filepath.Abs(filepath.Join(clientPackage, "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-ec", strings.Replace(command, "npm pack", "npm pack --silent --offline --pack-destination "+t.TempDir()+" --json", 1))
	cmd.Dir, cmd.Env = root, environ(t, "npm_config_cache="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var packed []struct{ Files []struct{ Path string } }
	if err := json.Unmarshal(out, &packed); err != nil || len(packed) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest, err := os.ReadFile(filepath.Join(clientPackage, "package.json"))
	if err != nil {
		t.Fatal(err)
	}
	promised := regexp.MustCompile(`"\./(dist/[^"]+)"`).FindAllStringSubmatch(string(manifest), -1)
	if len(promised) < 10 {
		t.Errorf("only %d files promised", len(promised))
	}
	for _, m := range promised {
		if !slices.ContainsFunc(packed[0].Files, func(f struct{ Path string }) bool { return f.Path == m[1] }) {
			t.Errorf("%s is not in the package", m[1])
		}
	}
}

// TestExamplesAsWritten types the lines of the examples' pages, in their order, each in a terminal
// of its own, and looks for the outcome that the page promises.
func TestExamplesAsWritten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ typed, wantLast, wantFirst string }{
		"alarm": {wantLast: "ben has seen it", wantFirst: "Alarm: Cold store 3: 9 °C"},
		"chat":  {typed: "anna: hello", wantLast: "(up)", wantFirst: "ben: hello"},
		"fleet": {wantLast: "Received by truck-7", wantFirst: "New route: via Ulm"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			switch name {
			case "alarm":
				tool(t, "python3", "python3")
			case "chat":
				clientBuilt(t)
			case "fleet":
				tool(t, "mosquitto_sub", "mosquitto-clients")
			}
			lines := commandLines("", fence.FindString(documents(t)["examples/"+name+"/README.md"]))
			lines = slices.DeleteFunc(lines, func(line string) bool { return line == "" })
			if len(lines) < 3 || lines[0] != "./heartline serve --dev" {
				t.Fatalf("the page says %q", lines)
			}
			s := serve(t)
			host, port, _ := strings.Cut(s.mqtt, ":")
			program := filepath.Join(t.TempDir(), name) // `go run` would leave it behind at a kill
			if name == "fleet" {
				if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../examples/fleet").CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			adapt := strings.NewReplacer("go run ./examples/"+name, program, "./heartline terminal", "heartline terminal --server mqtt://"+s.mqtt, "./heartline", "heartline",
				"mosquitto_sub", "stdbuf -oL mosquitto_sub -h "+host+" -p "+port)
			env := append(environ(t), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "HEARTLINE_SERVER="+s.http, "MQTT_SERVER=mqtt://"+s.mqtt, "PORT=0")
			var first, last *process // of the devices
			for i, line := range lines[1:] {
				cmd := exec.Command("bash", "-c", "exec "+adapt.Replace(line))
				cmd.Dir, cmd.Env = "..", append(slices.Clone(env), "CHAT_STORE="+filepath.Join(t.TempDir(), "shown"))
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				last = launch(t, cmd)
				switch {
				case strings.Contains(line, "backend.mjs"):
					_, address, _ := strings.Cut(last.stdout.until(t, "chat backend on "), " on ")
					env = append(env, "CHAT_BACKEND="+address)
				case strings.Contains(line, "mosquitto_sub"):
					last.stdout.until(t, `"connected":true`)
				case first == nil:
					first = last
					if strings.Contains(line, "terminal") {
						first.stderr.until(t, "is up")
					} else {
						first.stdout.until(t, map[string]string{"chat": "(up)", "fleet": "connected"}[name])
					}
				case i == len(lines)-2 && c.typed != "":
					last.stdout.until(t, c.wantLast)
					if _, err := in.Write([]byte(c.typed + "\n")); err != nil {
						t.Fatal(err)
					}
				}
			}
			last.stdout.until(t, c.wantLast)
			first.stdout.until(t, c.wantFirst)
		})
	}
}

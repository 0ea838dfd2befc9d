package integration

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
)

// step is one thing that the README tells its reader to do or to see, in order.
type step struct {
	line     int    // of README.md
	do       string // "run", "see", or a key: "Ctrl-C", "Ctrl-Z", "fg"
	terminal string // "" is the one that is free
	text     string
}

var keys = regexp.MustCompile("(?:(Ctrl-[CZ])|`(fg)`) in the (\\w+)'s terminal")

// steps reads the README. A block of sh is run; one of text or json is the expected output
// then. The word terminal= after the language, which no renderer shows, says in
// whose terminal; prose says which keys are pressed there.
func steps(t *testing.T, readme string) []step {
	t.Helper()
	var out []step
	var block *step
	prose := ""
	for i, line := range strings.Split(readme, "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case !isFence && block == nil:
			prose += " " + strings.TrimSpace(line)
			if line == "" {
				prose = ""
			}
			if m := keys.FindStringSubmatch(prose); m != nil {
				out = append(out, step{line: i + 1, do: m[1] + m[2], terminal: m[3]})
				prose = ""
			}
		case !isFence:
			block.text += line + "\n"
		case block != nil:
			if block.do != "" {
				out = append(out, *block)
			}
			block = nil
		default:
			language, terminal, _ := strings.Cut(fence, " ")
			block = &step{line: i + 1, terminal: strings.TrimPrefix(terminal, "terminal=")}
			switch language {
			case "sh":
				block.do = "run"
			case "text", "json":
				block.do = "see"
			}
		}
	}
	return out
}

// reader does what the README says, in an empty directory and with an empty home.
type reader struct {
	t         *testing.T
	dir       string // where the free terminal is
	env       []string
	terminals map[string]*terminal
	replace   []string // what is not as on the reader's machine: ports
	http      string   // the server's URL
	last      step     // that was run
	output    string   // of it
}

type terminal struct {
	*process
	seen int // lines of its output
}

// TestReadme runs every command of the README in order and compares the output.
// What differs is the ports, because the usual ones may be taken, and where the
// source comes from: a clone of this tree.
func TestReadme(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"curl", "make", "git"} {
		tool(t, name, name)
	}
	for _, name := range []string{"mosquitto_sub", "mosquitto_pub"} {
		tool(t, name, "mosquitto-clients")
	}
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	d := config.Default()
	if d.MQTT.Address != "127.0.0.1:1883" || d.HTTP.Address != "127.0.0.1:8080" {
		t.Errorf("the README takes the defaults to be 1883 and 8080, they are %s and %s", d.MQTT.Address, d.HTTP.Address)
	}
	r := &reader{t: t, dir: t.TempDir(), terminals: map[string]*terminal{}}
	home := t.TempDir()
	r.env = append(environ(t), "HEARTLINE_DELIVERY_FALLBACK_WINDOW=1m", "HOME="+home, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url."+upstream(t)+".insteadOf", "GIT_CONFIG_VALUE_0=https://github.com/heartline-mqtt/heartline")
	// Modules and objects that are there already are used.
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		r.env = append(r.env, name+"="+strings.TrimSpace(string(out)))
	}
	for _, s := range steps(t, string(text)) {
		begun := time.Now()
		switch s.do {
		case "run":
			r.run(s)
		case "see":
			r.see(s)
		default:
			r.press(s)
		}
		first, _, _ := strings.Cut(s.text, "\n")
		t.Logf("README.md:%d: %s %s (%s)", s.line, s.do, first, time.Since(begun).Round(time.Millisecond))
		if t.Failed() {
			return
		}
	}
	for name, term := range r.terminals {
		term.signal(t, syscall.SIGINT)
		if code := term.wait(t); code != 0 && name == "server" {
			t.Errorf("the server ended with %d:\n%s", code, term.stderr)
		}
	}
	err = fs.WalkDir(os.DirFS(home), ".", func(path string, d fs.DirEntry, err error) error {
		if path == ".config/go" { // go's own
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() {
			t.Errorf("%s is left in the home", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// upstream makes a repository of this tree as it is, commit or no commit.
func upstream(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	script := `
		cd "$2"; git init -q -b main
		if test -e "$1/.git"; then (cd "$1"; git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do test -e "$f" && printf '%s\0' "$f"; done | tar -c --null -T -) | tar -x
		else (cd "$1"; tar -c .) | tar -x; fi
		git add -A; git -c user.name=t -c user.email=t@example.com commit -q -m "this tree"`
	if out, err := exec.Command("bash", "-ec", script, "upstream", root, dir).CombinedOutput(); err != nil {
		t.Fatalf("make a repository of this tree: %v\n%s", err, out)
	}
	return dir
}

// adapt puts in the ports that were found.
func (r *reader) adapt(command string) string {
	command = strings.NewReplacer(r.replace...).Replace(command)
	for _, args := range []string{"serve --dev", "serve --config heartline.yaml"} {
		command = strings.ReplaceAll(command, args, args+" --mqtt-address 127.0.0.1:0 --http-address 127.0.0.1:0")
	}
	// make test is what runs this: that it would is what can be seen from here.
	return strings.ReplaceAll(command, "make test", "make --dry-run test | tee /dev/stderr | grep -F '.ci/test'")
}

func (r *reader) command(ctx context.Context, s step) *exec.Cmd {
	text := r.adapt(s.text)
	if s.terminal != "" {
		text = "exec " + text // so that keys reach it
	}
	cmd := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", text)
	cmd.Dir, cmd.Env = r.dir, r.env
	return cmd
}

func (r *reader) run(s step) {
	r.t.Helper()
	if s.terminal != "" {
		r.open(s)
		return
	}
	// The first builds everything, the demo takes its 15 s.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	where := filepath.Join(r.t.TempDir(), "pwd")
	s.text += "\npwd > " + where
	cmd := r.command(ctx, s)
	cmd.WaitDelay = 10 * time.Second
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("README.md:%d: %s: %v\n%s%s", s.line, s.text, err, &out, &errs)
	}
	dir, err := os.ReadFile(where)
	if err != nil {
		r.t.Fatal(err)
	}
	r.dir, r.last, r.output = strings.TrimSpace(string(dir)), s, out.String()
}

// open runs a block in a terminal of its own, and goes on when the started program can
// be used: a reader types more slowly than that.
func (r *reader) open(s step) {
	r.t.Helper()
	if r.terminals[s.terminal] != nil {
		r.t.Fatalf("README.md:%d: something still runs in the %s's terminal", s.line, s.terminal)
	}
	term := &terminal{process: launch(r.t, r.command(context.Background(), s))}
	r.terminals[s.terminal] = term
	switch s.terminal {
	case "server":
		r.t.Cleanup(func() { sane(r.t, term.process) })
		r.ports(term)
	case "phone":
		r.await(`"state":"up"`)
	}
}

// ports learns where the server listens.
func (r *reader) ports(server *terminal) {
	r.t.Helper()
	field := func(name, line string) string {
		_, rest, _ := strings.Cut(line, " "+name+"=")
		value, _, _ := strings.Cut(rest, " ")
		return value
	}
	ready := server.stderr.until(r.t, "heartline is ready")
	mqtt, http := field("mqtt", ready), field("http", ready)
	_, port, _ := strings.Cut(mqtt, ":")
	r.http = "http://" + http
	r.replace = []string{
		// Into a pipe it would keep its lines back.
		"mosquitto_sub ", "stdbuf -oL mosquitto_sub -p " + port + " ",
		"heartline terminal ", "heartline terminal --server mqtt://" + mqtt + " ",
		"http://localhost:8080", r.http,
	}
	r.env = append(r.env, "HEARTLINE_SERVER="+r.http)
}

// await asks for the phone until the answer has part in it.
func (r *reader) await(part string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		_, body, err := call("", "GET", r.http+"/v1/accounts/alice/devices/phone", "")
		if err == nil && strings.Contains(string(body), part) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the phone is not %s: %s, %v", part, body, err)
		}
	}
}

func (r *reader) press(s step) {
	r.t.Helper()
	term := r.terminals[s.terminal]
	if term == nil {
		r.t.Fatalf("README.md:%d: nothing runs in the %s's terminal", s.line, s.terminal)
	}
	switch s.do {
	case "Ctrl-Z":
		term.signal(r.t, syscall.SIGSTOP)
	case "fg":
		term.signal(r.t, syscall.SIGCONT)
	case "Ctrl-C":
		term.signal(r.t, syscall.SIGINT)
		code := term.wait(r.t)
		delete(r.terminals, s.terminal)
		switch s.terminal {
		case "phone":
			r.await(`"state":"down"`)
		case "server":
			if code != 0 {
				r.t.Errorf("the server ended with %d:\n%s", code, term.stderr)
			}
		}
	}
}

// see compares the output. A command that only looks is run again for a
// while, as a reader would: the ack may be under way.
func (r *reader) see(s step) {
	r.t.Helper()
	want := normal(s.text)
	if term := r.terminals[s.terminal]; term != nil {
		line, i, err := term.stdout.find(term.seen, func(string) bool { return true })
		if term.seen = i + 1; err != nil || normal(line) != want {
			r.t.Errorf("README.md:%d: the %s shows\n%s\n%v, want\n%s", s.line, s.terminal, line, err, s.text)
		}
		return
	}
	for deadline := time.Now().Add(patience); normal(r.output) != want; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) || !strings.Contains(r.last.text, "timeline") {
			r.t.Errorf("README.md:%d: it shows\n%s\nwant\n%s", s.line, r.output, s.text)
			return
		}
		r.run(r.last)
	}
}

var (
	moments = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| [+-]\d\d:\d\d)|\d\d:\d\d:\d\d(\.\d{3})?`)
	spans   = regexp.MustCompile(`\+\d+\.\d{3}s|\b\d+(\.\d)? m?s\b`)
	blanks  = regexp.MustCompile(` +`)
)

// normal takes times and ports out of a text.
func normal(text string) string {
	text = spans.ReplaceAllString(moments.ReplaceAllString(text, "TIME"), "SPAN")
	return strings.TrimSpace(blanks.ReplaceAllString(strings.ReplaceAll(text, " \n", "\n"), " "))
}

// TestReadmePlugin: the lines of Go in the README are those of the example, which
// runs.
func TestReadmePlugin(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../broker/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) == 0 {
		t.Error("the README has no Go")
	}
	for _, b := range blocks {
		if !strings.Contains(string(example), "\t"+strings.ReplaceAll(strings.TrimSpace(b[1]), "\n", "\n\t")+"\n") {
			t.Errorf("not in the example:\n%s", b[1])
		}
	}
}

// TestReadmeLinks: what the README and the pages of docs link to is there.
func TestReadmeLinks(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../docs/adr/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(append(pages, more...), "../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)|<img src="([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1]+m[3], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1]+m[3])); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s is not there", page, m[1]+m[3])
			}
		}
	}
}

// TestStateMachinePage: the page knows every state and every event.
func TestStateMachinePage(t *testing.T) {
	page, err := os.ReadFile("../docs/state-machine.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for s := delivery.StatePending; s.String() != "unknown"; s++ {
		names = append(names, s.String())
	}
	for k := delivery.EventAccepted; k.String() != "unknown"; k++ {
		names = append(names, k.String())
	}
	for _, name := range names {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestOperatingPage: the metrics that the page tells to watch are there.
func TestOperatingPage(t *testing.T) {
	page, err := os.ReadFile("../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, push := apple(t) // the metrics of pushes need an app and an answer
	s := serve(t, push...)
	s.register("alice", "phone", deviceToken(1))
	id := s.notify(`{"account":"alice","title":"One"}`)
	await(t, "the push's answer", func() bool { return s.notification(id).State == "pushed" })
	_, metrics := s.call(http.MethodGet, "/metrics", "")
	for _, m := range regexp.MustCompile("`(heartline_[a-z_]+)[{`]").FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(string(metrics), "\n# TYPE "+m[1]+" ") {
			t.Errorf("no metric %s", m[1])
		}
	}
	s.stop()
}

package xmpp_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/wire"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmppkit"
)

// killRounds is how often each kill test kills; XMPP_KILL_ROUNDS sets another number.
const killRounds = 10

// killed is a real server, Heartline in a process of its own, and a load on both.
type killed struct {
	t      *testing.T
	server *xmppkit.Server
	files  string // directory of the server
	tap    *tap
	sim    *apnssim.Server
	binary string
	args   []string
	base   string // of the API
	log    string // a file
	cmd    *exec.Cmd

	sender *xmppkit.Client
	online []*subject // acknowledge everything
	echoes []*subject // their sessions hibernate: each notification comes back as a publish
	absent []*subject // get chat messages only
	chats  int

	mu      sync.Mutex
	clients []*xmppkit.Client
	posted  map[string][]string // accepted notifications by account
}

// subject is a user with one device.
type subject struct {
	user, account, device, token string
	client                       *xmppkit.Client
}

func rounds(t *testing.T) int {
	s := os.Getenv("XMPP_KILL_ROUNDS")
	if s == "" {
		return killRounds
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("XMPP_KILL_ROUNDS: must be a number from 1, got %q", s)
	}
	return n
}

// withBodies has the server's publishes carry the text of their messages, which tells the
// test which message a notification is for. Prosody's archive has room for all of them:
// with its limit of 10,000 messages of a user it rewrites the archive at the next one, which
// stops the whole server for 20 s.
func withBodies(config string) string {
	config = strings.Replace(config, `include_body: "New message"`, "include_body: true", 1)
	return strings.Replace(config, "VirtualHost", "push_notification_with_body = true\nstorage_archive_item_limit = 10000000\nVirtualHost", 1)
}

func newKilled(t *testing.T, kind string) *killed {
	t.Helper()
	leaveOut(t, kind)
	k := &killed{t: t, files: t.TempDir(), posted: map[string][]string{}}
	var err error
	k.server, err = xmppkit.Start(t.Context(), kind, k.files, xmppkit.Options{Hosts: kind == xmppkit.Ejabberd && canMount(), Users: users(), Edit: withBodies})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.server.Stop(); err != nil {
			t.Error(err)
		}
	})
	k.tap = newTap(t, k.server.ComponentAddress)
	if k.sim, err = apnssim.Start(apnssim.Options{Topics: []string{"com.example.heartline"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.sim.Close() })
	dir := t.TempDir()
	k.binary, k.log = filepath.Join(dir, "heartline"), filepath.Join(dir, "log")
	if out, err := exec.Command("go", "build", "-o", k.binary, "../..").CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	k.configure(dir)
	k.launch()
	t.Cleanup(func() {
		k.kill()
		if text, err := os.ReadFile(k.log); err != nil || bytes.Contains(text, []byte("panic:")) || bytes.Contains(text, []byte("level=ERROR")) || t.Failed() {
			t.Errorf("Heartline said: %s, %v", text[max(0, len(text)-5_000):], err)
			for _, s := range k.absent {
				t.Errorf("the last publishes for %s: %+v", s.user, k.tap.since(s.device, 10))
			}
			t.Errorf("%s said: %s", kind, k.server.Log())
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, c := range k.clients {
			c.Kill()
		}
	})
	k.sender = k.dial("user0")
	for i, list := range []*[]*subject{&k.online, &k.online, &k.echoes, &k.echoes, &k.absent, &k.absent} {
		s := &subject{user: users()[i+1], token: strings.Repeat(fmt.Sprintf("%02x", i+1), 32)}
		s.account = s.user + "@" + k.server.Host
		s.device = xmpp.DeviceID(s.account, "phone")
		*list = append(*list, s)
		k.enter(s)
		if list == &k.absent {
			s.client.Close()
		}
	}
	return k
}

func (k *killed) configure(dir string) {
	t := k.t
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	key := k.sim.Key()
	for name, content := range map[string][]byte{"ca.pem": k.sim.CAPEM(), "key.p8": key.PEM, "secret": []byte(k.server.Secret)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(`data_dir: %[1]s/data
mqtt: {address: ""}
http: {address: %[2]s}
fallback:
  apns: {enabled: true, key_file: %[1]s/key.p8, key_id: %[3]s, team_id: %[4]s, topic: com.example.heartline, endpoint: %[5]q, ca_file: %[1]s/ca.pem}
xmpp:
  components: [{domain: %[6]s, address: %[7]q, secret_file: %[1]s/secret, hosts: [%[8]s]}]
  show_body: true
  min_interval: 20ms
  reconnect: {initial: 50ms, max: 200ms}
`, dir, address, key.KeyID, key.TeamID, k.sim.URL(), k.server.Component, k.tap.socket.Addr(), k.server.Host)
	file := filepath.Join(dir, "heartline.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k.args, k.base = []string{"serve", "--config", file}, "http://"+address
}

// launch starts Heartline and waits for its link.
func (k *killed) launch() {
	k.t.Helper()
	k.cmd = exec.Command(k.binary, k.args...)
	log, err := os.OpenFile(k.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		k.t.Fatal(err)
	}
	k.cmd.Stderr = log
	err = k.cmd.Start()
	_ = log.Close()
	if err != nil {
		k.t.Fatal(err)
	}
	k.linked()
}

func (k *killed) linked() {
	k.t.Helper()
	k.await("the link", func() bool {
		var ready struct{ Checks map[string]string }
		return k.get("/readyz", &ready) == http.StatusOK && ready.Checks["xmpp "+k.server.Component] == "up"
	})
}

// kill is kill -9 of Heartline.
func (k *killed) kill() {
	_ = k.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	_ = k.cmd.Wait()
}

func (k *killed) await(what string, done func() bool) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Fatalf("%s did not come within %s", what, patience)
		}
	}
}

// get decodes the answer of the API; 0 is no answer.
func (k *killed) get(path string, out any) int {
	resp, err := http.Get(k.base + path)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(b, out) != nil {
		return 0
	}
	return resp.StatusCode
}

// post asks for a notification; ok is false where Heartline does not answer.
func (k *killed) post(s *subject) (ok bool) {
	body := fmt.Sprintf(`{"account":%q,"title":"hello","ttl":"60s"}`, s.account)
	resp, err := http.Post(k.base+"/v1/notifications", "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var out struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusAccepted {
		return resp.StatusCode == http.StatusTooManyRequests
	}
	k.mu.Lock()
	k.posted[s.account] = append(k.posted[s.account], out.ID)
	k.mu.Unlock()
	return true
}

func (k *killed) dial(user string) *xmppkit.Client {
	k.t.Helper()
	var c *xmppkit.Client
	k.await("the login of "+user, func() (ok bool) {
		var err error
		c, err = xmppkit.Dial(k.t.Context(), k.server.Account(user, "phone"), true, nil)
		return err == nil
	})
	k.mu.Lock()
	k.clients = append(k.clients, c)
	k.mu.Unlock()
	go func() { // nobody reads the notifications
		for range c.Received {
		}
	}()
	return c
}

// enter logs a user in, registers for push and brings the device up.
func (k *killed) enter(s *subject) {
	k.t.Helper()
	s.client = k.dial(s.user)
	if node, err := s.client.Register(k.server.Component, "phone", s.token); err != nil || node != s.device {
		k.t.Fatalf("register %s: node %q, %v", s.user, node, err)
	}
	if err := s.client.Announce(k.server.Component, "phone"); err != nil {
		k.t.Fatal(err)
	}
	k.await("the device", func() bool { return k.device(s).Channel.State == "up" })
}

func (k *killed) device(s *subject) (v wire.DeviceView) {
	k.get("/v1/accounts/"+url.PathEscape(s.account)+"/devices/"+s.device, &v)
	return v
}

// chat writes to an absent user. Each text is used once.
func (k *killed) chat(s *subject) (text string, err error) {
	k.chats++
	text = fmt.Sprint("chat ", k.chats)
	return text, k.sender.Send("<message type='chat' to='" + s.account + "' id='m" + strconv.Itoa(k.chats) + "'><body>" + text + "</body></message>")
}

// load keeps both busy until stop is called.
func (k *killed) load() (stop func()) {
	quit := make(chan struct{})
	var running sync.WaitGroup
	for _, s := range append(slices.Clone(k.online), k.echoes...) {
		running.Go(func() {
			for k.post(s) {
				select {
				case <-quit:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	running.Go(func() {
		for {
			for _, s := range k.absent {
				if _, err := k.chat(s); err != nil {
					return
				}
			}
			select {
			case <-quit:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return func() { close(quit); running.Wait() }
}

// registrationsLive: a message to each absent user is published, and becomes a notification.
// One that ejabberd sends over a link whose end it has not noticed is lost, so that
// another message follows.
func (k *killed) registrationsLive(round int) {
	k.t.Helper()
	for _, s := range k.absent {
		live, again := map[string]bool{}, time.Time{}
		k.await(fmt.Sprintf("round %d: the publish for %s", round, s.user), func() bool {
			if time.Now().After(again) {
				text, err := k.chat(s)
				if err != nil {
					k.t.Fatal(err)
				}
				live[text], again = true, time.Now().Add(3*time.Second)
			}
			return slices.ContainsFunc(k.tap.since(s.device, 100), func(p publish) bool { return live[p.body] && p.answer == "result" })
		})
		if k.device(s).APNs == nil {
			k.t.Fatalf("round %d: %s has lost its push registration", round, s.user)
		}
	}
}

// notifications are all of an account.
func (k *killed) notifications(account string) (all []wire.NotificationView) {
	k.t.Helper()
	for cursor := ""; ; {
		var page wire.NotificationList
		if status := k.get("/v1/notifications?limit=100&account="+url.QueryEscape(account)+"&cursor="+cursor, &page); status != http.StatusOK {
			k.t.Fatalf("list the notifications: status %d", status)
		}
		all = append(all, page.Notifications...)
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

// judge compares the answers with the timelines.
func (k *killed) judge() {
	k.t.Helper()
	bodies, answered, echoes := map[string]map[string]bool{}, 0, 0
	for _, s := range k.absent {
		bodies[s.device] = map[string]bool{}
		for _, n := range k.notifications(s.account) {
			bodies[s.device][n.Body] = true
		}
	}
	publishes := k.tap.all()
	for i, p := range publishes {
		switch {
		case p.answer == "error" && p.kind != "wait":
			k.t.Errorf("a publish for %s was answered %s (%s): ejabberd would delete the registration", p.node, p.refused, p.kind)
		case p.answer != "result":
		case bodies[p.node] == nil:
			echoes++
		case p.body != "":
			answered++
			// It is a notification of its own, or one with later publishes.
			if !bodies[p.node][p.body] && !slices.ContainsFunc(publishes[i:], func(q publish) bool {
				return q.node == p.node && q.link == p.link && q.at.Sub(p.at) < time.Second && bodies[q.node][q.body]
			}) {
				k.t.Errorf("publish %q for %s was answered result and is in no timeline", p.body, p.node)
			}
		}
	}
	posted := 0
	for _, s := range append(slices.Clone(k.online), k.echoes...) {
		ids := map[string]bool{}
		for _, n := range k.notifications(s.account) {
			ids[n.ID] = true
			if n.Title != "hello" {
				k.t.Errorf("%s has a notification %q that no backend asked for", s.user, n.Title)
			}
		}
		posted += len(k.posted[s.account])
		for _, id := range k.posted[s.account] {
			if !ids[id] {
				k.t.Errorf("notification %s of %s was accepted and is gone", id, s.user)
			}
		}
	}
	if answered == 0 || echoes == 0 || posted == 0 {
		k.t.Errorf("no load: %d publishes of messages answered, %d echoes, %d notifications of backends", answered, echoes, posted)
	}
	k.t.Logf("%s: %d publishes of messages answered result, %d echoes, %d notifications of backends", k.server.Kind, answered, echoes, posted)
}

// pause is the time until the next kill. Prosody pushes a stanza back after 1 s.
func (k *killed) pause() {
	most := 300 * time.Millisecond
	if k.server.Kind == xmppkit.Prosody {
		most = 1500 * time.Millisecond
	}
	time.Sleep(100*time.Millisecond + rand.N(most))
}

// TestKillHeartline kills Heartline under load, again and again: every publish answered `result`
// is in a timeline, no echo becomes a notification, no registration is lost, and each
// accepted notification for a phone that is there reaches it.
func TestKillHeartline(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, kind string) {
		leaveOutWithoutHosts(t, kind)
		k := newKilled(t, kind)
		for _, s := range k.echoes {
			s.client.Kill()
		}
		for round := range rounds(t) {
			stop := k.load()
			k.pause()
			k.kill()
			stop()
			k.launch()
			k.registrationsLive(round)
		}
		k.await("the acks of the phones that are there", func() bool {
			return k.device(k.online[0]).Outstanding == 0 && k.device(k.online[1]).Outstanding == 0
		})
		k.judge()
	})
}

// stored waits until the server has written all registrations to its files. ejabberd confirms
// one up to seconds before that; a kill between the two loses it, whatever Heartline does.
func (k *killed) stored() {
	k.t.Helper()
	for _, s := range slices.Concat(k.online, k.echoes, k.absent) {
		k.await("the server's file with the registration of "+s.user, func() bool {
			found := false
			// Files come and go meanwhile.
			_ = filepath.WalkDir(k.files, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !found && d.Type().IsRegular() && filepath.Ext(path) != ".log" {
					text, _ := os.ReadFile(path)
					found = bytes.Contains(text, []byte(s.device))
				}
				return nil
			})
			return found
		})
	}
}

// TestKillXMPPServer kills ejabberd or Prosody under load, again and again, with the same demands.
func TestKillXMPPServer(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, kind string) {
		k := newKilled(t, kind)
		for _, s := range k.echoes {
			s.client.Kill()
		}
		k.stored()
		for round := range rounds(t) {
			stop := k.load()
			k.pause()
			if err := k.server.Kill(); err != nil {
				t.Fatal(err)
			}
			stop()
			if err := k.server.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			k.linked()
			k.sender = k.dial("user0")
			for _, s := range append(slices.Clone(k.online), k.echoes...) {
				s.client.Kill()
				k.enter(s)
			}
			for _, s := range k.echoes {
				s.client.Kill()
			}
			k.registrationsLive(round)
		}
		k.await("the acks of the phones that are there", func() bool {
			return k.device(k.online[0]).Outstanding == 0 && k.device(k.online[1]).Outstanding == 0
		})
		k.judge()
	})
}

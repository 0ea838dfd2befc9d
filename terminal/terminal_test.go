package terminal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/smalldisk"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for what must happen at once.
const within = 10 * time.Second

func expect[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(within):
		t.Fatalf("waited %s for %s", within, what)
		panic("not reached")
	}
}

// server is a broker with Apple's stand-in.
type server struct {
	*broker.Broker
	sim *apnssim.Server
}

func serve(t *testing.T, set func(*config.Config)) *server {
	t.Helper()
	sim, err := apnssim.Start(apnssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, sim.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, key := config.Default(), sim.Key()
	cfg.DataDir, cfg.MQTT.Address = filepath.Join(dir, "data"), "127.0.0.1:0"
	apns := &cfg.Fallback.APNs
	apns.Enabled, apns.Key, apns.KeyID, apns.TeamID = true, config.Secret(key.PEM), key.KeyID, key.TeamID
	apns.Topic, apns.Endpoint, apns.CAFile = "com.example.app", sim.URL(), ca
	cfg.Store.Engine = config.EngineMemory
	cfg.HTTP.Address = "127.0.0.1:0"
	if set != nil {
		set(cfg)
	}
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return &server{b, sim}
}

func (s *server) send(t *testing.T, r delivery.Request) string {
	t.Helper()
	n, err := s.Notify(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return n.ID
}

// until waits until the timeline of id holds kind, and returns its events.
func (s *server) until(t *testing.T, id string, kind delivery.EventKind) []delivery.EventKind {
	t.Helper()
	events := s.Core().Subscribe(1024)
	defer events.Close()
	deadline := time.After(within)
	for {
		view, err := s.Timeline(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []delivery.EventKind
		for _, e := range view.Timeline {
			kinds = append(kinds, e.Kind)
		}
		if slices.Contains(kinds, kind) {
			return kinds
		}
		select {
		case <-events.C:
		case <-deadline:
			t.Fatalf("waited %s for %s, have %v", within, kind, kinds)
		}
	}
}

// screen is a Display that tells the test.
type screen struct {
	shown chan string
	hold  chan struct{} // unless it is nil, every Tip waits for it
}

func newScreen() *screen { return &screen{shown: make(chan string, 100)} }

func (s *screen) Tip(p wire.Pseudo) {
	s.shown <- "tip " + p.ID
	if s.hold != nil {
		<-s.hold
	}
}
func (s *screen) Notice(p wire.Pseudo)   { s.shown <- "notice " + p.ID }
func (s *screen) Message(m wire.Message) { s.shown <- "message " + m.ID + " " + string(m.Data) }

func (s *screen) Dismiss(d wire.Dismissal) { s.shown <- "dismiss " + d.ID }

func (s *screen) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := expect(t, w, s.shown); got != w {
			t.Fatalf("shown: %s, want %s", got, w)
		}
	}
}

// nothing more has been shown.
func (s *screen) nothing(t *testing.T) {
	t.Helper()
	select {
	case got := <-s.shown:
		t.Fatalf("shown: %s, want nothing", got)
	default:
	}
}

func open(t *testing.T, s *server, o Options) (*Terminal, *screen) {
	t.Helper()
	show := newScreen()
	if o.Display == nil {
		o.Display = show
	}
	if o.Server == "" {
		o.Server = "mqtt://" + s.MQTTAddr()
	}
	o.Account = "alice"
	if o.Device == "" {
		o.Device = "phone"
	}
	term, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, term) })
	waitUp(t, term)
	return term, show
}

func waitUp(t *testing.T, term *Terminal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := term.WaitUp(ctx); err != nil {
		t.Fatal(err)
	}
}

func closed(t *testing.T, term *Terminal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := term.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func data(v string) delivery.Request {
	return delivery.Request{Account: "alice", Title: "Hello", Data: json.RawMessage(v)}
}

func TestBackgroundAndForeground(t *testing.T) {
	s := serve(t, nil)
	for _, scheme := range []string{"mqtt", "ws"} {
		o := Options{Server: scheme + "://" + s.MQTTAddr()}
		if scheme == "ws" {
			o.Server = scheme + "://" + s.HTTPAddr()
		}
		term, show := open(t, s, o)
		id := s.send(t, data(`{"n":1}`))
		show.expect(t, "tip "+id)
		s.until(t, id, delivery.EventReceived)
		show.nothing(t)

		term.SetForeground(true)
		show.expect(t, "message "+id+` {"n":1}`)
		s.until(t, id, delivery.EventMessageReceived)
		id = s.send(t, data(`2`))
		show.expect(t, "notice "+id, "message "+id+" 2")

		term.SetForeground(false)
		device := delivery.AppForeground
		for deadline := time.Now().Add(within); device != delivery.AppBackground && time.Now().Before(deadline); {
			view, err := s.Core().Device("alice", "phone")
			if err != nil {
				t.Fatal(err)
			}
			device = view.App
		}
		id = s.send(t, data(`3`))
		show.expect(t, "tip "+id)
		term.SetForeground(true)
		show.expect(t, "message "+id+" 3")
		s.until(t, id, delivery.EventMessageReceived) // or it comes again, to the next
		closed(t, term)
	}
}

// TestAfterShowing: the ack waits for the Display, and the copy that the server
// sends meanwhile is acknowledged and not shown.
func TestAfterShowing(t *testing.T) {
	s := serve(t, func(c *config.Config) {
		c.Fallback.APNs.Enabled = false
		c.Delivery.AckWindow, c.Delivery.FallbackWindow = 50*time.Millisecond, 100*time.Millisecond
	})
	show := newScreen()
	show.hold = make(chan struct{})
	term, _ := open(t, s, Options{Display: show})
	id := s.send(t, delivery.Request{Account: "alice", Title: "Hello"})
	show.expect(t, "tip "+id)
	s.until(t, id, delivery.EventWaiting)
	term.SetForeground(true) // a heartbeat: it is tried again
	kinds := s.until(t, id, delivery.EventRedelivered)
	if slices.Contains(kinds, delivery.EventReceived) {
		t.Fatalf("acknowledged before it was shown: %v", kinds)
	}
	close(show.hold)
	s.until(t, id, delivery.EventReceived)
	next := s.send(t, delivery.Request{Account: "alice", Title: "Hello"})
	show.expect(t, "notice "+next) // and no second copy of the first
}

func TestDisplayed(t *testing.T) {
	for _, tt := range []struct {
		displayed Displayed
		ack       delivery.AckKind
		until     delivery.EventKind
		want      string
	}{
		{DisplayedWhereAsked, delivery.AckDisplayed, delivery.EventDisplayed, "[accepted published received displayed]"},
		{DisplayedAlways, delivery.AckReceived, delivery.EventDisplayed, "[accepted published received displayed]"},
		{DisplayedWhereAsked, delivery.AckReceived, delivery.EventReceived, "[accepted published received]"},
		{DisplayedNever, delivery.AckDisplayed, delivery.EventReceived, "[accepted published received]"},
	} {
		s := serve(t, nil)
		term, show := open(t, s, Options{Displayed: tt.displayed})
		id := s.send(t, delivery.Request{Account: "alice", Title: "Hello", Ack: tt.ack})
		show.expect(t, "tip "+id)
		if got := fmt.Sprint(s.until(t, id, tt.until)); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
		closed(t, term)
	}
}

// TestAway sends three while the device is away. They come in order, and each is a tip
// unless the app has shown its ID: `pushed` says only that Apple may have.
func TestAway(t *testing.T) {
	s := serve(t, nil)
	term, _ := open(t, s, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := term.RegisterPushToken(ctx, &wire.APNsToken{Token: "zz"}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "hex") {
		t.Errorf("bad token: %v", err)
	}
	if err := term.RegisterPushToken(ctx, &wire.APNsToken{Token: strings.Repeat("ab", 32)}); err != nil {
		t.Fatal(err)
	}
	closed(t, term)
	if err := term.RegisterPushToken(ctx, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	noPush := data("2")
	noPush.NoFallback = true
	ids := []string{s.send(t, data("1")), s.send(t, noPush), s.send(t, data("3"))}
	s.until(t, ids[0], delivery.EventPushed)
	s.until(t, ids[2], delivery.EventPushed)

	seen := NewSeen(0)
	if err := seen.Add(SeenNotification, ids[0]); err != nil { // as the app's extension does for a push that was shown
		t.Fatal(err)
	}
	term, show := open(t, s, Options{Seen: seen})
	show.expect(t, "tip "+ids[1], "tip "+ids[2]) // of two pushes Apple keeps one
	term.SetForeground(true)
	show.expect(t, "message "+ids[0]+" 1", "message "+ids[1]+" 2", "message "+ids[2]+" 3")
	if err := term.RegisterPushToken(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if view, err := s.Core().Device("alice", "phone"); err != nil || view.Registrations != nil {
		t.Errorf("got %+v, %v", view, err)
	}
	s.until(t, ids[2], delivery.EventMessageReceived) // its PUBACK goes out after that
	if !seen.Has(SeenMessage, ids[2]) {
		t.Error("the message is not noted as shown")
	}
}

// TestConnectionLost: it comes back, and tells the new connection its state.
func TestConnectionLost(t *testing.T) {
	s := serve(t, nil)
	status := make(chan Status, 100)
	term, show := open(t, s, Options{Foreground: true, Status: func(s Status) { status <- s }})
	if got := expect(t, "up", status); !got.Up {
		t.Fatalf("got %+v", got)
	}
	term.cm.TerminateConnectionForTest()
	if got := expect(t, "down", status); got.Up || got.Err == nil {
		t.Fatalf("got %+v", got)
	}
	id := s.send(t, data("1"))
	show.expect(t, "notice "+id, "message "+id+" 1")
	if got := expect(t, "up", status); !got.Up {
		t.Fatalf("got %+v", got)
	}
}

// TestFlapping: the last state counts.
func TestFlapping(t *testing.T) {
	s := serve(t, nil)
	term, show := open(t, s, Options{})
	for i := range 1001 {
		term.SetForeground(i%2 == 0)
	}
	var want []string
	for i := range 5 {
		id := s.send(t, data(fmt.Sprint(i)))
		want = append(want, "message "+id+" "+fmt.Sprint(i))
	}
	var messages []string
	for len(messages) < len(want) {
		if got := expect(t, "a message", show.shown); strings.HasPrefix(got, "message") {
			messages = append(messages, got)
		}
	}
	if !slices.Equal(messages, want) {
		t.Errorf("got %v, want %v", messages, want)
	}
}

func TestTakenOver(t *testing.T) {
	s := serve(t, nil)
	term, _ := open(t, s, Options{})
	_, show := open(t, s, Options{})
	expect(t, "the end", term.Done())
	if err := term.Err(); !errors.Is(err, ErrTakenOver) {
		t.Errorf("got %v", err)
	}
	if err := term.WaitUp(t.Context()); !errors.Is(err, ErrTakenOver) {
		t.Errorf("got %v", err)
	}
	id := s.send(t, delivery.Request{Account: "alice", Title: "Hello"})
	show.expect(t, "tip "+id)
}

// TestRefused: a server that says no is named, and asked again with a new
// password.
func TestRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	passwords, over := make(chan string), make(chan struct{})
	defer close(over)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var b [256]byte
			n, _ := c.Read(b[:])
			if n == 0 { // given up
				_ = c.Close()
				continue
			}
			select {
			case passwords <- string(b[n-1 : n]): // the payload ends with it
			case <-over:
			}
			_, _ = c.Write([]byte{packets.Connack << 4, 3, 0, 0x86, 0})
			_ = c.Close()
		}
	}()
	status := make(chan Status, 10)
	calls := 0
	term, err := Open(Options{
		Server: "mqtt://" + l.Addr().String(), Account: "alice", Device: "phone", Display: newScreen(),
		RetryMax: time.Millisecond, Status: func(s Status) { status <- s },
		Password: func(context.Context) (string, error) { calls++; return fmt.Sprint(calls), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "2"} {
		if got := expect(t, "a password", passwords); got != want {
			t.Errorf("password %q, want %q", got, want)
		}
		got := expect(t, "status", status)
		if !errors.Is(got.Err, ErrRefused) || !strings.Contains(got.Err.Error(), "bad user name or password (0x86)") {
			t.Errorf("got %v", got.Err)
		}
	}
	closed(t, term)
}

func TestOptions(t *testing.T) {
	good := Options{Server: "mqtt://localhost", Account: "alice", Device: "phone", Display: newScreen()}
	for want, set := range map[string]func(*Options){
		"must be a URL that begins with": func(o *Options) { o.Server = "localhost:1883" },
		"got \"http://localhost\"":       func(o *Options) { o.Server = "http://localhost" },
		"no user name":                   func(o *Options) { o.Server = "mqtt://alice:secret@localhost" },
		"device":                         func(o *Options) { o.Device = "a/b" },
		"account":                        func(o *Options) { o.Account = "" },
		"keepalive":                      func(o *Options) { o.Keepalive = 1500 * time.Millisecond },
		"session expiry":                 func(o *Options) { o.SessionExpiry = -time.Second },
		"needs a Display":                func(o *Options) { o.Display = nil },
	} {
		o := good
		set(&o)
		_, err := Open(o)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	for in, want := range map[string]string{
		"mqtt://h": "mqtt://h:1883", "MQTTS://h": "mqtts://h:8883", "ws://h:8080": "ws://h:8080/mqtt", "wss://h/x": "wss://h/x", "mqtt://[::1]": "mqtt://[::1]:1883",
	} {
		if u, err := parseServer(in); err != nil || u.String() != want {
			t.Errorf("%s: got %v, %v", in, u, err)
		}
	}
}

func TestSeenIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seen")
	open := func() *Seen {
		t.Helper()
		s, err := OpenSeen(path, 3)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	for i := range 10 { // the file is written anew on the way
		if err := s.Add(SeenNotification, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(SeenNotification, "later"); !errors.Is(err, os.ErrClosed) || !s.Has(SeenNotification, "later") {
		t.Errorf("after Close: %v", err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("n 1") // a crash in the middle of a line
	_ = f.Close()
	s = open()
	for id, want := range map[string]bool{"6": false, "7": true, "9": true, "1": false} {
		if got := s.Has(SeenNotification, id); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
	if s.Has(SeenMessage, "9") {
		t.Error("a notification counts as its message")
	}
	if err := errors.Join(s.Add(SeenMessage, "9"), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s = open(); !s.Has(SeenMessage, "9") {
		t.Error("lost after a cut line")
	}
	_ = s.Close()

	if err := os.WriteFile(path, []byte("n 1\nwhat\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSeen(path, 3); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("got %v", err)
	}
}

// TestSeenOnAFullDisk: a line that the disk has taken in part damages no later one.
func TestSeenOnAFullDisk(t *testing.T) {
	dir, free, err := smalldisk.New(3 * os.Getpagesize())
	if err != nil {
		testtool.LeaveOut(t, "no disk of a chosen size: "+err.Error(), "run it as root on Linux 5.2 or newer")
	}
	defer free()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "seen")
	s, err := OpenSeen(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	id := func(n int) string { return fmt.Sprintf("notification-%d", n) }
	n := 0
	for err == nil && n < 10_000 {
		n++
		err = s.Add(SeenNotification, id(n))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d: %v", n, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Add(SeenNotification, "after"), s.Add(SeenMessage, "after"), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenSeen(path, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if !s.Has(SeenNotification, id(n-1)) || s.Has(SeenNotification, id(n)) || !s.Has(SeenNotification, "after") || !s.Has(SeenMessage, "after") {
		t.Error("the file has lost what was recorded")
	}
}

// TestSignOut leaves the device; another account can use its ID afterwards.
func TestSignOut(t *testing.T) {
	s := serve(t, nil)
	term, _ := open(t, s, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := term.SignOut(ctx); err != nil {
		t.Fatal(err)
	}
	expect(t, "the end", term.Done())
	if err := term.Err(); !errors.Is(err, ErrSignedOut) {
		t.Errorf("ended with %v", err)
	}
	if _, err := s.Core().Device("alice", "phone"); !errors.Is(err, delivery.ErrUnknownDevice) {
		t.Errorf("the device is still there: %v", err)
	}
}

// TestSignOutAcrossLostConnection: the connection is lost while the server handles the sign-out.
// The terminal connects again, and signs out.
func TestSignOutAcrossLostConnection(t *testing.T) {
	s := serve(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var lost atomic.Bool
	go func() { // a proxy that cuts the first connection with a sign-out
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", s.MQTTAddr())
			if err != nil {
				_ = conn.Close()
				return
			}
			go func() {
				_, _ = io.Copy(conn, up)
				_ = conn.Close()
			}()
			go func() {
				defer func() { _ = conn.Close(); _ = up.Close() }()
				for buf := make([]byte, 4096); ; {
					n, err := conn.Read(buf)
					if err != nil || bytes.Contains(buf[:n], []byte("/sign-out")) && lost.CompareAndSwap(false, true) {
						return
					}
					if _, err := up.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	term, _ := open(t, s, Options{Server: "mqtt://" + l.Addr().String()})
	ctx, cancel := context.WithTimeout(t.Context(), 3*within)
	defer cancel()
	if err := term.SignOut(ctx); err != nil {
		t.Fatal(err)
	}
	expect(t, "the end", term.Done())
	if err := term.Err(); !errors.Is(err, ErrSignedOut) || !lost.Load() {
		t.Errorf("ended with %v", err)
	}
	if _, err := s.Core().Device("alice", "phone"); !errors.Is(err, delivery.ErrUnknownDevice) {
		t.Errorf("the device is still there: %v", err)
	}
}

// TestRead: a notification read on one device is taken off the other, and a copy that comes
// later does not bring it back.
func TestRead(t *testing.T) {
	s := serve(t, nil)
	seen := NewSeen(0)
	_, watch := open(t, s, Options{Device: "watch", Seen: seen})
	phone, show := open(t, s, Options{})
	id := s.send(t, delivery.Request{Account: "alice", Title: "Hello"})
	show.expect(t, "tip "+id)
	watch.expect(t, "tip "+id)
	s.until(t, id, delivery.EventReceived)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := phone.Read(ctx, "unknown"); !errors.Is(err, ErrRefused) {
		t.Errorf("an unknown ID: %v", err)
	}
	if err := phone.Read(ctx, id); err != nil {
		t.Fatal(err)
	}
	watch.expect(t, "dismiss "+id)
	s.until(t, id, delivery.EventDismissed)
	s.until(t, id, delivery.EventRead)
	show.nothing(t)
	if !seen.Has(SeenNotification, id) {
		t.Error("the dismissed ID does not count as shown")
	}
}

// TestReadAtOnce: a device whose user looks at everything at once.
func TestReadAtOnce(t *testing.T) {
	s := serve(t, nil)
	_, watch := open(t, s, Options{Device: "watch"})
	_, show := open(t, s, Options{Displayed: DisplayedRead})
	id := s.send(t, delivery.Request{Account: "alice", Title: "Hello"})
	show.expect(t, "tip "+id)
	watch.expect(t, "tip "+id, "dismiss "+id)
}

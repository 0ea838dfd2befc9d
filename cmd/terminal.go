package cmd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/terminal"
	"github.com/heartline-mqtt/heartline/wire"
)

const defaultBroker = "mqtt://127.0.0.1:1883"

func (p *program) terminalCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "terminal --account ACCOUNT --device DEVICE",
		Short: "Play a device: show tips and messages as lines", GroupID: groupClient,
		Long: `Connects as a device and shows what it is sent, a line each, until interrupted:

  tip      a system notification: the app is in the background
  notice   a notification without a tip: the app is in the foreground
  message  the full message, which comes in the foreground
  dismiss  a notification is taken off the screen: it was read on another device of
           the account, or its backend has taken it back

Each ID is shown once, and acknowledged (PUBACK) once it has been printed. On a
terminal the keys f and b switch between foreground and background, r says that the
newest notification has been read, s signs the device out, and q ends it;
elsewhere the signals SIGUSR1 (foreground) and SIGUSR2 (background) do.

--ack is the ack sent in addition to the PUBACK. Without it "displayed" is sent for the
notifications that ask for it; --ack displayed sends it for all of them, --ack
received for none, as a device does that receives and shows nothing; --ack read sends
"read" for all of them, which takes each off the account's other devices.

A connection that is lost is made again. The command ends with an error where none
could be made at first, where another client connects as the same device, and where
the output cannot be written: what was not printed is not acknowledged.`,
		Example: `  heartline terminal --account alice --device phone
  heartline terminal --account alice --device phone --background --json
  heartline terminal --account alice --device phone --server mqtts://mqtt.example.com --password-file alice.password`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	var o terminal.Options
	f.StringVar(&o.Account, "account", "", "whose device it is, sent as the user name (required)")
	f.StringVar(&o.Device, "device", "", "the device's ID, sent as the client identifier (required)")
	f.StringVar(&o.Server, "server", defaultBroker, "`URL` of the broker: mqtt://, mqtts://, ws:// or wss://")
	passwordFile := f.String("password-file", "", "`file` with the password, or the JWT")
	caFile := f.String("ca-file", "", "`file` with the CA (PEM) of the broker's certificate, in addition to the system's")
	f.StringVar(&o.TopicPrefix, "topic-prefix", config.Default().MQTT.TopicPrefix, "the broker's mqtt.topic_prefix")
	f.DurationVar(&o.Keepalive, "keepalive", 30*time.Second, "time between heartbeats")
	background := f.Bool("background", false, "begin in the background")
	foreground := f.Bool("foreground", false, "begin in the foreground, which is the default")
	ack := f.String("ack", "", "displayed or read: say so of every notification; received: never (see above)")
	seenFile := f.String("seen-file", "", "`file` that remembers shown notifications from one run to the next")
	token := f.String("token", "", "push token to register, `hexadecimal`; none removes it")
	tokenTopic := f.String("token-topic", "", "the token's `bundle ID`; the broker's if absent")
	tokenEnvironment := f.String("token-environment", "", "the token's environment, production or sandbox; the broker's if absent")
	asJSON := f.Bool("json", false, "one JSON object a line")
	_ = cmd.MarkFlagRequired("account") // both exist
	_ = cmd.MarkFlagRequired("device")
	cmd.MarkFlagsMutuallyExclusive("background", "foreground")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		o.Foreground = *foreground || !*background
		switch *ack {
		case "":
		case "displayed":
			o.Displayed = terminal.DisplayedAlways
		case "received":
			o.Displayed = terminal.DisplayedNever
		case "read":
			o.Displayed = terminal.DisplayedRead
		default:
			return usagef("--ack: must be displayed, read or received, got %q", *ack)
		}
		var register **wire.APNsToken // nil: leave the token as it is; a nil token: remove it
		switch {
		case *token == "none":
			register = new(*wire.APNsToken)
		case *token != "":
			register = new(&wire.APNsToken{Token: *token, Topic: *tokenTopic, Environment: *tokenEnvironment})
		case *tokenTopic != "" || *tokenEnvironment != "":
			return usagef("--token-topic and --token-environment say more about a --token, which is missing")
		}
		if *passwordFile != "" {
			o.Password = func(context.Context) (string, error) { return readPassword(*passwordFile) }
			if _, err := o.Password(ctx); err != nil {
				return usageError{err}
			}
		}
		var err error
		if o.TLS, err = trust(*caFile); err != nil {
			return usageError{err}
		}
		if *seenFile != "" {
			if o.Seen, err = terminal.OpenSeen(*seenFile, 0); err != nil {
				return fmt.Errorf("--seen-file: %w", err)
			}
			defer func() { _ = o.Seen.Close() }() // nothing is buffered
		}
		return p.playDevice(ctx, o, register, *asJSON)
	})
	return cmd
}

// readPassword is asked at each connection: the file may hold a token that is
// renewed.
func readPassword(file string) (string, error) {
	password, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	return strings.TrimRight(string(password), "\r\n"), nil
}

func trust(caFile string) (*tls.Config, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file: %s holds no certificate in PEM", caFile)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// playDevice is a device until ctx ends, its user quits, or it cannot go on.
func (p *program) playDevice(ctx context.Context, o terminal.Options, register **wire.APNsToken, asJSON bool) error {
	keys, restore := p.keys()
	defer restore()
	s := &deviceScreen{p: p, asJSON: asJSON, first: make(chan error, 1), broken: make(chan error, 1), over: make(chan struct{}), server: o.Server}
	defer close(s.over)
	o.Display, o.Status = s, s.status
	o.Logger, _ = newLogger(p.Stderr, config.Log{Level: "warn"})
	signals := make(chan os.Signal, 16)
	toForeground, toBackground := appSignals()
	if toForeground != nil { // before it says that it is up, so that no signal ends it
		signal.Notify(signals, toForeground, toBackground)
		defer signal.Stop(signals)
	}
	t, err := terminal.Open(o)
	if err != nil {
		return usageError{err}
	}
	var reads sync.WaitGroup
	defer reads.Wait() // they end when the terminal is closed
	closing := 10 * time.Second
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), closing)
		defer cancel()
		_ = t.Close(ctx) // the process is about to end
	}()
	broken := func(err error) error {
		closing = time.Second // the screen holds up what is not printed
		return err
	}

	select {
	case <-ctx.Done():
		return nil
	case <-t.Done():
		return t.Err()
	case err := <-s.broken:
		return broken(err)
	case err := <-s.first:
		if err != nil {
			return p.brokerError(o.Server, err)
		}
	}
	if register != nil {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := t.RegisterPushToken(ctx, *register); err != nil {
			return fmt.Errorf("register the push token: %w", err)
		}
	}
	s.ready(o, keys != nil)

	for {
		var foreground bool
		select {
		case <-ctx.Done():
			return nil
		case <-t.Done():
			return t.Err()
		case err := <-s.broken:
			return broken(err)
		case sig := <-signals:
			foreground = sig == toForeground
		case key := <-keys:
			switch key {
			case 'f', 'b':
				foreground = key == 'f'
			case 'r':
				if id := s.newest(); id != "" {
					reads.Go(func() { s.read(ctx, t, id) })
				}
				continue
			case 's':
				return signOut(ctx, t)
			case 'q', 3, 4: // Ctrl-C and Ctrl-D, which raw mode hands over
				return nil
			default:
				continue
			}
		}
		if foreground != t.Foreground() {
			s.app(foreground) // before the messages that this brings
			t.SetForeground(foreground)
		}
	}
}

// read says that the user has seen a notification.
func (s *deviceScreen) read(ctx context.Context, t *terminal.Terminal, id string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := t.Read(ctx, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.p.say(fmt.Sprintf("%s is not said to be read: %s", plain(id), plain(err.Error())))
		return
	}
	s.p.say(plain(id) + " is read")
}

func signOut(ctx context.Context, t *terminal.Terminal) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return t.SignOut(ctx)
}

// brokerError says what to do about a first connection that could not be made.
func (p *program) brokerError(server string, err error) error {
	switch {
	case errors.Is(err, terminal.ErrRefused):
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens on %s: start a server with `%s serve --dev`, or name another with --server", server, p.name())
	}
	return fmt.Errorf("%w: is --server right?", err)
}

// keys are those that are pressed, one by one, where standard input is a terminal;
// nil elsewhere. restore gives the terminal back.
func (p *program) keys() (keys <-chan byte, restore func()) {
	in, ok := p.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, func() {}
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, func() {} // signals are left
	}
	stdout, stderr := p.Stdout, p.Stderr
	p.Stdout, p.Stderr = carriageReturns(stdout), carriageReturns(stderr)
	pressed := make(chan byte)
	// It ends with the process: nothing else ends a read from a terminal.
	go func() {
		var b [1]byte
		for {
			if n, err := in.Read(b[:]); n == 0 || err != nil {
				return
			}
			pressed <- b[0]
		}
	}()
	return pressed, func() {
		p.Stdout, p.Stderr = stdout, stderr
		_ = term.Restore(int(in.Fd()), before) // nothing to be done about it
	}
}

// carriageReturns is w for a terminal in raw mode, where a line feed only feeds.
func carriageReturns(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return crlf{w}
	}
	return w
}

type crlf struct{ io.Writer }

func (w crlf) Write(b []byte) (int, error) {
	if _, err := w.Writer.Write(bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// deviceScreen is the terminal.Display of the command. Statuses come from other
// goroutines than the screen.
type deviceScreen struct {
	p      *program
	asJSON bool
	server string
	first  chan error    // how the first attempt went
	broken chan error    // why nothing more can be printed
	over   chan struct{} // closed when the connection is

	out    sync.Mutex // a line at a time
	mu     sync.Mutex
	tried  bool
	wasUp  bool
	unwell string // why the channel is down, as it was said last
	last   string // ID of the newest notification shown
}

// deviceEvent is a line of --json.
type deviceEvent struct {
	Time         string          `json:"time"`
	Event        string          `json:"event"` // tip, notice, message, dismiss, up, down, foreground, background
	Notification *wire.Pseudo    `json:"notification,omitempty"`
	Message      *wire.Message   `json:"message,omitempty"`
	Dismissal    *wire.Dismissal `json:"dismissal,omitempty"`
	Detail       string          `json:"detail,omitempty"`
}

// print writes an event as JSON, or line for people; "" is of no interest to them. It reports
// whether that could be written; the command ends otherwise.
func (s *deviceScreen) print(e deviceEvent, line string) bool {
	s.out.Lock()
	defer s.out.Unlock()
	now := time.Now()
	var text bytes.Buffer
	if s.asJSON {
		e.Time = wire.FormatTime(now)
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(e) // types of ours, and data that was JSON
	} else if line != "" {
		fmt.Fprintf(&text, "%s  %-7s  %s\n", s.p.clock(now), e.Event, plain(line))
	}
	if text.Len() == 0 {
		return true
	}
	_, err := s.p.Stdout.Write(text.Bytes())
	if err != nil {
		select {
		case s.broken <- fmt.Errorf("write to the standard output: %w", err):
		default: // it ends already
		}
	}
	return err == nil
}

// show prints an event that is acknowledged when show returns. An event that cannot be printed
// is not acknowledged: show returns after the end of the connection.
func (s *deviceScreen) show(e deviceEvent, line string) {
	if !s.print(e, line) {
		<-s.over
	}
}

func (s *deviceScreen) Tip(n wire.Pseudo)    { s.notification("tip", n) }
func (s *deviceScreen) Notice(n wire.Pseudo) { s.notification("notice", n) }

func (s *deviceScreen) notification(event string, n wire.Pseudo) {
	text := n.Title
	if n.Body != "" {
		text = strings.TrimPrefix(text+": "+n.Body, ": ")
	}
	if n.Pushed {
		text += " (pushed, too)"
	}
	s.mu.Lock()
	s.last = n.ID
	s.mu.Unlock()
	s.show(deviceEvent{Event: event, Notification: &n}, n.ID+"  "+text)
}

// newest is the ID of the newest notification shown, "" for none.
func (s *deviceScreen) newest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *deviceScreen) Dismiss(d wire.Dismissal) {
	s.mu.Lock()
	if s.last == d.ID {
		s.last = ""
	}
	s.mu.Unlock()
	s.show(deviceEvent{Event: "dismiss", Dismissal: &d}, d.ID+"  taken off the screen")
}

// longMessage is how much of a message a line shows.
const longMessage = 200

func (s *deviceScreen) Message(m wire.Message) {
	text := string(m.Data)
	if len(text) > longMessage {
		text = strings.ToValidUTF8(text[:longMessage], "") + fmt.Sprintf("… (%d bytes; --json shows all)", len(text))
	}
	s.show(deviceEvent{Event: "message", Message: &m}, m.ID+"  "+text)
}

func (s *deviceScreen) app(foreground bool) {
	state := "background"
	if foreground {
		state = "foreground"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asJSON {
		s.print(deviceEvent{Event: state}, "")
		return
	}
	s.p.say("now in the " + state)
}

func (s *deviceScreen) ready(o terminal.Options, keys bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asJSON {
		return
	}
	state, hint := "background", ""
	if o.Foreground {
		state = "foreground"
	}
	if keys {
		hint = "; f: foreground, b: background, r: read, s: sign out, q: quit"
	}
	s.p.say(fmt.Sprintf("%s of %s is up on %s, in the %s%s", plain(o.Device), plain(o.Account), s.server, state, hint))
}

func (s *deviceScreen) status(st terminal.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.tried
	if first {
		s.tried = true
		s.first <- st.Err
	}
	switch {
	case st.Up:
		if s.asJSON {
			s.print(deviceEvent{Event: "up"}, "")
		} else if s.wasUp {
			s.p.say("connected again")
		}
		s.wasUp, s.unwell = true, ""
	case !s.wasUp: // told by whoever waits for the first attempt
	case st.Err.Error() != s.unwell:
		s.unwell = st.Err.Error()
		if s.asJSON {
			s.print(deviceEvent{Event: "down", Detail: s.unwell}, "")
		} else {
			s.p.say(s.unwell + "; trying again")
		}
	}
}

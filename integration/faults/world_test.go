package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
	"github.com/heartline-mqtt/heartline/wire"
)

// World is a program with everything around it, for one row of the table.
type World struct {
	Program     *Program
	Apple       *apnssim.Server
	Google      *fcmsim.Server     // nil: FCM is off
	Browsers    *webpushsim.Server // nil: Web Push is off
	Devices     []*Device
	Acceptances Acceptances
	Receipts    Receipts
	Cancels     Cancels
	Runs        int  // of the fault; 0 counts as one
	Unfinished  bool // deliveries may be left over
	ClockSteps  bool // the row steps the program's clock
	PushOrder   bool // the order of the pushes is looked at
	Notes       []string
	Log         func(format string, args ...any)

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	dir    string
	data   string
	tokens map[string]string
	former map[string][]string // by token: the devices that held it before
	closer []func()
	// server, unless nil, is the one that the ith device registers with; nil: Apple's.
	server func(i int) *standIn
	client http.Client

	mu     sync.Mutex // of what follows, and of Devices while a row adds to them
	failed error
	loads  int
}

// Windows that are short enough for rows that are not about their length.
var quick = []string{
	"HEARTLINE_DELIVERY_ACK_WINDOW=700ms", "HEARTLINE_DELIVERY_FALLBACK_WINDOW=1500ms",
	"HEARTLINE_FALLBACK_APNS_RETRY_INITIAL=100ms", "HEARTLINE_FALLBACK_APNS_RETRY_MAX=1s", "HEARTLINE_FALLBACK_APNS_TIMEOUT=2s",
}

// NewWorld makes a world in dir; nothing runs but the stand-in for Apple's server.
func NewWorld(ctx context.Context, binary, dir string, log func(string, ...any), env ...string) (*World, error) {
	sim, err := apnssim.Start(apnssim.Options{MaxReceived: 2_000_000})
	if err != nil {
		return nil, err
	}
	w := &World{Apple: sim, dir: dir, data: filepath.Join(dir, "data"), tokens: map[string]string{}, former: map[string][]string{}, Log: log}
	w.client.Transport = &http.Transport{MaxIdleConnsPerHost: 4}
	w.ctx, w.cancel = context.WithCancel(ctx)
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, sim.CAPEM(), 0o600); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	key := sim.Key()
	w.Program = NewProgram(binary, w.data, append([]string{
		"HEARTLINE_DELIVERY_MAX_OUTSTANDING_PER_DEVICE=1000000",
		"HEARTLINE_FALLBACK_APNS_ENABLED=true", "HEARTLINE_FALLBACK_APNS_ENDPOINT=" + sim.URL(), "HEARTLINE_FALLBACK_APNS_CA_FILE=" + ca,
		"HEARTLINE_FALLBACK_APNS_KEY=" + string(key.PEM), "HEARTLINE_FALLBACK_APNS_KEY_ID=" + key.KeyID,
		"HEARTLINE_FALLBACK_APNS_TEAM_ID=" + key.TeamID, "HEARTLINE_FALLBACK_APNS_TOPIC=com.example.app",
	}, env...)...)
	return w, nil
}

// OnData puts the data directory elsewhere, before the start.
func (w *World) OnData(dir string) { w.data, w.Program.data = dir, dir }

// Close stops everything and waits.
func (w *World) Close() error {
	w.cancel()
	var errs []error
	if w.Program != nil {
		errs = append(errs, w.Program.Kill())
	}
	for _, undo := range slices.Backward(w.closer) {
		undo()
	}
	w.wg.Wait()
	w.client.CloseIdleConnections()
	return errors.Join(append(errs, w.Apple.Close())...)
}

// Start starts the program.
func (w *World) Start() error {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	return w.Program.Start(ctx)
}

// Restart kills it and starts it again.
func (w *World) Restart() error {
	if err := w.Program.Kill(); err != nil {
		return err
	}
	return w.Start()
}

// Proxy is a network that fails, between devices and the program.
func (w *World) Proxy(path func(n int) Path) (*Proxy, error) {
	p, err := NewProxy(w.Program.MQTT, path)
	if err == nil {
		w.closer = append(w.closer, p.Close)
	}
	return p, err
}

// At is an address that does not change.
func At(address string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return address, nil }
}

// Add registers n devices, an account each, with a push token. They are not
// connected before Connect. change, unless nil, changes the ith.
func (w *World) Add(n int, change func(i int, d *Device)) ([]*Device, error) {
	var added []*Device
	for range n {
		i := len(w.Devices)
		d := &Device{ID: fmt.Sprintf("d%05d", i), Account: fmt.Sprintf("a%05d", i), Address: w.Program.MQTT, Receipts: &w.Receipts}
		token := fmt.Sprintf("%064x", i+1)
		if change != nil {
			change(i, d)
		}
		d.prepare()
		member := fmt.Sprintf(`{"apns":{"token":%q}}`, token)
		if w.server != nil {
			if other := w.server(i); other != nil {
				var err error
				if member, token, err = other.register(w, i); err != nil {
					return nil, err
				}
			}
		}
		w.tokens[token] = d.ID
		if err := w.register(d, member); err != nil {
			return nil, err
		}
		w.mu.Lock()
		w.Devices = append(w.Devices, d)
		w.mu.Unlock()
		added = append(added, d)
	}
	return added, nil
}

func (w *World) put(d *Device, token string) error {
	return w.register(d, fmt.Sprintf(`{"apns":{"token":%q}}`, token))
}

// register puts the device with a registration: the JSON that its push-token topic takes.
func (w *World) register(d *Device, registration string) error {
	status, body, err := w.Call(http.MethodPut, "/v1/accounts/"+d.Account+"/devices/"+d.ID, registration)
	if err == nil && status >= 300 {
		err = fmt.Errorf("register %s: %d %s", d.ID, status, body)
	}
	return err
}

// Call calls the API.
func (w *World) Call(method, path, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	_, base, err := w.Program.Up(ctx)
	if err != nil {
		return 0, nil, err
	}
	return call(ctx, &w.client, method, base+path, body)
}

// Connect lets devices run until the returned function is called, which waits.
func (w *World) Connect(devices ...*Device) (disconnect func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() { d.Run(ctx) })
		w.wg.Add(1)
	}
	go func() {
		wg.Wait()
		w.wg.Add(-len(devices))
	}()
	return func() { cancel(); wg.Wait() }
}

// Heartbeats pings for every device until the world ends: what missed its ack is
// tried again at a heartbeat.
func (w *World) Heartbeats(every time.Duration) {
	w.wg.Go(func() {
		for t := time.NewTicker(every); ; {
			select {
			case <-t.C:
				w.mu.Lock()
				devices := slices.Clone(w.Devices)
				w.mu.Unlock()
				for _, d := range devices {
					d.Ping()
				}
			case <-w.ctx.Done():
				t.Stop()
				return
			}
		}
	})
}

// Load is backends at work.
type Load struct {
	backends []*Backend
	wg       sync.WaitGroup
	w        *World
}

// Load starts two backends, one over HTTP and one over MQTT, that ask for total
// notifications together, for all devices; 0: until Stop.
func (w *World) Load(total, inFlight int, more More) *Load {
	var accounts []string
	for _, d := range w.Devices {
		accounts = append(accounts, d.Account)
	}
	return w.LoadFor(accounts, total, inFlight, more)
}

// LoadFor is Load for some accounts.
func (w *World) LoadFor(accounts []string, total, inFlight int, more More) *Load {
	w.mu.Lock()
	w.loads++ // makes names that are not used twice
	n := w.loads
	w.mu.Unlock()
	var backends []*Backend
	for i := range 2 {
		share := total / 2
		if i == 1 {
			share = total - share
		}
		if total > 0 && share == 0 {
			continue
		}
		backends = append(backends, &Backend{
			Name: fmt.Sprintf("%s%d", []string{"h", "m"}[i], n), Accounts: accounts, Total: share, InFlight: inFlight, HTTP: i == 0, More: more,
		})
	}
	return w.Backends(backends...)
}

// Backends starts backends.
func (w *World) Backends(backends ...*Backend) *Load {
	l := &Load{w: w, backends: backends}
	for _, b := range backends {
		b.Program, b.Acceptances = w.Program, &w.Acceptances
		w.wg.Add(1)
		l.wg.Go(func() {
			defer w.wg.Done()
			if err := b.Run(w.ctx); err != nil && w.ctx.Err() == nil {
				w.fail(fmt.Errorf("backend %s: %w", b.Name, err))
			}
		})
	}
	return l
}

// Wait returns when everything is accepted.
func (l *Load) Wait() error {
	l.wg.Wait()
	return errors.Join(l.w.err(), l.w.ctx.Err())
}

// Stop ends it when every request is answered.
func (l *Load) Stop() error {
	for _, b := range l.backends {
		b.Stop()
	}
	return l.Wait()
}

func (w *World) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = errors.Join(w.failed, err)
}

func (w *World) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// Reach waits until n more notifications have been accepted than now.
func (w *World) Reach(more int) error {
	n := w.Acceptances.Len() + more
	for {
		changed := w.Acceptances.reach(n)
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
	}
}

// Drain waits until no device has anything outstanding.
func (w *World) Drain(within time.Duration) error {
	deadline := time.Now().Add(within)
	for _, d := range w.Devices {
		for {
			status, body, err := w.Call(http.MethodGet, "/v1/accounts/"+d.Account+"/devices/"+d.ID, "")
			if err != nil {
				return err
			}
			var v wire.DeviceView
			if err := json.Unmarshal(body, &v); err != nil || status != http.StatusOK {
				return fmt.Errorf("device %s: %d %s", d.ID, status, body)
			}
			if v.Outstanding == 0 {
				break
			}
			if time.Now().After(deadline) {
				w.Log("device %s still has %d outstanding after %s", d.ID, v.Outstanding, within)
				w.open(d)
				return nil // the checker will say which
			}
			select { // no event tells of "nothing is outstanding"
			case <-time.After(20 * time.Millisecond):
			case <-w.ctx.Done():
				return w.ctx.Err()
			}
		}
	}
	return w.err()
}

// open logs one of a device's unfinished notifications.
func (w *World) open(d *Device) {
	for _, state := range []string{"pending", "published", "pushing", "pushed", "waiting"} {
		_, body, err := w.Call(http.MethodGet, "/v1/notifications?limit=1&device="+d.ID+"&state="+state, "")
		var list wire.NotificationList
		if err == nil && json.Unmarshal(body, &list) == nil && len(list.Notifications) > 0 {
			_, body, _ = w.Call(http.MethodGet, "/v1/notifications/"+list.Notifications[0].ID, "")
			w.Log("%s", body)
			return
		}
	}
}

// Check stops the program and compares the ledgers with the store.
func (w *World) Check() (Result, error) {
	if err := errors.Join(w.err(), w.Program.Stop()); err != nil {
		return Result{}, err
	}
	store, err := pebblestore.Open(w.data, pebblestore.Options{ReadOnly: true})
	if err != nil {
		return Result{}, err
	}
	r, err := Check(store, w.Evidence())
	return r, errors.Join(err, store.Close())
}

// Evidence is what the ledgers say.
func (w *World) Evidence() Evidence {
	return Evidence{
		Acceptances: w.Acceptances.All(), Connections: w.Receipts.All(), Pushes: append(w.Apple.Received(), ledger(w.taken(), w.tokens, w.Program.lives)...), Cancels: w.Cancels.All(),
		Lives: w.Program.lives, ClockSteps: w.ClockSteps, PushOrder: w.PushOrder, Devices: w.tokens, Former: w.former, Unfinished: w.Unfinished,
	}
}

var _ Store = delivery.Reader(nil)

func call(ctx context.Context, c *http.Client, method, url, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

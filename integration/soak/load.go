package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// load is the traffic against a world.
type load struct {
	world   *world
	timing  timing
	rate    float64 // actions of the backends a second
	ledger  *ledger
	samples *samples
	// done counts the traffic, unexpected the answers that no rule of the contract
	// explains.
	done, unexpected *tally
	run              string // makes the IDs of two runs differ
	number           atomic.Int64

	mu      sync.Mutex
	recent  []*notification // the last ones accepted, oldest first
	refused map[string]bool // events that the receiver has refused, by webhook-id
}

// timing is how long everything lasts on average.
type timing struct {
	arrive    time.Duration // over which the devices come first
	session   time.Duration // a connection
	away      time.Duration // between two connections
	act       time.Duration // between two acts of a connected device
	keepalive time.Duration
	ttl       time.Duration // the longest
	history   time.Duration
	house     time.Duration // store.housekeeping
	other     time.Duration // a reader of events, and between two reloads
}

// timingFor suits a run of the length d: everything that the server keeps for a while
// must come and go many times.
func timingFor(d time.Duration) timing {
	part := func(n int, least, most time.Duration) time.Duration {
		return min(max((d/time.Duration(n)).Round(time.Second), least), most)
	}
	return timing{
		arrive: part(60, 2*time.Second, time.Minute), session: part(40, 2*time.Second, 90*time.Second), away: part(120, time.Second, 30*time.Second),
		act: part(120, time.Second, 30*time.Second), keepalive: part(180, 2*time.Second, 20*time.Second), ttl: part(30, 4*time.Second, 2*time.Minute),
		history: part(20, 3*time.Second, 3*time.Minute), house: part(60, time.Second, time.Minute), other: part(120, time.Second, 30*time.Second),
	}
}

// notification is one that was accepted a short time ago.
type notification struct {
	id, account, body string
	at                time.Time
}

// answered counts an answer, and reports whether the call succeeded. Answers other than
// those expected are a fault.
func (l *load) answered(name string, status int, body []byte, err error, expected ...int) bool {
	switch {
	case err != nil:
		if !strings.Contains(err.Error(), context.Canceled.Error()) {
			l.unexpected.countWith(name+": no answer", err.Error())
		}
		return false
	case !slices.Contains(expected, status):
		l.unexpected.countWith(fmt.Sprintf("%s: %d", name, status), string(bytes.TrimSpace(body)))
		return false
	}
	l.done.count(fmt.Sprintf("%s: %d", name, status))
	return status < http.StatusMultipleChoices
}

// simulator calls the control API of the stand-ins.
func (l *load) simulator(ctx context.Context, method, path, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, l.world.sims.control+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := l.world.server.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// content makes a notification: its body for POST /v1/notifications, and what the ledger
// has to know of it.
func (l *load) content() (n *notification, ack string, ttl time.Duration) {
	n = &notification{id: fmt.Sprintf("%s-%d", l.run, l.number.Add(1)), account: l.world.account(rand.IntN(l.world.accounts)), at: time.Now()}
	ack, ttl = "received", l.timing.ttl
	m := map[string]any{"id": n.id, "account": n.account, "title": "A soak test", "body": strings.Repeat("text ", 1+rand.IntN(40))}
	switch r := rand.Float64(); {
	case r < 0.03:
		ttl = 0
	case r < 0.15:
		ttl = 2 * time.Second
	case r < 0.60:
		ttl /= 2
	}
	m["ttl"] = ttl.String()
	with := func(p float64, name string, value any) {
		if chance(p) {
			m[name] = value
		}
	}
	with(0.4, "urgency", "normal")
	with(0.1, "fallback", false)
	with(0.15, "collapse_key", fmt.Sprint("key-", rand.IntN(3)))
	with(0.15, "data", map[string]any{"text": strings.Repeat("data ", rand.IntN(400))})
	with(0.05, "badge", "auto")
	with(0.05, "ack_window", "1s")
	with(0.03, "ack_window", "0s")
	with(0.1, "level", "time-sensitive")
	with(0.1, "thread", "soak")
	with(0.1, "link", "https://example.com/soak")
	with(0.1, "extra", map[string]any{"key": "value"})
	with(0.05, "localized", map[string]any{"title_key": "SOAK", "title_args": []string{"one"}})
	if chance(0.15) {
		m["ack"], ack = "displayed", "displayed"
	}
	b, _ := json.Marshal(m) // text and numbers
	n.body = string(b)
	return n, ack, ttl
}

// remember keeps an accepted notification for calls about it, for a third of its life.
func (l *load) remember(n *notification) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.recent = append(l.recent, n); len(l.recent) > 500 {
		l.recent = slices.Delete(l.recent, 0, 250)
	}
}

// some returns a notification that was accepted a short time ago; nil if there is none.
func (l *load) some() *notification {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.recent) == 0 {
		return nil
	}
	n := l.recent[rand.IntN(len(l.recent))]
	if time.Since(n.at) > l.timing.history/2 {
		return nil
	}
	return n
}

// backends call the API at the rate until ctx ends.
func (l *load) backends(ctx context.Context) {
	const callers = 16
	work := make(chan struct{}, callers)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range work {
				l.action(ctx)
			}
		})
	}
	tick := time.NewTicker(time.Duration(float64(time.Second) / l.rate))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			select {
			case work <- struct{}{}:
			default:
				l.done.count("late: every caller was busy")
			}
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
}

// action does one of the things that a backend does.
func (l *load) action(ctx context.Context) {
	get := func(name, path string, expected ...int) {
		status, body, err := l.world.server.call(ctx, http.MethodGet, path, "")
		l.answered(name, status, body, err, append(expected, http.StatusOK)...)
	}
	r := rand.Float64()
	switch {
	case r < 0.70:
		l.post(ctx)
		return
	case r < 0.76:
		l.batch(ctx)
		return
	case r < 0.77:
		since := time.Now().Add(-l.timing.ttl / 2).UTC().Format(time.RFC3339)
		get("list of notifications", "/v1/notifications?limit=50&since="+since)
		return
	case r < 0.78:
		get("list by account and state", "/v1/notifications?state=waiting&account="+l.world.account(rand.IntN(l.world.accounts)))
		return
	case r < 0.79:
		get("devices of an account", "/v1/accounts/"+l.world.account(rand.IntN(l.world.accounts))+"/devices", http.StatusNotFound)
		return
	case r < 0.80:
		get("overview", "/v1/overview")
		return
	case r < 0.81:
		get("search", "/v1/search?q=account-0000")
		return
	case r < 0.82:
		get("webhooks", "/v1/webhooks")
		return
	}
	n := l.some()
	if n == nil {
		return
	}
	path := "/v1/notifications/" + n.id
	call := func(name, method, path, body string, expected ...int) {
		status, answer, err := l.world.server.call(ctx, method, path, body)
		l.answered(name, status, answer, err, expected...)
	}
	switch {
	case r < 0.88: // erased meanwhile: 202
		call("same notification again", http.MethodPost, "/v1/notifications", n.body, http.StatusOK, http.StatusAccepted, http.StatusNotFound)
	case r < 0.90:
		other := strings.Replace(n.body, "A soak test", "Another", 1)
		call("same id with other content", http.MethodPost, "/v1/notifications", other, http.StatusConflict, http.StatusAccepted, http.StatusNotFound)
	case r < 0.93:
		call("cancel", http.MethodDelete, path, "", http.StatusNoContent, http.StatusNotFound)
	case r < 0.935:
		l.forget(n)
		call("erase", http.MethodDelete, path+"?erase=true", "", http.StatusNoContent, http.StatusNotFound)
	case r < 0.965:
		call("dismissal", http.MethodPost, path+"/dismissal", "", http.StatusNoContent, http.StatusNotFound)
	default:
		call("timeline", http.MethodGet, path, "", http.StatusOK, http.StatusNotFound)
	}
}

// forget drops a notification from the ledger and from the recent ones: it is about to be
// erased, and its events with it.
func (l *load) forget(n *notification) {
	l.ledger.dropped(n.id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent = slices.DeleteFunc(l.recent, func(o *notification) bool { return o == n })
}

// post sends one notification.
func (l *load) post(ctx context.Context) {
	n, ack, ttl := l.content()
	l.ledger.opened(n.id, ack, ttl)
	begun := time.Now()
	status, body, err := l.world.server.call(context.WithoutCancel(ctx), http.MethodPost, "/v1/notifications", n.body)
	if status == http.StatusAccepted {
		l.samples.add("accept", float64(time.Since(begun))/float64(time.Millisecond))
	}
	// An account whose devices all moved: 404.
	if !l.answered("notification", status, body, err, http.StatusAccepted, http.StatusNotFound, http.StatusTooManyRequests) {
		l.ledger.dropped(n.id)
		return
	}
	var accepted wire.Accepted
	if err := json.Unmarshal(body, &accepted); err != nil {
		l.unexpected.countWith("answer to a notification", err.Error())
	}
	l.accepted(n, accepted.Deliveries)
}

func (l *load) accepted(n *notification, deliveries []wire.DeliveryState) {
	devices := make([]string, 0, len(deliveries))
	for _, d := range deliveries {
		if d.State != "cancelled" { // the device is full
			devices = append(devices, d.Device)
		}
	}
	l.ledger.took(n.id, devices)
	l.remember(n)
}

// batch sends five notifications as lines or as an array.
func (l *load) batch(ctx context.Context) {
	var sent []*notification
	var lines []string
	for range 5 {
		n, ack, ttl := l.content()
		l.ledger.opened(n.id, ack, ttl)
		sent, lines = append(sent, n), append(lines, n.body)
	}
	body, contentType := strings.Join(lines, "\n")+"\n", "application/x-ndjson"
	array := chance(0.5)
	if array {
		body, contentType = "["+strings.Join(lines, ",")+"]", "application/json"
	}
	status, answer, err := l.world.server.callAs(context.WithoutCancel(ctx), http.MethodPost, "/v1/notifications/batch", body, func(r *http.Request) {
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Authorization", "Bearer "+l.world.token)
	})
	var results []wire.BatchResult
	if l.answered("batch", status, answer, err, http.StatusOK) {
		if array {
			err = json.Unmarshal(answer, &results)
		} else {
			for in := json.NewDecoder(bytes.NewReader(answer)); err == nil; {
				var r wire.BatchResult
				if err = in.Decode(&r); err == nil {
					results = append(results, r)
				}
			}
		}
		if len(results) != len(sent) {
			l.unexpected.countWith(fmt.Sprintf("batch of %d with %d results", len(sent), len(results)), fmt.Sprint(err))
		}
	}
	for i, n := range sent {
		if i >= len(results) || !l.answered("line of a batch", results[i].Status, []byte(results[i].Detail), nil, http.StatusAccepted, http.StatusNotFound, http.StatusTooManyRequests) {
			l.ledger.dropped(n.id)
			continue
		}
		l.accepted(n, results[i].Deliveries)
	}
}

// overMQTT sends notifications as a service on MQTT, one at a time, over one connection
// after another.
func (l *load) overMQTT(ctx context.Context, version byte) {
	for ctx.Err() == nil {
		if err := l.publisher(ctx, version); err != nil && ctx.Err() == nil {
			l.unexpected.countWith("service on MQTT", err.Error())
			rest(ctx, time.Second)
		}
	}
}

func (l *load) publisher(ctx context.Context, version byte) error {
	conn, err := l.world.dial(ctx, overTCP, "")
	if err != nil {
		return err
	}
	c := rawmqtt.New(conn, version)
	defer c.Close()
	if err := enter(c, fmt.Sprintf("backend-%d", version)); err != nil {
		return err
	}
	until := time.Now().Add(l.timing.session)
	for id := uint16(1); time.Now().Before(until) && rest(ctx, time.Duration(float64(time.Second)/(0.04*l.rate))); id++ {
		n, ack, ttl := l.content()
		var m map[string]any
		if err := json.Unmarshal([]byte(n.body), &m); err != nil {
			return err
		}
		delete(m, "account")
		payload, _ := json.Marshal(m) // text and numbers
		l.ledger.opened(n.id, ack, ttl)
		reason, err := publishAndWait(c, id, "heartline/accounts/"+n.account+"/notifications", payload)
		if err != nil {
			l.ledger.dropped(n.id)
			return err
		}
		l.done.count(fmt.Sprintf("notification over MQTT %s: PUBACK 0x%02x", map[byte]string{4: "3.1.1", 5: "5"}[version], reason))
		// A PUBACK does not list the deliveries; and in 3.1.1 it also answers a refusal.
		var v wire.NotificationView
		status, body, err := l.world.server.call(context.WithoutCancel(ctx), http.MethodGet, "/v1/notifications/"+n.id, "")
		if !l.answered("timeline of one over MQTT", status, body, err, http.StatusOK, http.StatusNotFound) || json.Unmarshal(body, &v) != nil {
			l.ledger.dropped(n.id)
			continue
		}
		devices := make([]string, len(v.Deliveries))
		for i, d := range v.Deliveries {
			devices[i] = d.Device
		}
		l.ledger.took(n.id, devices)
		l.remember(n)
	}
	return nil
}

// enter connects as a service.
func enter(c *rawmqtt.Client, id string) error {
	ack, err := c.Connect(rawmqtt.Connect{ID: id, Username: service, Password: password, Keepalive: 300, Clean: true})
	if err == nil && ack.ReasonCode != 0 {
		err = fmt.Errorf("CONNACK 0x%02x", ack.ReasonCode)
	}
	return err
}

// publishAndWait publishes at QoS 1 and returns the reason code of the PUBACK.
func publishAndWait(c *rawmqtt.Client, id uint16, topicName string, payload []byte) (byte, error) {
	if err := c.Publish(id, 1, topicName, payload); err != nil {
		return 0, err
	}
	for {
		pk, err := c.Read(patience)
		if err != nil {
			return 0, err
		}
		if pk.FixedHeader.Type == packets.Puback && pk.PacketID == id {
			return pk.ReasonCode, nil
		}
	}
}

// intruders try passwords, tokens and packets that must be refused.
func (l *load) intruders(ctx context.Context) {
	var wg sync.WaitGroup
	for n := 0; rest(ctx, max(l.timing.other/30, 200*time.Millisecond)); n++ {
		wg.Go(func() {
			switch n % 4 {
			case 0:
				status, body, err := l.world.server.callAs(ctx, http.MethodGet, "/v1/overview", "", func(r *http.Request) { r.Header.Set("Authorization", "Bearer wrong") })
				l.answered("wrong API token", status, body, err, http.StatusUnauthorized)
			case 1:
				conn, err := l.world.dial(ctx, overTCP, "")
				if err == nil {
					_, _ = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")) // no MQTT
					_, _ = io.Copy(io.Discard, conn)
					_ = conn.Close() // the server has closed it
					l.done.count("no MQTT packet")
				}
			default:
				l.wrongPassword(ctx, n)
			}
		})
	}
	wg.Wait()
}

func (l *load) wrongPassword(ctx context.Context, n int) {
	conn, err := l.world.dial(ctx, overTCP, fmt.Sprintf("127.0.1.%d", n%200+1))
	if err != nil {
		return // an operating system whose loopback has one address
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c := rawmqtt.New(conn, 5)
	defer c.Close()
	name := l.world.account(n)
	if n%3 == 0 {
		name = fmt.Sprint("nobody-", n%50)
	}
	ack, err := c.Connect(rawmqtt.Connect{ID: fmt.Sprint("intruder-", n%100), Username: name, Password: fmt.Sprint("guess-", n), Keepalive: 60, Clean: true})
	switch {
	case ctx.Err() != nil:
	case err == nil && ack.ReasonCode == 0:
		l.unexpected.countWith("login with a wrong password", name)
	case err == nil:
		l.done.count(fmt.Sprintf("wrong password: CONNACK 0x%02x", ack.ReasonCode))
	}
}

// tenants puts a device of an account into the registry, notifies it, and erases the
// account, again and again.
func (l *load) tenants(ctx context.Context) {
	for n := 0; rest(ctx, l.timing.other/3); n++ {
		account, device := fmt.Sprint("tenant-", n%20), fmt.Sprint("tenant-device-", n%20)
		call := func(name, method, path, body string, expected int) {
			status, answer, err := l.world.server.call(ctx, method, path, body)
			l.answered(name, status, answer, err, expected)
		}
		call("device put", http.MethodPut, "/v1/accounts/"+account+"/devices/"+device, fmt.Sprintf(`{"apns":{"token":"%064x"}}`, 1<<40+n%20), http.StatusCreated)
		call("tenant's notification", http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"account":%q,"title":"t","ttl":"1m"}`, account), http.StatusAccepted)
		call("device read", http.MethodGet, "/v1/accounts/"+account+"/devices/"+device, "", http.StatusOK)
		call("account erased", http.MethodDelete, "/v1/accounts/"+account, "", http.StatusNoContent)
	}
}

// faults has the stand-ins of the notification servers misbehave.
func (l *load) faults(ctx context.Context) {
	now := func() int64 { return time.Now().UnixMilli() }
	for n := 0; rest(ctx, l.timing.other/2); n++ {
		script := []string{
			`/apns/scripts {"status":503,"reason":"ServiceUnavailable","times":3}`,
			`/fcm/scripts {"status":503,"times":3}`,
			`/webpush/scripts {"status":429,"retry_after":"1","times":2}`,
			fmt.Sprintf(`/apns/scripts {"status":410,"reason":"Unregistered","timestamp":%d,"times":1}`, now()),
			`/fcm/scripts {"action":"reset","times":1}`,
			`/webpush/scripts {"status":410,"times":1}`,
			`/apns/scripts {"status":400,"reason":"BadDeviceToken","times":1}`,
			`/fcm/scripts {"delay":"3s","times":3}`,
			`/webpush/scripts {"action":"drop","times":1}`,
			`/apns/scripts {"action":"goaway","times":1}`,
			`/apns/scripts {"action":"hang","times":1}`,
			`/webpush/scripts {"delay":"2s","times":3}`,
		}[n%12]
		path, body, _ := strings.Cut(script, " ")
		status, answer, err := l.simulator(ctx, http.MethodPost, path, body)
		l.answered("fault of a notification server", status, answer, err, http.StatusNoContent)
	}
}

// refusesOnce picks one event in a hundred, once: an event that is refused twice waits for
// five minutes, and the oldest of them would be the lag.
func (l *load) refusesOnce(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused[id] || !chance(0.01) {
		return false
	}
	if l.refused == nil || len(l.refused) > 1000 {
		l.refused = map[string]bool{}
	}
	l.refused[id] = true
	return true
}

// receive is the receiver of the webhooks. The one named shaky fails at times.
func (l *load) receive(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // a sender that has gone
	shaky := strings.HasSuffix(r.URL.Path, "/shaky")
	cycle := 8 * l.timing.other
	switch phase := time.Duration(time.Now().UnixNano()) % cycle; {
	case shaky && phase < cycle/8:
		l.done.count("webhook: down")
		w.WriteHeader(http.StatusServiceUnavailable)
	case shaky && phase < cycle/6:
		l.done.count("webhook: closed half way")
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = conn.Write([]byte("HTTP/1.1 20")) // half an answer
			_ = conn.Close()                         // likewise
		}
	case shaky && chance(0.02):
		l.done.count("webhook: slow")
		time.Sleep(500 * time.Millisecond)
	case l.refusesOnce(r.Header.Get("webhook-id")):
		l.done.count("webhook: 500")
		w.WriteHeader(http.StatusInternalServerError)
	default:
		l.done.count("webhook: taken")
		w.WriteHeader(http.StatusNoContent)
	}
}

package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// narrow leaves few requests to Apple at a time, so that pushes wait in the lane.
var narrow = append([]string{"HEARTLINE_FALLBACK_APNS_MAX_CONCURRENT=4"}, quick...)

// underWay is how long a request may be on its way to Apple's server when a change of
// the registry is answered.
const underWay = 500 * time.Millisecond

// change is an answered change of the registry: from then on no push of the account may
// come for the token.
type change struct {
	token, account string
	at             time.Time
}

// pushedAfter counts the pushes that came for an account after it had given up the token.
func (w *World) pushedAfter(changes []change) int {
	owner := map[string]string{}
	for _, a := range w.Acceptances.All() {
		owner[a.ID] = a.Account
	}
	n := 0
	for _, p := range w.Apple.Received() {
		for _, c := range changes {
			if p.Token == c.token && owner[pushedID(p)] == c.account && p.Time.After(c.at.Add(underWay)) {
				n++
			}
		}
	}
	return n
}

// signOut: the lane is full of pushes for devices whose users sign out, in three ways.
// The next user of each phone signs in with the same token, and gets his own pushes.
func signOut(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 60), nil)
	if err != nil {
		return err
	}
	w.Apple.Script(apnssim.Script{Delay: 20 * time.Millisecond})
	if err := w.Load(size, 100, nil).Wait(); err != nil {
		return err
	}
	var changes []change
	var next []string
	for i, d := range devices {
		token := w.token(d)
		switch i % 3 {
		case 0:
			if err := w.must(http.MethodDelete, "/v1/accounts/"+d.Account+"/devices/"+d.ID, "", http.StatusNoContent); err != nil {
				return err
			}
		case 1:
			if err := w.say(d, "sign-out", "{}"); err != nil {
				return err
			}
		default:
			if err := w.say(d, "push-token", `{"apns":null}`); err != nil {
				return err
			}
		}
		changes = append(changes, change{token, d.Account, time.Now()})
		if i%3 == 2 {
			continue // the device stays, without a token
		}
		next = append(next, "b"+d.Account)
	}
	for _, a := range w.Acceptances.All() {
		w.Cancels.asked(a.ID) // signing out cancels, without a call for each
	}
	for i, d := range devices {
		if i%3 == 2 {
			continue
		}
		d.Account = "b" + d.Account
		if err := w.put(d, changes[i].token); err != nil {
			return err
		}
	}
	w.Apple.ClearScripts()
	if err := w.LoadFor(next, max(len(next), size/10), 100, nil).Wait(); err != nil {
		return err
	}
	if err := w.pushedOut(); err != nil {
		return err
	}
	if n := w.pushedAfter(changes); n > 0 {
		return fmt.Errorf("%d pushes came after the sign-out was acknowledged", n)
	}
	w.Runs = len(devices)
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	return w.Drain(2 * time.Minute)
}

// tokenMoves: the token of every other device is registered by another account's
// device, while pushes for both wait.
func tokenMoves(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 60), nil)
	if err != nil {
		return err
	}
	w.Apple.Script(apnssim.Script{Delay: 10 * time.Millisecond})
	load := w.Load(0, 100, nil)
	var changes []change
	for i := 0; i+1 < len(devices); i += 2 {
		if err := w.Reach(max(1, 2*size/len(devices))); err != nil {
			return err
		}
		from, to := devices[i], devices[i+1]
		token := w.token(from)
		w.former[token] = append(w.former[token], from.ID)
		w.former[w.token(to)] = append(w.former[w.token(to)], to.ID)
		w.tokens[token] = to.ID
		if err := w.put(to, token); err != nil {
			return err
		}
		changes = append(changes, change{token, from.Account, time.Now()})
		w.Runs++
	}
	if err := load.Stop(); err != nil {
		return err
	}
	w.Apple.ClearScripts()
	if err := w.pushedOut(); err != nil {
		return err
	}
	if n := w.pushedAfter(changes); n > 0 {
		return fmt.Errorf("%d pushes for the former holder came after the token had moved", n)
	}
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	return w.Drain(2 * time.Minute)
}

// claims: two devices of two accounts claim one token in the same instant, round after
// round, over HTTP and over MQTT. One of them holds it afterwards.
func claims(w *World, size int, full bool) error {
	devices, err := ready(w, 4, nil)
	if err != nil {
		return err
	}
	rounds := 40
	if full {
		rounds = 1000
	}
	mqtt := make([]*rawmqtt.Client, 2)
	for i := range mqtt {
		if mqtt[i], err = w.link(devices[i]); err != nil {
			return err
		}
		defer mqtt[i].Close()
	}
	for round := range rounds {
		token := fmt.Sprintf("%064x", 1_000_000+round)
		pair := devices[:2]
		if round%2 == 1 {
			pair = devices[2:]
		}
		var both sync.WaitGroup
		errs := make([]error, 2)
		start := make(chan struct{})
		for i, d := range pair {
			both.Go(func() {
				<-start
				if round%2 == 1 {
					errs[i] = w.put(d, token)
				} else {
					errs[i] = sayOn(mqtt[i], d, uint16(round+2), "push-token", fmt.Sprintf(`{"apns":{"token":%q}}`, token))
				}
			})
		}
		close(start)
		both.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		var holders []string
		for _, d := range pair {
			v, err := w.view(d)
			if err != nil {
				return err
			}
			if v.APNs != nil && v.APNs.Token == token {
				holders = append(holders, d.ID)
			}
		}
		if len(holders) != 1 {
			return fmt.Errorf("round %d: the token is held by %v, want one device", round, holders)
		}
		w.tokens[token] = holders[0]
		w.Runs++
	}
	for _, c := range mqtt {
		c.Close()
	}
	if err := w.Load(size, 50, nil).Wait(); err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	return w.Drain(2 * time.Minute)
}

// outage: Apple's server answers 503 for a while. Urgent and normal pushes wait, and go
// out when it is back, the urgent ones first; after that, urgent ones overtake a
// campaign of normal ones.
func outage(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 400), nil)
	if err != nil {
		return err
	}
	mixed := func(_ string, n int) string {
		if n/len(devices)%10 == 9 || n%10 == 9 {
			return `,"urgency":"high"`
		}
		return `,"urgency":"normal"`
	}
	urgent := func(id string, n int) bool { return strings.Contains(mixed(id, n), "high") }
	w.Apple.Script(apnssim.Script{Status: 503, Reason: "ServiceUnavailable"})
	if err := w.Load(size/5, 200, mixed).Wait(); err != nil {
		return err
	}
	if full {
		pause(w, 20*time.Second) // the breaker is at its longest pause
	} else {
		pause(w, 2*time.Second)
	}
	w.Apple.ClearScripts()
	back := time.Now()
	if err := w.pushedOut(); err != nil {
		return err
	}
	var waited []time.Duration
	for _, p := range w.accepted(func(id string) bool { return urgent(id, number(id)) }) {
		waited = append(waited, p.Sub(back))
	}
	w.note("p99 of urgent pushes after the server's return: %s of %d (at most 5 s)", p99(waited).Round(time.Millisecond), len(waited))
	if full && p99(waited) > 5*time.Second {
		return fmt.Errorf("urgent pushes waited %s after the server's return", p99(waited))
	}
	// The campaign: normal ones for all, an urgent one now and then.
	w.Apple.Script(apnssim.Script{Delay: time.Millisecond})
	asked := map[string]bool{}
	var mu sync.Mutex
	campaign := w.Load(size*4/5, 500, func(id string, n int) string {
		if n%199 != 198 { // a prime: the urgent ones go to many devices, not to every 200th over and over
			return `,"urgency":"normal"`
		}
		mu.Lock()
		defer mu.Unlock()
		asked[id] = true
		return `,"urgency":"high"`
	})
	if err := campaign.Wait(); err != nil {
		return err
	}
	if err := w.pushedOut(); err != nil {
		return err
	}
	waited = waited[:0]
	for id, at := range w.firstPush(func(id string) bool { return asked[id] }) {
		status, body, err := w.Call(http.MethodGet, "/v1/notifications/"+id, "")
		var n wire.NotificationView
		if err == nil && (status != http.StatusOK || json.Unmarshal(body, &n) != nil) {
			err = fmt.Errorf("%s: %d %s", id, status, body)
		}
		if err != nil {
			return err
		}
		waited = append(waited, at.Sub(wire.ParseTime(n.AcceptedAt)))
	}
	w.note("p99 of urgent pushes in a campaign of %d: %s of %d (at most 1 s)", size*4/5, p99(waited).Round(time.Millisecond), len(waited))
	if full && p99(waited) > time.Second {
		return fmt.Errorf("urgent pushes waited %s in the campaign", p99(waited))
	}
	w.Apple.ClearScripts()
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	return w.Drain(2 * time.Minute)
}

// ordered: Apple's server fails for every seventh push in the given ways. Of each
// registration the pushes of one urgency come in the order of acceptance, and of a
// collapse key the newest last.
func ordered(failures ...apnssim.Script) func(*World, int, bool) error {
	return func(w *World, size int, full bool) error {
		devices, err := ready(w, fleet(full, 100), nil)
		if err != nil {
			return err
		}
		for i := range max(8, size/7) {
			f := failures[i%len(failures)]
			f.Times = 1
			w.Apple.Script(f, apnssim.Script{Times: 6})
		}
		more := func(_ string, n int) string {
			s := []string{`,"urgency":"high"`, `,"urgency":"normal"`}[n/len(devices)%2]
			if n/len(devices)%3 == 0 {
				s += `,"collapse_key":"k"`
			}
			return s
		}
		w.PushOrder = true
		return w.play(size, scene{devices: devices, away: devices, inFlight: 200, more: more, after: w.pushedOut, drain: 3 * time.Minute})
	}
}

// wrongEnvironment: every token is refused, because the environment is wrong. None is
// lost, and all are pushed to once the configuration is mended.
func wrongEnvironment(w *World, size int, full bool) error {
	devices, err := ready(w, fleet(full, 1000), nil)
	if err != nil {
		return err
	}
	w.Apple.Script(apnssim.Script{Status: http.StatusBadRequest, Reason: "BadDeviceToken"})
	if err := w.Load(max(size, 2*len(devices)), 200, nil).Wait(); err != nil { // two backends, each for every device
		return err
	}
	asked, since := 0, time.Now()
	if err := until(w.ctx, "Heartline goes on asking", func() (bool, error) {
		if n := len(w.Apple.Received()); n != asked {
			asked, since = n, time.Now()
		}
		return asked > 0 && time.Since(since) > time.Second, nil
	}); err != nil {
		return err
	}
	w.note("%d requests to Apple for %d tokens until Heartline stopped asking", len(w.Apple.Received()), len(devices))
	if err := w.Program.Stop(); err != nil {
		return err
	}
	w.Apple.ClearScripts()
	w.Program.env = append(w.Program.env, "HEARTLINE_FALLBACK_APNS_ENVIRONMENT=sandbox")
	if err := w.Start(); err != nil {
		return err
	}
	began := time.Now()
	if err := until(w.ctx, "not every device is pushed to after the mending", func() (bool, error) {
		tokens := map[string]bool{}
		for _, p := range w.Apple.Received() {
			if p.Status == http.StatusOK {
				tokens[p.Token] = true
			}
		}
		return len(tokens) == len(devices), nil
	}); err != nil {
		return err
	}
	w.note("all %d devices pushed to %s after the mending", len(devices), time.Since(began).Round(time.Millisecond))
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	return w.Drain(2 * time.Minute)
}

// dup: a backend of MQTT 3.1.1, or 5, publishes without an id. After each kill -9 it
// sends again with DUP what the server has not acknowledged. Nothing is accepted twice.
func dup(w *World, size int, full bool) error {
	devices, err := ready(w, 4, nil)
	if err != nil {
		return err
	}
	w.Heartbeats(time.Second)
	w.Connect(devices...)
	kills := 6
	if full {
		kills = 100
	}
	var acked atomic.Int64
	var publishing sync.WaitGroup
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	titles := make([][]string, 2)
	for i, version := range []byte{4, 5} {
		publishing.Go(func() {
			var err error
			if titles[i], err = w.publishWithoutID(ctx, version, devices[i*2:i*2+2], &acked); err != nil {
				w.fail(err)
			}
		})
	}
	for range kills {
		from := acked.Load()
		if err := until(w.ctx, "nothing more is accepted", func() (bool, error) {
			return acked.Load() >= from+int64(max(2, size/kills)), w.err()
		}); err != nil {
			stop()
			publishing.Wait()
			return err
		}
		if err := w.Restart(); err != nil {
			return err
		}
		w.Runs++
	}
	stop()
	publishing.Wait()
	if err := w.err(); err != nil {
		return err
	}
	stored := map[string]int{}
	for cursor := ""; ; {
		_, body, err := w.Call(http.MethodGet, "/v1/notifications?limit=500"+cursor, "")
		var page wire.NotificationList
		if err == nil {
			err = json.Unmarshal(body, &page)
		}
		if err != nil {
			return err
		}
		for _, n := range page.Notifications {
			stored[n.Title]++
			w.Acceptances.add(Acceptance{ID: n.ID, Account: n.Account, Link: "dup", Again: true, Status: http.StatusAccepted})
		}
		if page.Next == "" {
			break
		}
		cursor = "&cursor=" + page.Next
	}
	for title, n := range stored {
		if n > 1 {
			return fmt.Errorf("%s was accepted %d times", title, n)
		}
	}
	for _, title := range slices.Concat(titles...) {
		if stored[title] == 0 {
			return fmt.Errorf("%s was acknowledged and is not in the store", title)
		}
	}
	w.note("%d notifications without an id acknowledged over %d kills, each stored once", len(slices.Concat(titles...)), kills)
	return w.Drain(2 * time.Minute)
}

// publishWithoutID publishes until ctx ends, ten at a time, and returns the titles that
// were acknowledged. Each new connection sends the unacknowledged ones again, with DUP.
func (w *World) publishWithoutID(ctx context.Context, version byte, devices []*Device, acked *atomic.Int64) (titles []string, err error) {
	type publish struct {
		title, topic string
		sent         bool
	}
	open := map[uint16]publish{}
	next := 0
	for w.ctx.Err() == nil && (ctx.Err() == nil || len(open) > 0) {
		address, err := w.Program.MQTT(w.ctx)
		if err != nil {
			return titles, err
		}
		c, err := rawmqtt.Dial(address, version)
		if err != nil {
			continue // it is down: again
		}
		o := rawmqtt.Connect{ID: fmt.Sprintf("backend-%d", version), Username: "backend", Keepalive: 60}
		if version == 5 {
			o.SessionExpiry = 3600
		}
		send := func(id uint16, p publish, again bool) error {
			return c.Send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Dup: again}, PacketID: id, TopicName: p.topic,
				Payload: fmt.Appendf(nil, `{"title":%q}`, p.title),
			})
		}
		if ack, err := c.Connect(o); err == nil && ack.ReasonCode == 0 {
			ok := true
			ids := make([]uint16, 0, len(open))
			for id := range open {
				ids = append(ids, id)
			}
			slices.SortFunc(ids, func(a, b uint16) int { return cmp.Compare(open[a].title, open[b].title) })
			for _, id := range ids {
				ok = ok && send(id, open[id], open[id].sent) == nil
			}
			for ok && (ctx.Err() == nil || len(open) > 0) {
				for len(open) < 10 && ctx.Err() == nil && ok {
					id := uint16(next%60000 + 1)
					d := devices[next%len(devices)]
					p := publish{fmt.Sprintf("v%d-%07d", version, next), "heartline/accounts/" + d.Account + "/notifications", true}
					open[id] = p
					next++
					ok = send(id, p, false) == nil
				}
				pk, err := c.Read(patience)
				if err != nil {
					break
				}
				if pk.FixedHeader.Type != packets.Puback {
					continue
				}
				if pk.ReasonCode >= 0x80 {
					return titles, fmt.Errorf("%s was refused with 0x%02x", open[pk.PacketID].title, pk.ReasonCode)
				}
				if p, there := open[pk.PacketID]; there {
					titles = append(titles, p.title)
					delete(open, pk.PacketID)
					acked.Add(1)
				}
			}
		}
		c.Close()
	}
	return titles, w.ctx.Err()
}

// token is the one that a device was added with.
func (w *World) token(d *Device) string {
	for token, id := range w.tokens {
		if id == d.ID {
			return token
		}
	}
	return ""
}

// link is a connection of a device that subscribes to nothing.
func (w *World) link(d *Device) (*rawmqtt.Client, error) {
	address, err := w.Program.MQTT(w.ctx)
	if err != nil {
		return nil, err
	}
	c, err := rawmqtt.Dial(address, 5)
	if err != nil {
		return nil, err
	}
	ack, err := c.Connect(rawmqtt.Connect{ID: d.ID, Username: d.Account, Keepalive: 60, Clean: true})
	if err == nil && ack.ReasonCode != 0 {
		err = errRefused
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// say publishes to a topic of a device, and waits for the PUBACK.
func (w *World) say(d *Device, topic, payload string) error {
	c, err := w.link(d)
	if err != nil {
		return err
	}
	defer c.Close()
	return sayOn(c, d, 1, topic, payload)
}

func sayOn(c *rawmqtt.Client, d *Device, packetID uint16, topic, payload string) error {
	if err := c.Publish(packetID, 1, "heartline/devices/"+d.ID+"/"+topic, []byte(payload)); err != nil {
		return err
	}
	for {
		pk, err := c.Read(patience)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", topic, d.ID, err)
		}
		if pk.FixedHeader.Type == packets.Puback && pk.PacketID == packetID {
			if pk.ReasonCode >= 0x80 {
				return fmt.Errorf("%s of %s: refused with 0x%02x", topic, d.ID, pk.ReasonCode)
			}
			return nil
		}
	}
}

// must is a call with the status that it has to have.
func (w *World) must(method, path, body string, want int) error {
	status, text, err := w.Call(method, path, body)
	if err == nil && status != want {
		err = fmt.Errorf("%s %s: %d %s", method, path, status, text)
	}
	return err
}

func (w *World) view(d *Device) (v wire.DeviceView, err error) {
	status, body, err := w.Call(http.MethodGet, "/v1/accounts/"+d.Account+"/devices/"+d.ID, "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("device %s: %d %s", d.ID, status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	return v, err
}

// firstPush is when Apple took the first push of each notification that is asked for.
func (w *World) firstPush(of func(id string) bool) map[string]time.Time {
	first := map[string]time.Time{}
	for _, p := range w.Apple.Received() {
		if id := pushedID(p); p.Status == http.StatusOK && of(id) {
			if _, there := first[id]; !there {
				first[id] = p.Time
			}
		}
	}
	return first
}

func (w *World) accepted(of func(id string) bool) (times []time.Time) {
	for _, at := range w.firstPush(of) {
		times = append(times, at)
	}
	return times
}

// number is the place in an ID that a Backend has made.
func number(id string) (n int) {
	_, digits, _ := strings.Cut(id, "-")
	_, _ = fmt.Sscanf(digits, "%d", &n) // 0 for others
	return n
}

func p99(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[(len(list)*99-1)/100]
}

// note is a figure that is printed with the row.
func (w *World) note(format string, args ...any) {
	w.Notes = append(w.Notes, fmt.Sprintf(format, args...))
}

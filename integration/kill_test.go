package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// accepted are the IDs that a server has answered for, by account. A request
// without an answer may have taken effect or not.
type accepted struct {
	mu  sync.Mutex
	ids map[string][]string
	n   int
	any chan struct{} // closed at the first
}

func newAccepted() *accepted {
	return &accepted{ids: map[string][]string{}, any: make(chan struct{})}
}

func (a *accepted) add(account, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids[account] = append(a.ids[account], id)
	if a.n++; a.n == 1 {
		close(a.any)
	}
}

// load asks the server for notifications until it dies: over HTTP, a call at a
// time from each of several callers, and over MQTT with inFlight publishes at a
// time from each of two backends.
func load(s *server, round, inFlight int, accounts []string, got *accepted) *sync.WaitGroup {
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				account := accounts[(worker+i)%len(accounts)]
				id := fmt.Sprintf("h-%d-%d-%06d", round, worker, i)
				status, _, err := call(s.http, http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"id":%q,"account":%q,"title":"by HTTP"}`, id, account))
				if err != nil {
					return // it is dead
				}
				if status == http.StatusAccepted {
					got.add(account, id)
				}
			}
		})
	}
	for worker, version := range []byte{4, 5} {
		wg.Go(func() { backend(s, fmt.Sprintf("m-%d-%d", round, worker), version, inFlight, accounts, got) })
	}
	return &wg
}

// backend publishes with inFlight at a time until the connection breaks.
func backend(s *server, name string, version byte, inFlight int, accounts []string, got *accepted) {
	c, err := rawmqtt.Dial(s.mqtt, version)
	if err != nil {
		return
	}
	defer c.Close()
	if _, err := c.Connect(rawmqtt.Connect{ID: name, Username: "shop", Keepalive: 60, Clean: true}); err != nil {
		return
	}
	type sent struct{ account, id string }
	waiting := make(chan sent, inFlight)
	var writing sync.WaitGroup
	writing.Go(func() {
		defer close(waiting)
		for i := 0; ; i++ {
			account := accounts[i%len(accounts)]
			id := fmt.Sprintf("%s-%06d", name, i)
			waiting <- sent{account, id} // in the order of their packet identifiers
			if err := c.Publish(uint16(i%60000+1), 1, "heartline/accounts/"+account+"/notifications", fmt.Appendf(nil, `{"id":%q,"title":"by MQTT"}`, id)); err != nil {
				return
			}
		}
	})
	for next := 0; ; next++ {
		pk, err := c.Read(patience)
		if err != nil || pk.FixedHeader.Type == packets.Disconnect {
			break
		}
		// PUBACKs come in the order of the publishes [MQTT-4.6.0-2].
		w := <-waiting
		if pk.FixedHeader.Type != packets.Puback || pk.PacketID != uint16(next%60000+1) {
			s.t.Errorf("%s: got a packet of type %d with identifier %d, want a PUBACK of %d", name, pk.FixedHeader.Type, pk.PacketID, next%60000+1)
			break
		}
		if pk.ReasonCode < 0x80 {
			got.add(w.account, w.id)
		}
	}
	c.Close()
	for range waiting { // let the writer go on into its error
	}
	writing.Wait()
}

// device connects, acknowledges everything and reports each ID, until quit.
func device(s *server, account, id string, seen func(string)) (quit func()) {
	s.t.Helper()
	c, err := rawmqtt.Dial(s.mqtt, 5)
	if err == nil {
		_, err = c.Connect(rawmqtt.Connect{ID: id, Username: account, Keepalive: 60, SessionExpiry: 3600})
	}
	if err == nil { // without waiting for the SUBACK: a resumed session gets its notifications before it
		err = c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
			Filters: packets.Subscriptions{{Filter: "heartline/devices/" + id + "/notifications", Qos: 1}},
		})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			pk, err := c.Read(0)
			if err != nil {
				return
			}
			if pk.FixedHeader.Type != packets.Publish {
				continue
			}
			var n wire.Pseudo
			if err := json.Unmarshal(pk.Payload, &n); err != nil {
				s.t.Errorf("device %s got %q: %v", id, pk.Payload, err)
			}
			seen(n.ID)
			if c.Puback(pk.PacketID) != nil {
				return
			}
		}
	}()
	return func() { c.Close(); <-ended }
}

// collector waits for IDs.
type collector struct {
	mu      sync.Mutex
	order   []string // first sights
	seen    map[string]bool
	missing map[string]bool
	done    chan struct{}
}

func collect(ids []string) *collector {
	c := &collector{seen: map[string]bool{}, missing: map[string]bool{}, done: make(chan struct{})}
	for _, id := range ids {
		c.missing[id] = true
	}
	if len(ids) == 0 {
		close(c.done)
	}
	return c
}

func (c *collector) add(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[id] {
		return
	}
	c.seen[id] = true
	c.order = append(c.order, id)
	if c.missing[id] {
		if delete(c.missing, id); len(c.missing) == 0 {
			close(c.done)
		}
	}
}

func (c *collector) wait(t *testing.T) {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		c.mu.Lock()
		defer c.mu.Unlock()
		t.Errorf("%d accepted notifications were not delivered; %d others were", len(c.missing), len(c.seen))
	}
}

// TestKillDuringAccepts: whatever was answered for is delivered after a kill -9 at
// any moment, each device's in the order in which one backend had asked for it.
func TestKillDuringAccepts(t *testing.T) { //nolint:tparallel // each case loads both processors
	t.Parallel()
	for _, engine := range []string{config.EnginePebble, config.EngineJournal} {
		t.Run(engine, func(t *testing.T) { killDuringAccepts(t, engine) })
	}
}

func killDuringAccepts(t *testing.T, engine string) {
	rounds := 4
	if heavy {
		rounds = 60
	}
	accounts := []string{"alice", "bob", "carol"}
	s := serve(t, "HEARTLINE_DELIVERY_MAX_OUTSTANDING_PER_DEVICE=1000000", "HEARTLINE_STORE_ENGINE="+engine)
	for _, a := range accounts {
		s.register(a, a+"-phone", "")
	}
	for round := range rounds {
		got := newAccepted()
		working := load(s, round, 200, accounts, got)
		<-got.any
		moment := time.Duration(rand.Int64N(int64(500 * time.Millisecond)))
		time.Sleep(moment) // the moment is what is random
		s.kill()
		working.Wait()
		s.start()
		t.Logf("round %d: killed after %s with %d accepted", round, moment, got.n)

		for account, ids := range got.ids {
			c := collect(ids)
			quit := device(s, account, account+"-phone", c.add)
			c.wait(t)
			settled(s, account)
			quit()
			checkOrder(t, c.order)
			// Asked again with the same ID, as a backend does that had no answer.
			last := ids[len(ids)-1]
			body := fmt.Sprintf(`{"id":%q,"account":%q,"title":"by HTTP"}`, last, account)
			if strings.HasPrefix(last, "m") {
				body = strings.Replace(body, "HTTP", "MQTT", 1)
			}
			if status, b := s.call(http.MethodPost, "/v1/notifications", body); status != http.StatusOK {
				t.Errorf("%s again: %d %s, want 200 and the first answer", last, status, b)
			}
		}
		if t.Failed() {
			return
		}
	}
	s.stop()
}

// settled waits until nothing of an account is unfinished: what the server had not
// answered for and has all the same is delivered, too.
func settled(s *server, account string) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var d wire.DeviceView
		s.must(http.MethodGet, "/v1/accounts/"+account+"/devices/"+account+"-phone", "", &d)
		if d.Outstanding == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Errorf("%d deliveries to %s are unfinished", d.Outstanding, d.Device)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// checkOrder: the number at the end of an ID grows for each of those who asked.
func checkOrder(t *testing.T, ids []string) {
	t.Helper()
	last := map[string]string{}
	for _, id := range ids {
		asker := id[:strings.LastIndexByte(id, '-')]
		if id < last[asker] {
			t.Errorf("%s was delivered after %s", id, last[asker])
			return
		}
		last[asker] = id
	}
}

// TestKillDuringPushes: a delivery makes one accepted push. Where the crash comes
// between Apple's answer and its record the same push is asked for again, under
// the same apns-id.
func TestKillDuringPushes(t *testing.T) {
	t.Parallel()
	rounds := 3
	if heavy {
		rounds = 40
	}
	sim, env := apple(t)
	s := serve(t, append(env,
		"HEARTLINE_DELIVERY_MAX_OUTSTANDING_PER_DEVICE=1000000",
		"HEARTLINE_FALLBACK_APNS_RETRY_INITIAL=100ms", "HEARTLINE_FALLBACK_APNS_RETRY_MAX=1s", "HEARTLINE_FALLBACK_APNS_TIMEOUT=2s")...)
	accounts := []string{"alice", "bob", "carol"}
	for i, a := range accounts {
		s.register(a, a+"-phone", deviceToken(i+1))
	}
	all := newAccepted()
	for round := range rounds {
		sim.ClearScripts()
		sim.Script( // Apple's server is no better than the network to it
			apnssim.Script{Times: 10, Delay: 2 * time.Millisecond},
			apnssim.Script{Times: 1, Action: apnssim.ActionDrop}, // accepted, and the answer is lost
			apnssim.Script{Times: 10, Delay: 20 * time.Millisecond},
			apnssim.Script{Times: 1, Status: http.StatusServiceUnavailable, Reason: "ServiceUnavailable"},
			apnssim.Script{Delay: 2 * time.Millisecond},
		)
		got := newAccepted()
		working := load(s, round, 10, accounts, got)
		<-got.any
		if _, err := sim.Wait(t.Context(), len(sim.Received())+1+rand.IntN(40)); err != nil {
			t.Fatal(err)
		}
		s.kill()
		working.Wait()
		s.start()
		for account, ids := range got.ids {
			for _, id := range ids {
				all.add(account, id)
			}
		}
		t.Logf("round %d: %d accepted, %d requests to Apple's server", round, got.n, len(sim.Received()))
	}

	for _, a := range accounts {
		askedFor(s, a)
	}
	apnsIDs := map[string][]string{} // of each notification: what Apple has taken for it
	for _, r := range sim.Received() {
		if r.Status == http.StatusOK || r.Action == apnssim.ActionDrop {
			if ids := apnsIDs[r.CollapseID]; !slices.Contains(ids, r.APNsID) {
				apnsIDs[r.CollapseID] = append(ids, r.APNsID)
			}
		}
	}
	for account, ids := range all.ids {
		for _, id := range ids {
			if len(apnsIDs[id]) != 1 {
				t.Errorf("%s of %s was pushed under %d apns-ids: %v", id, account, len(apnsIDs[id]), apnsIDs[id])
			}
		}
	}
	for i, a := range accounts {
		onScreen := map[string]int{}
		for _, r := range sim.Shown(deviceToken(i + 1)) {
			if onScreen[r.CollapseID]++; onScreen[r.CollapseID] > 1 {
				t.Errorf("the device of %s shows %s twice", a, r.CollapseID)
			}
		}
	}
	s.stop()
}

// askedFor waits until every push of an account has its answer.
func askedFor(s *server, account string) {
	s.t.Helper()
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(250 * time.Millisecond) { // the question reads every timeline
		var open []wire.NotificationView
		for _, state := range []string{"pending", "pushing"} {
			var list wire.NotificationList
			s.must(http.MethodGet, "/v1/notifications?limit=1&account="+account+"&state="+state, "", &list)
			open = append(open, list.Notifications...)
		}
		if len(open) == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("a push to %s is still under way: %+v", account, s.notification(open[0].ID))
		}
	}
}

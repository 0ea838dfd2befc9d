package nodes

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/wire"
)

// accountsApart returns accounts that different nodes own.
func (f *fleet) accountsApart(prefix string, n int) (accounts []string) {
	f.Helper()
	parts, err := f.db.Parts(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	owners := map[int64]bool{}
	for i := 0; len(accounts) < n; i++ {
		account := fmt.Sprint(prefix, i)
		if owner := parts[cluster.Partition(account)].Node; !owners[owner] {
			owners[owner] = true
			accounts = append(accounts, account)
		}
	}
	return accounts
}

// call calls the API of a node and decodes its answer; 0 is no answer.
func (f *fleet) call(n *served, method, path, body string, out any) int {
	req, err := http.NewRequestWithContext(f.Context(), method, "http://"+n.http+path, strings.NewReader(body))
	if err != nil {
		f.Error(err)
		return 0
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+serviceToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.Error(err)
		return 0
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && out != nil && resp.StatusCode < 300 {
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		f.Error(err)
		return 0
	}
	return resp.StatusCode
}

// serviceToken is good where there is authentication: see TestRegistrationsMeet.
const serviceToken = "a-token-of-the-tests"

// holding is who holds something from when on: for sure, once the answer has come.
type holding struct {
	account         string
	asked, answered time.Time
}

// mover moves something between accounts, over and over, while their backends ask.
type mover struct {
	f        *fleet
	accounts []string
	token    string
	put      func(account string) (path, body string)
	held     []holding
}

// move gives it to an account, at a node.
func (m *mover) move(account string, n *served) {
	m.f.Helper()
	path, body := m.put(account)
	h := holding{account: account, asked: time.Now()}
	if status := m.f.call(n, http.MethodPut, path, body, nil); status != http.StatusOK && status != http.StatusCreated {
		m.f.Fatalf("PUT %s: status %d", path, status)
	}
	h.answered = time.Now()
	m.held = append(m.held, h)
}

// judge counts the pushes that came for an account when it was another's. One is the
// request that was under way, or about to leave, when a move was answered.
func (m *mover) judge() (pushes, underWay int, latest time.Duration) {
	m.f.Helper()
	wrong := map[int]int{} // by move
	for _, r := range m.f.sim.Received() {
		var p struct{ Heartline struct{ Account string } }
		if r.Token != m.token || json.Unmarshal(r.Payload, &p) != nil {
			continue
		}
		pushes++
		i, found := slices.BinarySearchFunc(m.held, r.Time, func(h holding, at time.Time) int { return h.answered.Compare(at) })
		if !found {
			i-- // the last move that was answered before
		}
		if i < 0 || m.held[i].account == p.Heartline.Account || i+1 < len(m.held) && r.Time.After(m.held[i+1].asked) {
			continue
		}
		wrong[i]++
		latest = max(latest, r.Time.Sub(m.held[i].answered))
	}
	for i, n := range wrong {
		underWay += n
		if n > 1 {
			m.f.Errorf("%d pushes for the former account after move %d to %s was answered", n, i, m.held[i].account)
		}
	}
	if latest > time.Second {
		m.f.Errorf("a push for the former account left %v after the move was answered", latest)
	}
	return pushes, underWay, latest
}

// backendsOf has a backend ask for each account until stop is called, at the nodes in turn,
// and at the next where one refuses.
func (f *fleet) backendsOf(accounts []string, pause time.Duration) (stop func()) {
	f.loads++
	enough := make(chan struct{})
	var backends sync.WaitGroup
	for i, account := range accounts {
		load := f.loads
		backends.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-tick.C:
				case <-enough:
					return
				}
				id := fmt.Sprintf("%s-%d-%d", strings.ReplaceAll(account, "@", ":"), load, n)
				body := fmt.Sprintf(`{"id":%q,"account":%q,"title":"t"}`, id, account)
				var status, try int
				var err error
				for ; try < 3; try++ {
					if status, err = f.post(f.node(i+n+try), http.MethodPost, "/v1/notifications", body); err == nil && status < 300 {
						break
					}
				}
				f.mu.Lock()
				if err == nil && status < 300 {
					if try > 0 {
						f.repeated++
					}
					f.accepted[id] = account
					f.order[account] = append(f.order[account], id)
				} else {
					f.refused = append(f.refused, fmt.Sprint(id, " ", status, " ", err))
				}
				f.mu.Unlock()
			}
		})
	}
	return func() {
		close(enough)
		backends.Wait()
	}
}

// second counts the pushes that Apple has accepted twice.
func (f *fleet) secondPushes() (n int) {
	for _, k := range f.pushed() {
		n += k - 1
	}
	return n
}

// holders are the accounts whose device shows a push registration at a node.
func (f *fleet) holders(n *served, devices map[string]string) (all []string) {
	for account, device := range devices {
		var v wire.DeviceView
		if status := f.call(n, http.MethodGet, "/v1/accounts/"+account+"/devices/"+device, "", &v); status != http.StatusOK {
			f.Errorf("device %s of account %s: status %d", device, account, status)
		}
		if v.APNs != nil {
			all = append(all, account)
		}
	}
	return all
}

// A push token, and then a device with its own, move between accounts of two owners while
// pushes to it wait.
func TestMovesBetweenOwners(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	f := newFleet(t, "one", "two", "three")
	accounts := f.accountsApart("mover", 2)
	phones := map[string]string{}
	for i, account := range accounts {
		phones[account] = "phone-" + account
		if status := f.call(f.node(i), http.MethodPut, "/v1/accounts/"+account+"/devices/"+phones[account], "{}", nil); status != http.StatusCreated {
			t.Fatal(status)
		}
	}
	registration := func(token string) string {
		return fmt.Sprintf(`{"apns":{"token":%q,"topic":"com.example.app","environment":"production"}}`, token)
	}

	token := strings.Repeat("ab", 32)
	m := &mover{f: f, accounts: accounts, token: token, put: func(account string) (path, body string) {
		return "/v1/accounts/" + account + "/devices/" + phones[account], registration(token)
	}}
	f.sim.Script(apnssim.Script{Token: token, Delay: 150 * time.Millisecond})
	m.move(accounts[0], f.node(0))
	stop := f.backendsOf(accounts, 50*time.Millisecond)
	for i := range 100 {
		time.Sleep(rand.N(300 * time.Millisecond)) // the load
		m.move(accounts[(i+1)%2], f.node(i))
	}
	stop()
	pushes, underWay, latest := m.judge()

	// Two claims at once, while others wait: one of them has it, and all nodes say so.
	for i := range 50 {
		var both sync.WaitGroup
		for k, account := range accounts {
			both.Go(func() {
				path, body := m.put(account)
				if status := f.call(f.node(i+k), http.MethodPut, path, body, nil); status != http.StatusOK {
					t.Errorf("PUT %s: status %d", path, status)
				}
			})
		}
		both.Wait()
		var said [][]string
		f.await(fmt.Sprintf("one holder after two claims at once, round %d", i), func() bool {
			said = nil
			for k := range 3 {
				said = append(said, f.holders(f.node(k), phones))
			}
			return len(said[0]) == 1 && slices.Equal(said[0], said[1]) && slices.Equal(said[0], said[2])
		})
	}
	f.sim.ClearScripts()
	m.move(accounts[0], f.node(1))
	f.finishMoves(accounts, phones)
	if second := f.secondPushes(); second > 0 {
		t.Errorf("%d second pushes", second)
	}
	if now := f.holders(f.node(2), phones); !slices.Equal(now, accounts[:1]) {
		t.Errorf("the token is held by %v, want %v", now, accounts[:1])
	}
	t.Logf("a token moved %d times between accounts of two owners: %d pushes, for a former account %d that were under way (the latest left %v after the answer), two claims at once 50 times", len(m.held), pushes, underWay, latest.Round(time.Millisecond))
	f.sim.Clear()

	token = strings.Repeat("cd", 32)
	m = &mover{f: f, accounts: accounts, token: token, put: func(account string) (path, body string) {
		return "/v1/accounts/" + account + "/devices/wanderer", registration(token)
	}}
	f.sim.Script(apnssim.Script{Token: token, Delay: 150 * time.Millisecond})
	m.move(accounts[0], f.node(0))
	stop = f.backendsOf(accounts, 50*time.Millisecond)
	for i := range 100 {
		time.Sleep(rand.N(300 * time.Millisecond)) // the load
		m.move(accounts[(i+1)%2], f.node(i))
	}
	stop()
	pushes, underWay, latest = m.judge()
	f.finishMoves(accounts, phones)
	t.Logf("a device moved %d times likewise: %d pushes, for the former account %d that were under way (the latest left %v after the answer)", len(m.held), pushes, underWay, latest.Round(time.Millisecond))

	f.sameID(accounts)
}

// finishMoves connects the phones of accounts and waits until each has had every notification.
func (f *fleet) finishMoves(accounts []string, phones map[string]string) {
	f.Helper()
	for i, account := range accounts {
		if phones[account] != "phone-"+account {
			f.Fatal("connection connects another device")
		}
		go f.device(account, i)
	}
	f.await("every notification", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for id := range f.accepted {
			if !f.seen[id] {
				return false
			}
		}
		return true
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for account, got := range f.got {
		if !slices.Equal(got, f.order[account]) {
			f.Errorf("account %s got %d notifications in another order than the %d that were accepted", account, len(got), len(f.order[account]))
		}
	}
	if len(f.refused)+len(f.faults) > 0 || len(f.accepted) == 0 {
		f.Errorf("accepted %d, refused %v, faults %v", len(f.accepted), f.refused[:min(5, len(f.refused))], f.faults)
	}
	f.Logf("accepted %d, refused 0, not delivered 0, devices with disorder 0", len(f.accepted))
	clear(f.accepted)
	clear(f.order)
	clear(f.got)
}

// sameID: one ID, at two nodes at once, for two accounts: one has it.
func (f *fleet) sameID(accounts []string) {
	f.Helper()
	won := map[string]int{}
	for i := range 200 {
		id := fmt.Sprint("same-", i)
		var both sync.WaitGroup
		statuses := make([]int, len(accounts))
		for k, account := range accounts {
			both.Go(func() {
				statuses[k] = f.call(f.node(i+k), http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"id":%q,"account":%q,"title":"t"}`, id, account), nil)
			})
		}
		both.Wait()
		winner := slices.Index(statuses, http.StatusAccepted)
		if winner < 0 || statuses[1-winner] != http.StatusConflict {
			f.Fatalf("ID %s at two nodes: statuses %v, want 202 and 409", id, statuses)
		}
		won[accounts[winner]]++
		for k := range 3 {
			var v wire.NotificationView
			if status := f.call(f.node(k), http.MethodGet, "/v1/notifications/"+id, "", &v); status != http.StatusOK || v.Account != accounts[winner] {
				f.Errorf("notification %s at node %d: status %d, account %q, want %q", id, k, status, v.Account, accounts[winner])
			}
		}
	}
	f.Logf("the same ID at two nodes at once 200 times: one 202 and one 409 each time, won %v", won)
}

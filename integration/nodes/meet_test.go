package nodes

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/crypto/bcrypt"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// password is that of each user where there is authentication.
const password = "secret"

// withUsers has the next fleet authenticate users.
func withUsers(t *testing.T, users ...string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	text.WriteString("users:\n")
	for _, user := range users {
		fmt.Fprintf(&text, "  - {name: %s, password_hash: %q}\n", user, hash)
	}
	fmt.Fprintf(&text, "tokens:\n  - {name: tests, sha256: %x}\n", sha256.Sum256([]byte(serviceToken)))
	file := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HEARTLINE_AUTH_MODE", "file")
	t.Setenv("HEARTLINE_AUTH_FILE_PATH", file)
}

// dial connects a device of a user, without a subscription.
func (f *fleet) dial(n *served, user, device string) *rawmqtt.Client {
	f.Helper()
	c, err := rawmqtt.Dial(n.mqtt, 5)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	if pk, err := c.Connect(rawmqtt.Connect{ID: device, Username: user, Password: password, Keepalive: 60, Clean: true}); err != nil || pk.ReasonCode != 0 {
		f.Fatalf("CONNACK 0x%02x of %s, error %v", pk.ReasonCode, device, err)
	}
	return c
}

// A device subscribes for the first time at one node, within milliseconds of a PUT of it at
// another: for its own account both take effect, and for another account the service's word
// counts, and the connection of the former account ends. And an account's limit of devices is
// raced at three nodes.
func TestRegistrationsMeet(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	const limit = 200
	var users []string
	for i := range 20 {
		users = append(users, fmt.Sprint("meet", i))
	}
	withUsers(t, users...)
	t.Setenv("HEARTLINE_MQTT_LIMITS_DEVICES", fmt.Sprint(limit))
	f := newFleet(t, "one", "two", "three")
	accounts := f.accountsApart("meet", 2)
	ann, bob := accounts[0], accounts[1]

	subscribe := func(c *rawmqtt.Client, device string) error {
		return c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
			Filters: packets.Subscriptions{{Filter: "heartline/devices/" + device + "/notifications", Qos: 1}},
		})
	}
	own, taken := 0, 0
	for i := range 80 {
		device, to := fmt.Sprint("meeting-", i), ann
		if i%2 == 1 {
			to = bob
		}
		c := f.dial(f.node(i), ann, device)
		var both sync.WaitGroup
		both.Go(func() {
			time.Sleep(time.Duration(i/2%8) * time.Millisecond) // either can be first
			if err := subscribe(c, device); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			time.Sleep(time.Duration(i/16) * time.Millisecond) // likewise
			body := fmt.Sprintf(`{"apns":{"token":"%064x","topic":"com.example.app","environment":"production"}}`, i+1)
			if status := f.call(f.node(i+1), http.MethodPut, "/v1/accounts/"+to+"/devices/"+device, body, nil); status != http.StatusOK && status != http.StatusCreated {
				t.Errorf("PUT of %s for %s: status %d", device, to, status)
			}
		})
		both.Wait()
		if to == ann {
			own++
			f.await("both registrations of "+device, func() bool {
				for k := range 3 {
					var v wire.DeviceView
					if f.call(f.node(k), http.MethodGet, "/v1/accounts/"+ann+"/devices/"+device, "", &v) != http.StatusOK || v.APNs == nil || v.Channel.State != "up" {
						return false
					}
				}
				return true
			})
			if status := f.call(f.node(i+2), http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"account":%q,"devices":[%q],"title":"t"}`, ann, device), nil); status != http.StatusAccepted {
				t.Errorf("notification for %s: status %d", device, status)
			}
			for {
				pk, err := c.Read(time.Minute)
				if err != nil {
					t.Fatalf("%s got nothing: %v", device, err)
				}
				if pk.FixedHeader.Type == packets.Publish {
					break
				}
			}
			c.Close()
			continue
		}
		taken++
		f.await("the account of "+device, func() bool {
			for k := range 3 {
				if f.call(f.node(k), http.MethodGet, "/v1/accounts/"+bob+"/devices/"+device, "", nil) != http.StatusOK ||
					f.call(f.node(k), http.MethodGet, "/v1/accounts/"+ann+"/devices/"+device, "", nil) != http.StatusNotFound {
					return false
				}
			}
			return true
		})
		for {
			if _, err := c.Read(time.Minute); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the connection of the former account of %s goes on", device)
				}
				break
			}
		}
	}
	t.Logf("a PUT at one node met the first subscription at another: of the same account %d times, of another %d times; each device ended at the account that the service named", own, taken)

	// Twice as many new devices as fit come at once, at three nodes.
	cid := users[slicesOther(users, ann, bob)]
	var conns []*rawmqtt.Client
	for i := range 2 * limit {
		conns = append(conns, f.dial(f.node(i), cid, fmt.Sprint("raced-", i)))
	}
	var mu sync.Mutex
	granted, refused := 0, 0
	var all sync.WaitGroup
	for i, c := range conns {
		all.Go(func() {
			codes, err := c.Subscribe(1, 1, "heartline/devices/raced-"+fmt.Sprint(i)+"/notifications")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && len(codes) == 1 && codes[0] == 1:
				granted++
			case err == nil && len(codes) == 1 && codes[0] == packets.ErrQuotaExceeded.Code:
				refused++
			default:
				t.Errorf("SUBACK %v, %v", codes, err)
			}
		})
	}
	all.Wait()
	var list wire.DeviceList
	if status := f.call(f.node(0), http.MethodGet, "/v1/accounts/"+cid+"/devices", "", &list); status != http.StatusOK {
		t.Fatal(status)
	}
	t.Logf("%d new devices of an account that may have %d, at once at three nodes: granted %d, refused %d, known then %d", len(conns), limit, granted, refused, len(list.Devices))
	if known := len(list.Devices); known < limit || known > 3*limit || granted+refused != len(conns) {
		t.Errorf("%d devices are known, %d were granted and %d refused", known, granted, refused)
	}
}

// slicesOther returns the index of a user that is neither.
func slicesOther(users []string, a, b string) int {
	for i, u := range users {
		if u != a && u != b {
			return i
		}
	}
	return -1
}

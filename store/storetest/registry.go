package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

func push(token string) []delivery.Registration {
	return []delivery.Registration{{
		Server: delivery.ServerAPNs, Token: token, App: "com.example.app", Environment: "production", Kind: delivery.KindAlert, RegisteredAt: at(0),
	}}
}

// claim is push with a claim of the token.
func claim(token string) []delivery.Registration {
	out := push(token)
	out[0].Claims = true
	return out
}

// claiming are entries that claim the tokens they name.
func claiming(devices ...delivery.Device) []delivery.Device {
	out := make([]delivery.Device, len(devices))
	for i, d := range devices {
		out[i] = d.Clone()
		for j := range out[i].Registrations {
			out[i].Registrations[j].Claims = out[i].Registrations[j].Token != ""
		}
	}
	return out
}

func registry(t testing.TB, e delivery.Reader) []delivery.Device {
	t.Helper()
	out := []delivery.Device{}
	if err := e.Devices("", func(d *delivery.Device) bool { out = append(out, *d); return true }); err != nil {
		t.Fatalf("devices: %v", err)
	}
	return out
}

func testRegistry(t *testing.T, e store.Engine) {
	phone := delivery.Device{ID: "phone", Account: "ann", Registrations: push("aa"), ReportsApp: true, SeenAt: at(5)}
	watch := delivery.Device{ID: "watch", Account: "ann"}
	lamp := delivery.Device{ID: "lamp", Account: "an", SeenAt: at(6)}
	b := &delivery.Batch{PutDevices: claiming(watch, phone, lamp), Sync: true}
	apply(t, e, b, b)
	equal(t, "registry", registry(t, e), []delivery.Device{lamp, phone, watch})
	equal(t, "phone", must[*delivery.Device](t, "device")(e.Device("phone")), &phone)
	equal(t, "ann's", must[[]delivery.Device](t, "account")(e.AccountDevices("ann")), []delivery.Device{phone, watch})
	equal(t, "an's", must[[]delivery.Device](t, "account")(e.AccountDevices("an")), []delivery.Device{lamp})
	// Another account gets it when it has been removed, and not before.
	foreign := delivery.Device{ID: "phone", Account: "bob", Registrations: push("bb")}
	apply(t, e, &delivery.Batch{PutDevices: claiming(foreign)})
	equal(t, "registry", registry(t, e), []delivery.Device{lamp, phone, watch})
	equal(t, "bob's", len(must[[]delivery.Device](t, "account")(e.AccountDevices("bob"))), 0)
	equal(t, "owner", must[string](t, "owner")(e.TokenOwner(delivery.ServerAPNs, "aa")), "phone")
	_, err := e.TokenOwner(delivery.ServerAPNs, "bb")
	missing(t, "holder of a token of an entry that was not written", err)
	phone = delivery.Device{ID: "phone", Account: "bob"}
	apply(t, e, &delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "phone", Account: "bob"}}})
	equal(t, "registry", registry(t, e), []delivery.Device{lamp, {ID: "phone", Account: "ann", Registrations: push("aa"), ReportsApp: true, SeenAt: at(5)}, watch})
	apply(t, e, &delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "phone", Account: "ann"}}}, &delivery.Batch{PutDevices: claiming(phone)})
	equal(t, "ann's", must[[]delivery.Device](t, "account")(e.AccountDevices("ann")), []delivery.Device{watch})
	equal(t, "bob's", must[[]delivery.Device](t, "account")(e.AccountDevices("bob")), []delivery.Device{phone})
	_, err = e.TokenOwner(delivery.ServerAPNs, "aa")
	missing(t, "holder of a token that was given up", err)
	gone := &delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "phone", Account: "bob"}, {ID: "unknown", Account: "bob"}}}
	apply(t, e, gone, gone)
	_, err = e.Device("phone")
	missing(t, "removed device", err)
	equal(t, "bob's", len(must[[]delivery.Device](t, "account")(e.AccountDevices("bob"))), 0)
	equal(t, "registry", registry(t, e), []delivery.Device{lamp, watch})
	n := 0
	if err := e.Devices("", func(*delivery.Device) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("told to stop after 1, it called %d times (error %v)", n, err)
	}
	for after, want := range map[string]string{"k": "lamp watch ", "lam": "lamp watch ", "lamp": "watch ", "lampz": "watch ", "watch": ""} {
		got := ""
		if err := e.Devices(after, func(d *delivery.Device) bool { got += d.ID + " "; return true }); err != nil || got != want {
			t.Errorf("after %q: %q, want %q (error %v)", after, got, want, err)
		}
	}
}

func testTokenMoves(t *testing.T, e store.Engine) {
	owner := func(token string) string {
		return must[string](t, "owner")(e.TokenOwner(delivery.ServerAPNs, token))
	}
	apply(t, e, &delivery.Batch{PutDevices: []delivery.Device{{ID: "old", Account: "ann", Registrations: claim("aa"), SeenAt: at(1)}}})
	apply(t, e, &delivery.Batch{PutDevices: []delivery.Device{{ID: "new", Account: "bob", Registrations: claim("aa")}}})
	equal(t, "owner", owner("aa"), "new")
	equal(t, "the other's entry", must[*delivery.Device](t, "device")(e.Device("old")), &delivery.Device{ID: "old", Account: "ann", SeenAt: at(1)})
	// What the other does from now on does not touch the token, not even where whoever
	// writes its entry has not heard of the claim.
	apply(t, e, &delivery.Batch{PutDevices: []delivery.Device{{ID: "old", Account: "ann", Registrations: push("aa"), SeenAt: at(2)}}})
	equal(t, "owner", owner("aa"), "new")
	equal(t, "the other's entry", must[*delivery.Device](t, "device")(e.Device("old")), &delivery.Device{ID: "old", Account: "ann", SeenAt: at(2)})
	apply(t, e, &delivery.Batch{PutDevices: []delivery.Device{{ID: "new", Account: "bob", Registrations: push("aa"), SeenAt: at(2)}}})
	equal(t, "the holder's entry", must[*delivery.Device](t, "device")(e.Device("new")), &delivery.Device{ID: "new", Account: "bob", Registrations: push("aa"), SeenAt: at(2)})
	equal(t, "owner", owner("aa"), "new")
	apply(t, e, &delivery.Batch{PutDevices: []delivery.Device{{ID: "old", Account: "ann"}}}, &delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "old", Account: "ann"}}})
	equal(t, "owner", owner("aa"), "new")
	// The same token of another server is another token.
	other := claim("aa")
	other[0].Server = "gcm"
	apply(t, e, &delivery.Batch{PutDevices: []delivery.Device{{ID: "third", Account: "ann", Registrations: other}}})
	equal(t, "owner", owner("aa"), "new")
	equal(t, "owner", must[string](t, "owner")(e.TokenOwner("gcm", "aa")), "third")
	// A new token frees the one before it.
	apply(t, e, &delivery.Batch{PutDevices: []delivery.Device{{ID: "new", Account: "bob", Registrations: claim("bb")}}})
	equal(t, "owner", owner("bb"), "new")
	_, err := e.TokenOwner(delivery.ServerAPNs, "aa")
	missing(t, "token that was replaced", err)
	apply(t, e, &delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "new", Account: "bob"}}})
	_, err = e.TokenOwner(delivery.ServerAPNs, "bb")
	missing(t, "token of a removed device", err)
}

func testTokenMovesInBatch(t *testing.T, e store.Engine) {
	b := &delivery.Batch{
		PutDevices: []delivery.Device{
			{ID: "a", Account: "ann", Registrations: claim("aa")},
			{ID: "b", Account: "ann", Registrations: claim("aa")},
			{ID: "a", Account: "ann", Registrations: push("aa")},
			{ID: "c", Account: "ann", Registrations: claim("cc")},
			{ID: "c", Account: "ann", Registrations: claim("dd")},
			{ID: "d", Account: "bob", Registrations: claim("dd")},
			{ID: "c", Account: "bob", Registrations: claim("dd")},
		},
	}
	gone := &delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "a", Account: "ann"}, {ID: "d", Account: "bob"}}}
	for range 2 {
		apply(t, e, b, b, gone, gone)
		equal(t, "registry", registry(t, e), []delivery.Device{
			{ID: "b", Account: "ann", Registrations: push("aa")},
			{ID: "c", Account: "ann"},
		})
		equal(t, "owner", must[string](t, "owner")(e.TokenOwner(delivery.ServerAPNs, "aa")), "b")
		for _, token := range []string{"cc", "dd"} {
			_, err := e.TokenOwner(delivery.ServerAPNs, token)
			missing(t, "token "+token, err)
		}
		equal(t, "ann's", len(must[[]delivery.Device](t, "account")(e.AccountDevices("ann"))), 2)
	}
}

func testOddNames(t *testing.T, e store.Engine) {
	names := []string{"a", "a\x00", "a\x00\x01", "a\x00\xff", "a\x00b", "a\x01", "a\xff", "\xff", "ä", strings.Repeat("n", 128)}
	b := &delivery.Batch{}
	for i, name := range names {
		n := notification(delivery.Seq(i+1), fmt.Sprintf("n%d", i), name, names...)
		b.Accept = append(b.Accept, acceptance(n))
		b.PutDevices = append(b.PutDevices, delivery.Device{ID: name, Account: name, Registrations: claim(name)})
	}
	apply(t, e, b)
	for i, name := range names {
		equal(t, "list", list(t, e, name, 0), []string{fmt.Sprintf("n%d", i)})
		equal(t, "devices", must[[]delivery.Device](t, "account")(e.AccountDevices(name)), []delivery.Device{{ID: name, Account: name, Registrations: push(name)}})
		equal(t, "owner", must[string](t, "owner")(e.TokenOwner(delivery.ServerAPNs, name)), name)
	}
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	var order []string
	for _, r := range records(t, e) {
		if len(order) == 0 || order[len(order)-1] != r.Device {
			order = append(order, r.Device)
		}
	}
	equal(t, "order of devices", order, sorted)
	f := &delivery.Batch{}
	for i := range names {
		f.Finish = append(f.Finish, finish(at(1), delivery.Seq(i+1), names...).Finish...)
	}
	apply(t, e, f)
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(2), 100)), len(names))
}

func testManyDevices(t *testing.T, e store.Engine) {
	const n = 1000
	devices := make([]string, n)
	b := &delivery.Batch{}
	for i := range devices {
		devices[i] = fmt.Sprintf("d%04d", i)
		b.PutDevices = append(b.PutDevices, delivery.Device{ID: devices[i], Account: "ann", Registrations: claim(fmt.Sprintf("%04x", i))})
	}
	b.Accept = []delivery.Acceptance{acceptance(notification(1, "n1", "ann", devices...))}
	apply(t, e, b)
	equal(t, "unfinished", len(records(t, e)), n)
	equal(t, "devices", len(must[[]delivery.Device](t, "account")(e.AccountDevices("ann"))), n)
	apply(t, e, finish(at(1), 1, devices[1:]...))
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(2), 10)), 0)
	apply(t, e, finish(at(1), 1, devices[0]))
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(2), 10)), 1)
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: n, Finished: n})
}

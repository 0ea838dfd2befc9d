package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// between starts a proxy before a server and returns its URL. answer returns true for a
// request that it has answered itself.
func (s *server) between(answer func(http.ResponseWriter, *http.Request) bool) string {
	s.t.Helper()
	to, err := url.Parse(s.http)
	if err != nil {
		s.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // browsers end their streams
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	s.t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	return front.URL
}

// chart is what a chart of the overview says to a screen reader.
func chart(title string) string {
	return fmt.Sprintf(`(document.querySelector('.chart[aria-label^=%q]')?.ariaLabel ?? "")`, title+": ")
}

// TestDashboardCharts: the charts go on while the page is open.
func TestDashboardCharts(t *testing.T) {
	t.Parallel()
	s := serve(t)
	dashboardBuilt(t, s)
	c := browse(t)
	b := board{c.open(s.http + "/"), s}
	const acks = "From acceptance to acknowledgement"
	b.until(chart(acks) + `.includes(": p50 – ms, p99 – ms")`)
	s.register("alice", "phone", "")
	got := collect([]string{"live"})
	quit := device(s, "alice", "phone", got.add)
	defer quit()
	s.notify(`{"id":"live","account":"alice","title":"x"}`)
	got.wait(t)
	b.until(`/: p50 [0-9.]+ ms, p99 [0-9.]+ ms$/.test(` + chart(acks) + `)`)
	b.until(`/: connections 1 , outstanding 0 $/.test(` + chart("Connections and outstanding deliveries") + `)`)
}

// TestDashboardRates: samples can be further apart than usual, and a rate is of their time.
func TestDashboardRates(t *testing.T) {
	s := serve(t)
	dashboardBuilt(t, s)
	var page map[string]any
	s.must(http.MethodGet, "/v1/overview", "", &page)
	now := time.Now().Unix()
	page["history"] = dict{"interval": 10, "time": []int64{now - 60, now - 50, now}, "series": dict{"accepted": []int{0, 10, 60}}}
	page["sample"] = dict{"time": now, "values": dict{}}
	text, err := json.Marshal(page)
	if err != nil {
		t.Fatal(err)
	}
	front := s.between(func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/v1/overview/stream":
			_, _ = fmt.Fprintf(w, "data: %s\n\n", text)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			return false
		}
		return true
	})
	b := board{browse(t).open(front + "/"), s}
	b.until(chart("Notifications") + `.includes("accepted 1 /s")`)
}

// TestDashboardSaysWhatIsOld: a page of a server that does not answer any more does not look
// current, and goes on by itself when the server does.
func TestDashboardSaysWhatIsOld(t *testing.T) {
	t.Parallel()
	s := serve(t)
	dashboardBuilt(t, s)
	s.register("alice", "phone", "")
	s.notify(`{"id":"n","account":"alice","title":"x"}`)
	var refused atomic.Pointer[string] // the path whose requests are refused
	var asked atomic.Bool              // for one that was
	front := s.between(func(w http.ResponseWriter, r *http.Request) bool {
		path := refused.Load()
		if path == nil || *path != r.URL.Path {
			return false
		}
		asked.Store(true)
		http.Error(w, "a proxy has no server", http.StatusServiceUnavailable)
		return true
	})
	b := board{browse(t).open(front + "/"), s}

	b.until(`document.querySelector(".health .pill.good")`)
	s.signal(t, syscall.SIGSTOP)
	b.until(`document.querySelector(".health .pill.bad")?.textContent === "no connection"`)
	s.signal(t, syscall.SIGCONT)
	b.until(`document.querySelector(".health .pill.good")`)

	const journey, phone = "/v1/notifications/n", "/v1/accounts/alice/devices/phone"
	for path, view := range map[string][2]string{journey: {"/notifications/n", ".timeline li"}, phone: {"/accounts/alice/devices/phone", ".facts"}} {
		b.to(view[0], view[1])
		refused.Store(&path)
		b.until(`document.querySelector("main > .notice .pill.bad")?.textContent === "no connection"`)
		b.until(fmt.Sprintf(`document.querySelector(%q)`, view[1])) // it stays
		refused.Store(nil)
		b.until(`!document.querySelector("main > .notice")`)
	}
	s.signal(t, syscall.SIGSTOP)
	b.until(`document.querySelector("main > .notice .pill.bad")`)
	s.signal(t, syscall.SIGCONT)
	b.until(`!document.querySelector("main > .notice")`)

	for path, view := range map[string][2]string{journey: {"/notifications/n", ".timeline li"}, "/v1/devices": {"/devices", "main table"}} {
		b.to("/nothing", "h1")
		asked.Store(false)
		refused.Store(&path)
		b.eval(fmt.Sprintf("location.hash = %q; undefined", "#"+view[0]), nil)
		await(t, "a request of "+path, asked.Load)
		refused.Store(nil)
		b.until(fmt.Sprintf("document.querySelector(%q)", view[1]))
	}
}

// TestDashboardSaysWhatFailed: an act that is refused says so where a person sees it.
func TestDashboardSaysWhatFailed(t *testing.T) {
	s := serve(t)
	dashboardBuilt(t, s)
	s.register("alice", "phone", "")
	for i := range 21 { // the page of a device shows 20 at a time
		s.notify(fmt.Sprintf(`{"id":"n%d","account":"alice","title":"x"}`, i))
	}
	var refuses atomic.Bool
	front := s.between(func(w http.ResponseWriter, r *http.Request) bool {
		if !refuses.Load() || r.Method == http.MethodGet && !r.URL.Query().Has("cursor") {
			return false
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintf(w, `{"status":503,"detail":"no room for %s"}`, r.Method)
		return true
	})
	b := board{browse(t).open(front + "/dashboard/"), s}
	says := func(what string) {
		t.Helper()
		b.until(fmt.Sprintf(`[...document.querySelectorAll("main .problem")].some((p) => p.checkVisibility() && p.innerText === %q)`, what))
	}
	silent := func() {
		t.Helper()
		b.until(`[...document.querySelectorAll("main .problem")].every((p) => p.innerText === "")`)
	}
	refuses.Store(true)

	b.to("/notifications/n1", "#cancel")
	b.click("#dismiss")
	says("no room for POST")
	b.click("#cancel")
	b.until(`document.querySelector("dialog .danger")`)
	b.click("dialog .danger")
	says("no room for DELETE")
	refuses.Store(false)
	b.click("#dismiss")
	silent()
	refuses.Store(true)

	b.to("/accounts/alice/devices/phone", ".pages .scroll")
	b.eval(`document.querySelector(".pages button").focus()`, nil)
	b.press("Enter")
	says("no room for GET")
	refuses.Store(false)
	b.press("Enter")
	b.until(`document.querySelectorAll(".pages .scroll").length === 2`)
	silent()
}

// TestDashboardKeepsFocus: the pages draw new figures, and the focus and the selection stay.
func TestDashboardKeepsFocus(t *testing.T) {
	t.Parallel()
	_, env := apple(t)
	s := serve(t, env...)
	dashboardBuilt(t, s)
	s.register("alice", "phone", "")
	b := board{browse(t).open(s.http + "/dashboard/"), s}
	hold := func(focus, selection string) {
		t.Helper()
		b.eval(fmt.Sprintf(`window.held = document.querySelector(%q); held.focus(); getSelection().selectAllChildren(document.querySelector(%q)); window.selected = String(getSelection()); undefined`, focus, selection), nil)
	}
	holds := func() {
		t.Helper()
		var kept bool
		b.eval(`held === document.activeElement && held.isConnected && selected.length > 1 && String(getSelection()) === selected`, &kept)
		if !kept {
			var now string
			b.eval(`document.activeElement.outerHTML.slice(0, 200) + ", selected: " + getSelection() + ", before: " + selected`, &now)
			t.Errorf("the focus or the selection is lost: %s", now)
		}
	}

	b.until(`document.querySelector(".tiles strong")`)
	hold(`[aria-label="Notification servers"]`, `[data-event="accepted"] span`)
	for i := range 2 {
		s.notify(fmt.Sprintf(`{"id":"n%d","account":"alice","title":"x"}`, i))
		b.until(fmt.Sprintf(`document.querySelector('[data-event="accepted"] strong').textContent === "%d"`, i+1))
		holds()
	}

	b.to("/accounts/alice/devices/phone", ".facts a")
	hold(".facts a", ".facts dt")
	quit := device(s, "alice", "phone", func(string) {})
	b.until(`document.querySelector(".facts .pill").textContent === "up"`)
	holds()
	quit()
	b.until(`document.querySelector(".facts .pill").textContent === "down"`)
	holds()

	s.notify(`{"id":"open","account":"alice","title":"x"}`)
	b.to("/notifications/open", ".timeline li")
	hold("#dismiss", ".facts dt")
	s.must(http.MethodDelete, "/v1/notifications/open", "", nil)
	b.until(`document.querySelector("#cancel").disabled`)
	holds()
}

// TestDashboardBehindABalancer: the figures are of one node at a time, and the page names it.
func TestDashboardBehindABalancer(t *testing.T) {
	t.Parallel()
	_, onPostgres := database(t)
	one, two := twoNodes(t, onPostgres)
	dashboardBuilt(t, one)
	one.register("alice", "phone", "")
	for i := range 3 {
		one.notify(fmt.Sprintf(`{"id":"n%d","account":"alice","title":"x"}`, i))
	}
	var ways []*httputil.ReverseProxy
	for _, s := range []*server{one, two} {
		to, err := url.Parse(s.http)
		if err != nil {
			t.Fatal(err)
		}
		way := httputil.NewSingleHostReverseProxy(to)
		way.ErrorLog = log.New(io.Discard, "", 0) // of the streams that this test ends
		ways = append(ways, way)
	}
	var turn atomic.Int32
	var streams sync.Map // the ends of the streams
	front := one.between(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v1/overview") {
			return false
		}
		ctx, end := context.WithCancel(r.Context())
		defer end()
		n := turn.Add(1)
		streams.Store(n, end)
		ways[int(n)%len(ways)].ServeHTTP(w, r.WithContext(ctx))
		return true
	})
	b := board{browse(t).open(front + "/"), one}
	seen := map[string]string{}
	for range 2 {
		b.until(`document.querySelector(".health .pill.good")`)
		name := strings.Fields(b.text(".health .soft"))[1] // Node a, …
		accepted := `document.querySelector('[data-event="accepted"] strong').textContent`
		b.until(`document.querySelector(".funnel .step strong").textContent === ` + accepted) // after the next sample
		seen[name] = b.text(`.funnel .step strong`)
		streams.Range(func(_, end any) bool {
			end.(context.CancelFunc)()
			return true
		})
		b.until(`document.querySelector(".health .pill.bad")`)
	}
	for name, s := range map[string]*server{"a,": one, "b,": two} { // the account's partition can have moved between two requests
		if _, metrics := s.call(http.MethodGet, "/metrics", ""); !strings.Contains(string(metrics), fmt.Sprintf("\nheartline_events_total{event=\"accepted\"} %s\n", seen[name])) {
			t.Errorf("for node %s the page has shown %q, its metrics are\n%s", name, seen[name], metrics)
		}
	}
}

// TestDashboardWithoutDatabase: the overview says why notifications are refused, although the
// database answers nothing.
func TestDashboardWithoutDatabase(t *testing.T) {
	t.Parallel()
	pg, onPostgres := database(t)
	s := serve(t, onPostgres...)
	dashboardBuilt(t, s)
	b := board{browse(t).open(s.http + "/"), s}
	b.until(`document.querySelector(".health .pill.good")`)
	locked := make(chan struct{})
	go func() { // it ends with an error: the connection is closed
		defer close(locked)
		_, _ = pg.SQL("postgres", `DO $$ DECLARE t record; BEGIN FOR t IN SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'heartline' LOOP
			EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', t.schemaname, t.tablename); END LOOP; END $$; SELECT pg_sleep(3600)`)
	}()
	b.until(`document.querySelector(".health .pill.bad")?.textContent === "not ready" && document.querySelector(".health").innerText.includes("lease")`)
	if _, err := pg.SQL("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	<-locked
	b.until(`document.querySelector(".health .pill.good")`)
}

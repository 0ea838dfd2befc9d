package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The small store: what fills a page, and no more.
const (
	smallOutstanding = 100
	smallHistory     = 100
)

// read is one request of a page.
type read struct {
	name string
	path func(c *content) string
	live bool // a stream: its first line is the end
}

func query(path string, pairs ...string) string {
	q := url.Values{}
	for i := 1; i < len(pairs); i += 2 {
		q.Set(pairs[i-1], pairs[i])
	}
	return path + "?" + q.Encode()
}

func anyOf(ids []string) string { return ids[rand.IntN(len(ids))] }

// pageReads are the requests that the pages make, by page. Each names something else of the store
// every time.
func pageReads() []read {
	fixed := func(path string) func(*content) string { return func(*content) string { return path } }
	list := func(pairs ...string) func(*content) string { return fixed(query("/v1/notifications", pairs...)) }
	return []read{
		{"overview: figures", fixed("/v1/overview"), false},
		{"overview: latest", list("limit", "10"), false},
		{"overview: stream", fixed("/v1/overview/stream"), true},
		{"journey: final", func(c *content) string { return "/v1/notifications/" + anyOf(c.final) }, false},
		{"journey: waiting", func(c *content) string { return "/v1/notifications/" + anyOf(c.open) }, false},
		{"device: state", func(c *content) string {
			i := c.anyAccount()
			return "/v1/accounts/" + account(i) + "/devices/" + device(i)
		}, false},
		{"device: notifications", func(c *content) string {
			i := c.anyAccount()
			return query("/v1/notifications", "limit", "20", "account", account(i), "device", device(i))
		}, false},
		{"account: devices", func(c *content) string { return "/v1/accounts/" + account(c.anyAccount()) + "/devices" }, false},
		{"account: notifications", func(c *content) string {
			return query("/v1/notifications", "limit", "50", "account", account(c.anyAccount()))
		}, false},
		{"search: an ID", func(c *content) string { return query("/v1/search", "q", anyOf(c.final)) }, false},
		{"search: a device", func(c *content) string { return query("/v1/search", "q", device(c.anyAccount())) }, false},
		{"search: an account", func(c *content) string { return query("/v1/search", "q", account(c.anyAccount())) }, false},
		{"search: nothing", fixed(query("/v1/search", "q", "nobody")), false},
		{"list", list("limit", "50"), false},
		{"list: of a time", func(c *content) string {
			at := c.begin.Add(time.Duration(rand.Int64N(int64(historySpan/2))) + historySpan/2)
			return query("/v1/notifications", "limit", "50", "until", at.UTC().Format(time.RFC3339Nano))
		}, false},
		{"list: waiting", list("limit", "50", "state", "waiting"), false},
		{"list: acked", list("limit", "50", "state", "acked"), false},
		{"list: expired (none is)", list("limit", "50", "state", "expired"), false},
		{"list: devices", fixed("/v1/devices?limit=100"), false},
		{"events of a time", func(c *content) string { // of some 50 notifications
			at := c.begin.Add(time.Duration(rand.Int64N(int64(max(1, c.history-60)))) * c.step)
			return query("/v1/events", "since", at.UTC().Format(time.RFC3339Nano), "until", at.Add(50*c.step).UTC().Format(time.RFC3339Nano))
		}, false},
	}
}

// times are those of one read from one server.
type times struct{ first, end []time.Duration }

// reads makes each read of the pages from a server with a small store and from one with a
// large store, in turn.
func (p *program) reads(ctx context.Context) (err error) {
	var stores [2]*content
	var servers [2]*server
	for i, of := range []struct{ outstanding, history int }{{smallOutstanding, smallHistory}, {max(p.outstanding, 1), max(p.history, 1)}} {
		dir := filepath.Join(p.dir, fmt.Sprint("store-", i))
		begun := time.Now()
		if stores[i], err = fill(ctx, dir, of.outstanding, of.history); err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
		took := time.Since(begun)
		if servers[i], err = p.start(ctx, dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, servers[i].stop()) }()
		c := stores[i]
		fmt.Fprintf(os.Stdout, "store %c: %d outstanding for %d devices, %d in history; filled in %s; on the disk %.0f and %.0f bytes each, before the last compactions; server ready after %s, %.0f MB resident\n",
			'a'+i, c.outstanding, c.accounts, c.history, took.Round(100*time.Millisecond), float64(c.openBytes)/float64(c.outstanding), float64(c.historyBytes)/float64(c.history),
			servers[i].ready.Round(time.Millisecond), servers[i].resident()/1e6)
	}
	clients := [2]*http.Client{{Transport: &http.Transport{DisableCompression: true}}, {Transport: &http.Transport{DisableCompression: true}}}
	all := pageReads()
	found := make([][2]times, len(all))
	const warmUp = 3 // rounds that are not counted
	for n := range warmUp + p.samples {
		for r := range all {
			for k := range servers {
				k = (k + n) % len(servers)
				first, end, err := measure(ctx, clients[k], "http://"+servers[k].http+all[r].path(stores[k]), all[r].live)
				if err != nil {
					return fmt.Errorf("%s: %w", all[r].name, err)
				}
				if n >= warmUp {
					t := &found[r][k]
					t.first, t.end = append(t.first, first), append(t.end, end)
				}
			}
		}
	}
	report(all, found, p.samples)
	for i, s := range servers {
		size, err := onDisk(filepath.Join(p.dir, fmt.Sprint("store-", i)))
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stdout, "store %c at the end: %.1f MB on the disk, %.0f MB resident\n", 'a'+i, float64(size)/1e6, s.resident()/1e6)
	}
	return nil
}

// report prints a line a read: each figure of store a, of store b and their ratio.
func report(all []read, found [][2]times, samples int) {
	fmt.Fprintf(os.Stdout, "\nEach read %d times from both, in turn; ms from store a, from store b, and their ratio.\n\n", samples)
	const row = "%-24s %-24s %-24s %-24s %-24s\n"
	fmt.Fprintf(os.Stdout, row, "read", "first byte, p50", "first byte, p99", "end, p50", "end, p99")
	var worst [4]float64
	for r, of := range all {
		for k := range found[r] {
			slices.Sort(found[r][k].first)
			slices.Sort(found[r][k].end)
		}
		cells := []any{of.name}
		for i, q := range []float64{0.5, 0.99, 0.5, 0.99} {
			of := func(t times) float64 {
				if i < 2 {
					return at(t.first, q).Seconds() * 1000
				}
				return at(t.end, q).Seconds() * 1000
			}
			a, b := of(found[r][0]), of(found[r][1])
			worst[i] = max(worst[i], b/a)
			cells = append(cells, fmt.Sprintf("%7.2f %7.2f %6.2f", a, b, b/a))
		}
		fmt.Fprintf(os.Stdout, row, cells...)
	}
	fmt.Fprintf(os.Stdout, row, "largest ratio", fmt.Sprintf("%22.2f", worst[0]), fmt.Sprintf("%22.2f", worst[1]), fmt.Sprintf("%22.2f", worst[2]), fmt.Sprintf("%22.2f", worst[3]))
	fmt.Fprintln(os.Stdout)
}

// measure makes a request and returns when its first byte came and when its last.
func measure(ctx context.Context, client *http.Client, address string, live bool) (first, end time.Duration, err error) {
	var begun time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() { first = time.Since(begun) }})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, 0, err
	}
	begun = time.Now()
	resp, err := client.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // it is for the message only
		return 0, 0, fmt.Errorf("GET %s: %s %s", address, resp.Status, strings.TrimSpace(string(text)))
	}
	if live {
		_, err = bufio.NewReader(resp.Body).ReadString('\n')
	} else {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	return first, time.Since(begun), err
}

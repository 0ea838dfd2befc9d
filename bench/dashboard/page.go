package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// page is what one page of the dashboard asks its server for, as the modules of
// broker/internal/web/dashboard do.
type page struct {
	open   []string      // when it is opened, at once
	stream string        // server-sent events from then on; "": none
	poll   string        // or one read again and again; "": none
	every  time.Duration // of poll
}

const (
	watched = "bench-watched" // an account, a device and a notification to look at
	dash    = "/dashboard/"
)

func overviewPage() page {
	return page{open: []string{"/v1/notifications?limit=10"}, stream: "/v1/overview/stream"}
}

// journeyPage is of a notification that is not final: the page of a final one asks a tenth
// as often.
func journeyPage() page {
	path := "/v1/notifications/" + watched
	return page{open: []string{path}, poll: path, every: time.Second}
}

func devicePage() page {
	path := "/v1/accounts/" + watched + "/devices/" + watched
	return page{open: []string{path, "/v1/notifications?limit=20&account=" + watched + "&device=" + watched}, poll: path, every: 3 * time.Second}
}

// viewers are open pages.
type viewers struct {
	base    string
	stop    context.CancelFunc
	tasks   sync.WaitGroup
	bytes   atomic.Int64
	answers atomic.Int64 // answers and events of streams

	mu     sync.Mutex
	failed error
}

// look opens pages and returns once all of them show something. Close ends them.
func look(ctx context.Context, s *server, pages []page) (*viewers, error) {
	v := &viewers{base: "http://" + s.http}
	ctx, v.stop = context.WithCancel(ctx)
	opened := make(chan struct{}, len(pages))
	for _, p := range pages {
		v.tasks.Go(func() {
			if err := v.view(ctx, p, func() { opened <- struct{}{} }); err != nil && ctx.Err() == nil {
				v.mu.Lock()
				v.failed = errors.Join(v.failed, err)
				v.mu.Unlock()
				v.stop()
			}
		})
	}
	for range pages {
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), v.close())
		}
	}
	return v, nil
}

// close ends the pages. The error is of one that did not last.
func (v *viewers) close() error {
	v.stop()
	v.tasks.Wait()
	return v.failed
}

var asset = regexp.MustCompile(`(?:src|href)="([^":#]+\.[a-z]+)"`)

// view is one page in a browser of its own, until ctx ends.
func (v *viewers) view(ctx context.Context, p page, opened func()) error {
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	document, err := v.get(ctx, client, dash)
	if err != nil {
		return err
	}
	for _, m := range asset.FindAllSubmatch(document, -1) {
		if _, err := v.get(ctx, client, dash+strings.TrimPrefix(string(m[1]), "./")); err != nil {
			return err
		}
	}
	for _, path := range p.open {
		if _, err := v.get(ctx, client, path); err != nil {
			return err
		}
	}
	if p.stream != "" {
		return v.follow(ctx, client, p.stream, opened)
	}
	opened()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(p.every):
		}
		if _, err := v.get(ctx, client, p.poll); err != nil {
			return err
		}
	}
}

func (v *viewers) request(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close() // the status says it
		return nil, fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return resp, nil
}

func (v *viewers) get(ctx context.Context, client *http.Client, path string) ([]byte, error) {
	resp, err := v.request(ctx, client, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	v.answers.Add(1)
	v.bytes.Add(int64(len(body)))
	return body, err
}

func (v *viewers) follow(ctx context.Context, client *http.Client, path string, opened func()) error {
	resp, err := v.request(ctx, client, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	once := sync.OnceFunc(opened)
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		v.bytes.Add(int64(len(line)))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return fmt.Errorf("GET %s: the stream ended: %w", path, err)
		case bytes.HasPrefix(line, []byte("event: ")):
			v.answers.Add(1)
			once()
		}
	}
}

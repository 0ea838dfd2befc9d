package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// httpLink is one connection to Heartline's API. Requests are written by hand: what
// a request costs here, net/http's client would double.
type httpLink struct {
	r    *run
	name string
	path string

	mu   sync.Mutex
	conn net.Conn // nil: there is none
	in   *bufio.Reader
}

func (l *httpLink) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	u := l.r.o.API
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	address := net.JoinHostPort(u.Hostname(), port)
	var conn net.Conn
	var err error
	if u.Scheme == "https" {
		conn, err = (&tls.Dialer{NetDialer: l.r.dialer, Config: l.r.o.APITLS}).DialContext(ctx, "tcp", address)
	} else {
		conn, err = l.r.dialer.DialContext(ctx, "tcp", address)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("nothing listens on %s: start a server, or name another with --http", address)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.in = conn, bufio.NewReaderSize(conn, 4<<10)
	return nil
}

func (l *httpLink) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.Close() // gone is gone
	}
}

// ping is nothing: HTTP has no heartbeat.
func (l *httpLink) ping() {}

// head is that of each request, but for its length.
func (l *httpLink) head(contentType, length string) []byte {
	u := l.r.o.API
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\n", strings.TrimSuffix(u.EscapedPath(), "/"), l.path, u.Host, contentType)
	if len(l.r.o.APIToken) > 0 {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", l.r.o.APIToken)
	}
	b.WriteString(length)
	return b.Bytes()
}

// problemText is what an answer of failure says.
func problemText(status int, body []byte) string {
	var p struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &p) == nil && p.Title+p.Detail != "" {
		return fmt.Sprintf("%d %s: %s", status, p.Title, p.Detail)
	}
	return fmt.Sprintf("%d %s", status, http.StatusText(status))
}

// caller sends a lane's messages by POST /v1/notifications, one at a time.
type caller struct {
	httpLink
	lane *lane
	out  atomic.Int64
}

func (r *run) newCaller(i int) *caller {
	return &caller{httpLink: httpLink{r: r, name: fmt.Sprintf("caller %d", i), path: "/v1/notifications"}, lane: r.account.lanes[i]}
}

// receive is nothing: send waits for each answer.
func (c *caller) receive() {}

// broken is nothing: send has returned it.
func (c *caller) broken() error { return nil }

func (c *caller) underWay() int { return int(c.out.Load()) }

func (c *caller) send(stop <-chan struct{}) error {
	a := c.r.account
	pace := c.r.newPace(c.lane)
	defer pace.close()
	head := c.head("application/json", "Content-Length: "+strconv.Itoa(c.r.o.Payload)+"\r\n\r\n")
	var buf []byte
	for pace.wait(stop) > 0 {
		if a.closeLoop {
			for c.lane.sent-c.lane.delivered.Load() > 0 {
				select {
				case <-c.lane.wake:
				case <-stop:
					return nil
				}
			}
		}
		m := stamp{a.run, uint32(c.lane.index), c.lane.next(), pace.due()}
		buf = c.r.appendPayload(append(buf[:0], head...), c.r.devices[c.lane.device(m.seq)], m)
		c.out.Store(1)
		a.wrote(c.lane, []int64{m.intended}, a.now())
		if _, err := c.conn.Write(buf); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(dialTimeout)) // a connection that cannot says so when it is read
		resp, err := http.ReadResponse(c.in, nil)
		if err != nil {
			return fmt.Errorf("%s: no answer from %s: %w", c.name, c.r.o.API.Host, err)
		}
		ok := resp.StatusCode/100 == 2
		if ok {
			_, err = io.Copy(io.Discard, resp.Body)
		} else {
			var body []byte
			body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			c.r.refused(problemText(resp.StatusCode, body))
		}
		_ = resp.Body.Close() // it has been read
		if err != nil {
			return fmt.Errorf("%s: read the answer: %w", c.name, err)
		}
		a.answered(c.lane, []answer{{m.seq, m.intended, ok}}, a.now())
		c.out.Store(0)
	}
	return nil
}

// batch sends a lane's messages as the lines of one POST /v1/notifications/batch,
// and reads the results meanwhile. They come in order, and so do the window's
// identifiers.
type batch struct {
	httpLink
	*window
	answered int
}

func (r *run) newBatch(i int) *batch {
	return &batch{
		httpLink: httpLink{r: r, name: fmt.Sprintf("batch %d", i), path: "/v1/notifications/batch"},
		window:   newWindow(r.account, r.account.lanes[i], r.o.Inflight),
	}
}

func (b *batch) connect(ctx context.Context) error {
	if err := b.httpLink.connect(ctx); err != nil {
		return err
	}
	if _, err := b.conn.Write(b.head("application/x-ndjson", "Transfer-Encoding: chunked\r\n\r\n")); err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	return nil
}

func (b *batch) send(stop <-chan struct{}) error {
	var lines, buf []byte
	var ids []uint16
	var due []int64
	pace := b.r.newPace(b.lane)
	defer pace.close()
	for {
		want := pace.wait(stop)
		if want > 0 {
			ids = b.reserve(ids[:0], want, stop)
		}
		if want == 0 || len(ids) == 0 {
			if err := b.broken(); err != nil {
				return err
			}
			_, err := b.conn.Write([]byte("0\r\n\r\n"))
			return err
		}
		lines, due = lines[:0], due[:0]
		for _, id := range ids {
			m := b.open(id, pace.due())
			lines = append(b.r.appendPayload(lines, b.r.devices[b.lane.device(m.seq)], m), '\n')
			due = append(due, m.intended)
		}
		buf = append(strconv.AppendInt(buf[:0], int64(len(lines)), 16), "\r\n"...)
		buf = append(append(buf, lines...), "\r\n"...)
		b.account.wrote(b.lane, due, b.account.now())
		if _, err := b.conn.Write(buf); err != nil {
			<-b.failed // who reads knows more about why
			return b.broken()
		}
	}
}

func (b *batch) receive() {
	defer close(b.failed)
	b.err = b.results()
	if b.err != nil {
		b.err = fmt.Errorf("%s: %w", b.name, b.err)
	}
}

func (b *batch) results() error {
	resp, err := http.ReadResponse(b.in, nil)
	if err != nil {
		return fmt.Errorf("no answer from %s: %w", b.r.o.API.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what came is all there is to tell
		return fmt.Errorf("%s refuses the batch: %s", b.r.o.API.Host, problemText(resp.StatusCode, body))
	}
	in := bufio.NewReaderSize(resp.Body, 64<<10)
	var answers []answer
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && b.underWay() == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%d lines have no result: %w", b.underWay(), err)
		}
		status := lineStatus(line)
		if status/100 != 2 {
			b.r.refused(problemText(status, line))
		}
		b.window.mu.Lock()
		w, ok := b.close(uint16(b.answered%b.size+1), status/100 == 2)
		b.window.mu.Unlock()
		if !ok {
			return fmt.Errorf("a result for no line: %.200s", line)
		}
		b.answered++
		if answers = append(answers, w); in.Buffered() > 0 && bytes.IndexByte(peek(in), '\n') >= 0 {
			continue
		}
		b.account.answered(b.lane, answers, b.account.now())
		answers = answers[:0]
		b.lane.signal()
	}
}

func peek(in *bufio.Reader) []byte {
	b, _ := in.Peek(in.Buffered()) // all of it is there
	return b
}

// lineStatus is the status of a result, 0 where it has none.
func lineStatus(line []byte) int {
	const name = `"status":`
	i := bytes.Index(line, []byte(name))
	if i < 0 || len(line) < i+len(name)+3 {
		return 0
	}
	n, _ := strconv.Atoi(string(line[i+len(name) : i+len(name)+3])) // 0 where it is none
	return n
}

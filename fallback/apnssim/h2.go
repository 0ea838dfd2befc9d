package apnssim

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// conn is one HTTP/2 connection (RFC 9113). One goroutine reads, handles and
// answers; delayed answers come from timers.
type conn struct {
	s           *Server
	tc          *tls.Conn
	number      int
	certificate string // subject of the client's, or ""
	br          *bufio.Reader
	fr          *http2.Framer // read by serve; written under mu

	streams map[uint32]*request // that are not complete; serve's own
	unacked uint32              // bytes of DATA not yet given back to the window; serve's own

	mu       sync.Mutex
	bw       *bufio.Writer
	enc      *hpack.Encoder
	encBuf   bytes.Buffer
	open     map[uint32]bool // streams without an answer
	last     uint32          // the highest stream ever
	limit    uint32          // streams that the client knows it may have
	proven   bool            // a valid provider token has been seen
	goneTo   uint32          // with going: streams above are ignored
	going    bool
	finished bool // nothing more is written
	silent   bool
	closed   bool
	bearer   string // the provider token in use
	bearerAt time.Time
	bearerOf jwt
	timers   map[*time.Timer]bool
}

const (
	handshakeTimeout = 10 * time.Second
	writeTimeout     = 10 * time.Second
	lingerTimeout    = 5 * time.Second
	maxBody          = 64 << 10
)

func newConn(s *Server, tc *tls.Conn, number int) *conn {
	return &conn{s: s, tc: tc, number: number, streams: map[uint32]*request{}, open: map[uint32]bool{}, timers: map[*time.Timer]bool{}}
}

func (c *conn) serve() {
	defer c.close()
	_ = c.tc.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := c.tc.Handshake(); err != nil {
		c.s.log.Debug("TLS handshake", "err", err)
		return
	}
	state := c.tc.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		_, _ = c.tc.Read(make([]byte, 4096)) // the request, whatever it is
		_, _ = io.WriteString(c.tc, "HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		return
	}
	if len(state.PeerCertificates) > 0 {
		c.certificate = state.PeerCertificates[0].Subject.String()
	}
	c.br = bufio.NewReaderSize(c.tc, 32<<10)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.br, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	_ = c.tc.SetDeadline(time.Time{})

	c.mu.Lock()
	c.bw = bufio.NewWriterSize(c.tc, 32<<10)
	c.enc = hpack.NewEncoder(&c.encBuf)
	c.fr = http2.NewFramer(c.bw, c.br)
	c.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.fr.MaxHeaderListSize = 16 << 10
	c.proven = c.certificate != "" || c.s.opts.NoFirstStream
	c.limit = c.grantLocked()
	_ = c.fr.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.limit},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 8 << 10},
	)
	c.flushLocked()
	c.mu.Unlock()

	for {
		f, err := c.fr.ReadFrame()
		if err != nil {
			if se, ok := errors.AsType[http2.StreamError](err); ok {
				c.reset(se.StreamID, false)
				continue
			}
			return
		}
		if c.dead() {
			continue // read and say nothing
		}
		if !c.frame(f) {
			return
		}
		if c.br.Buffered() == 0 {
			c.mu.Lock()
			c.flushLocked()
			c.mu.Unlock()
		}
	}
}

func (c *conn) dead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silent || c.finished
}

// frame handles one frame; false ends the connection.
func (c *conn) frame(f http2.Frame) bool {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			c.mu.Lock()
			_ = c.fr.WriteSettingsAck()
			c.mu.Unlock()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			c.mu.Lock()
			_ = c.fr.WritePing(true, f.Data)
			c.flushLocked()
			c.mu.Unlock()
		}
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.DataFrame:
		c.data(f)
	case *http2.RSTStreamFrame:
		delete(c.streams, f.StreamID)
		c.mu.Lock()
		c.endLocked(f.StreamID)
		c.mu.Unlock()
	case *http2.GoAwayFrame:
		c.mu.Lock()
		c.going, c.goneTo = true, c.last
		c.mu.Unlock()
	}
	return true // the others do not concern us; our answers fit in any window
}

func (c *conn) headers(f *http2.MetaHeadersFrame) bool {
	id := f.StreamID
	if r := c.streams[id]; r != nil { // trailers
		if f.StreamEnded() {
			c.complete(r)
		}
		return true
	}
	c.mu.Lock()
	if id <= c.last || id%2 == 0 {
		c.mu.Unlock()
		return false
	}
	c.last = id
	if c.going && id > c.goneTo {
		c.mu.Unlock()
		return true // RFC 9113 §6.8: it will be sent elsewhere
	}
	if uint32(len(c.open)) >= c.limit {
		_ = c.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream)
		c.mu.Unlock()
		return true
	}
	c.open[id] = true
	c.mu.Unlock()

	r := &request{conn: c, stream: id, header: make(map[string]string, 12)}
	for _, h := range f.Fields {
		switch h.Name {
		case ":method":
			r.method = h.Value
		case ":path":
			r.path = h.Value
		case ":scheme", ":authority":
		default:
			if _, ok := r.header[h.Name]; ok && strings.HasPrefix(h.Name, "apns-") {
				r.duplicated = true
			}
			r.header[h.Name] = h.Value
		}
	}
	if f.Truncated {
		r.path = "/" // of no use
	}
	c.streams[id] = r
	if f.StreamEnded() {
		c.complete(r)
	}
	return true
}

func (c *conn) data(f *http2.DataFrame) {
	n := f.Header().Length
	c.unacked += n
	r := c.streams[f.StreamID]
	if r != nil {
		if len(r.body)+len(f.Data()) <= maxBody {
			r.body = append(r.body, f.Data()...)
		} else {
			r.tooLarge = true
		}
	}
	c.mu.Lock()
	if c.unacked >= 16<<10 {
		_ = c.fr.WriteWindowUpdate(0, c.unacked)
		c.unacked = 0
	}
	if r != nil && !f.StreamEnded() && n > 0 {
		_ = c.fr.WriteWindowUpdate(f.StreamID, n)
	}
	c.mu.Unlock()
	if r != nil && f.StreamEnded() {
		c.complete(r)
	}
}

func (c *conn) complete(r *request) {
	delete(c.streams, r.stream)
	c.s.handle(r)
}

// authenticated is told that a request carries a valid provider token. Apple
// takes one per connection, changed no more often than every 20 minutes.
func (c *conn) authenticated(bearer string, t jwt, now time.Time) reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bearer != c.bearer {
		switch {
		case c.bearer == "":
		case t.teamID != c.bearerOf.teamID:
			return refuse(403, "InvalidProviderToken")
		case t.keyID != c.bearerOf.keyID:
			return refuse(403, "UnrelatedKeyIdInToken")
		case now.Sub(c.bearerAt) < minTokenUpdate && !t.issued.Before(c.bearerOf.issued):
			return refuse(429, "TooManyProviderTokenUpdates")
		}
		c.bearer, c.bearerOf, c.bearerAt = bearer, t, now
	}
	if !c.proven {
		c.proven = true
		c.updateLimitLocked(c.s.streams.Load())
	}
	return reply{}
}

// grantLocked is how many streams the client may have now.
func (c *conn) grantLocked() uint32 {
	n := c.s.streams.Load()
	if !c.proven {
		n = min(n, 1)
	}
	return n
}

func (c *conn) updateLimit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proven {
		c.updateLimitLocked(c.s.streams.Load())
		c.flushLocked()
	}
}

func (c *conn) updateLimitLocked(n uint32) {
	if c.fr == nil || n == c.limit {
		return
	}
	if n > c.limit {
		c.limit = n
	}
	// A lower limit is told, and not enforced: the client may have sent more
	// before it knew.
	_ = c.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n})
}

// answer sends a reply.
func (c *conn) answer(id uint32, rep reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open[id] || c.silent || c.closed {
		return
	}
	body := []byte(rep.body)
	if len(body) == 0 && rep.status != 200 {
		v := struct {
			Reason    string `json:"reason,omitempty"`
			Timestamp int64  `json:"timestamp,omitempty"`
		}{rep.reason, rep.timestamp}
		body, _ = json.Marshal(v) // strings and numbers only
	}
	c.encBuf.Reset()
	field := func(name, value string) { _ = c.enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	field(":status", strconv.Itoa(rep.status))
	field("apns-id", rep.apnsID)
	if rep.retryAfter != "" {
		field("retry-after", rep.retryAfter)
	}
	if len(body) > 0 {
		field("content-type", "application/json; charset=utf-8")
	}
	_ = c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.encBuf.Bytes(), EndHeaders: true, EndStream: len(body) == 0})
	for len(body) > 0 {
		n := min(len(body), 16<<10)
		_ = c.fr.WriteData(id, n == len(body), body[:n])
		body = body[n:]
	}
	c.endLocked(id)
}

func (c *conn) reset(id uint32, refused bool) {
	code := http2.ErrCodeInternal
	if refused {
		code = http2.ErrCodeRefusedStream
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fr == nil || c.silent {
		return
	}
	_ = c.fr.WriteRSTStream(id, code)
	c.endLocked(id)
}

// endLocked: a stream is over. A connection that goes away ends with its last.
func (c *conn) endLocked(id uint32) {
	delete(c.open, id)
	if c.going && len(c.open) == 0 && !c.finished {
		c.flushLocked()
		c.finished = true
		// And read on for a while, so that the answers are not lost to a TCP reset.
		_ = c.tc.CloseWrite()
		_ = c.tc.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
}

// goAway sends GOAWAY: streams after last, or after the latest, are not looked
// at.
func (c *conn) goAway(last uint32, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last = min(last, c.last)
	if c.fr == nil || c.silent || c.going {
		return
	}
	var debug []byte
	if reason != "" {
		debug, _ = json.Marshal(map[string]string{"reason": reason}) // a string only
	}
	c.going, c.goneTo = true, last
	_ = c.fr.WriteGoAway(last, http2.ErrCodeNo, debug)
	for id := range c.open {
		if id > last {
			delete(c.open, id)
		}
	}
	c.endLocked(0)
	c.flushLocked()
}

func (c *conn) silence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushLocked()
	c.silent = true
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	for t := range c.timers {
		if t.Stop() {
			c.s.wg.Done() // it will not do so itself
		}
	}
	clear(c.timers)
	_ = c.tc.NetConn().Close() // not the TLS one: its goodbye may block on a dead client
}

// flushLocked sends the buffered frames. A client that does not read ends here.
func (c *conn) flushLocked() {
	if c.bw == nil || c.bw.Buffered() == 0 || c.finished || c.silent || c.closed {
		return
	}
	_ = c.tc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if c.bw.Flush() != nil {
		_ = c.tc.NetConn().Close() // the reader ends with it
	}
}

// later runs fn after d unless the connection ends before.
func (c *conn) later(d time.Duration, fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.s.wg.Add(1)
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		c.mu.Lock()
		delete(c.timers, t)
		closed := c.closed
		c.mu.Unlock()
		if !closed {
			fn()
			c.mu.Lock()
			c.flushLocked()
			c.mu.Unlock()
		}
		c.s.wg.Done()
	})
	c.timers[t] = true
}

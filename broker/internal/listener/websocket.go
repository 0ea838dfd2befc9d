package listener

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/heartline-mqtt/heartline/internal/hosts"
)

// WebSocket serves MQTT over WebSocket. It is an http.Handler, to be mounted at
// /mqtt of an HTTP/1.1 server; mochi knows it as a listener. Before mochi serves
// it answers 503.
type WebSocket struct {
	front
	upgrader websocket.Upgrader
	buffers  sync.Pool
}

var (
	_ listeners.Listener = (*WebSocket)(nil)
	_ http.Handler       = (*WebSocket)(nil)
)

// NewWebSocket returns a WebSocket to be added to a *mqtt.Server and to be
// mounted on an HTTP server.
func NewWebSocket(o Options) *WebSocket {
	w := &WebSocket{front: newFront(o, "ws")}
	w.upgrader = websocket.Upgrader{
		Subprotocols: []string{"mqtt", "mqttv3.1"}, // [MQTT-6.0.0-3]; the other is what 3.1 clients say
		// The HTTP server's own buffers would be twice 4 KiB for each connection.
		ReadBufferSize:  512,
		WriteBufferPool: &w.buffers,
		CheckOrigin:     w.originAllowed,
		Error: func(rw http.ResponseWriter, _ *http.Request, status int, reason error) {
			if h, ok := rw.(*hijacker); !ok || !h.hijacked {
				http.Error(rw, reason.Error(), status)
			}
		},
	}
	return w
}

// Init takes mochi's log.
func (w *WebSocket) Init(log *slog.Logger) error {
	w.takeLog(log)
	return nil
}

// Address is Options.Address: the socket is the HTTP server's.
func (w *WebSocket) Address() string { return w.options.Address }

// Protocol is ws.
func (w *WebSocket) Protocol() string { return "ws" }

// Serve lets connections through to mochi until Close.
func (w *WebSocket) Serve(establish listeners.EstablishFn) {
	if w.start(establish) {
		<-w.done
	}
}

// Serving is closed when Serve lets connections through. Before that they are answered
// with 503.
func (w *WebSocket) Serving() <-chan struct{} { return w.serving }

// Refuse answers new connections with 503. Those that there are go on until Close.
func (w *WebSocket) Refuse() { w.refuse() }

// Close ends every connection that came through w; see Listener.Close.
func (w *WebSocket) Close(listeners.CloseFn) { w.stop(func() {}) }

// ServeHTTP upgrades a request and returns; the connection goes on without the
// HTTP server.
func (w *WebSocket) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	serving := w.establish != nil && !w.closed && !w.refusing
	w.mu.Unlock()
	switch {
	case !serving:
		rw.Header().Set("Retry-After", "1")
		http.Error(rw, "the MQTT broker is not serving", http.StatusServiceUnavailable)
		return
	case !websocket.IsWebSocketUpgrade(r):
		rw.Header().Set("Connection", "Upgrade")
		rw.Header().Set("Upgrade", "websocket")
		http.Error(rw, "this is MQTT over WebSocket: the request must ask for an upgrade", http.StatusUpgradeRequired)
		return
	case !slices.ContainsFunc(websocket.Subprotocols(r), func(p string) bool { return slices.Contains(w.upgrader.Subprotocols, p) }):
		w.stats.handshakeFailures.Add(1)
		http.Error(rw, "Sec-WebSocket-Protocol must offer mqtt", http.StatusBadRequest) // [MQTT-6.0.0-3]
		return
	}

	h := &hijacker{ResponseWriter: rw, front: &w.front, addr: addressOf(address(r.RemoteAddr))}
	if err := w.admit(h.addr); err != nil {
		rw.Header().Set("Retry-After", "5")
		http.Error(rw, err.Error(), http.StatusServiceUnavailable)
		return
	}
	ws, err := w.upgrader.Upgrade(h, r, nil)
	if err != nil {
		w.stats.handshakeFailures.Add(1)
		switch {
		case !h.hijacked:
			w.options.Gate.leave(h.addr)
		case h.conn != nil:
			// Taken in, and then the handshake failed: its life is over at once.
			go w.run(h.conn, func(*Conn) error { return err })
		}
		return
	}
	c := h.conn
	c.remote = address(r.RemoteAddr) // a trusted proxy's word for it, where there is one
	// Without a handler of its own the HTTP server's goroutine and its stack, which
	// has grown over a whole request, would stay as long as the connection.
	go w.run(c, func(c *Conn) error {
		c.tls = r.TLS
		c.stream = &wsStream{sender: c.base, ws: ws, stats: &w.stats}
		c.in.Init((*arriving)(c), &w.options.Strict)
		return nil
	})
}

// hijacker is the ResponseWriter that the upgrade takes the connection from. It
// puts the front's sender in, so that no frame of the WebSocket waits for the
// peer either.
type hijacker struct {
	http.ResponseWriter
	front    *front
	addr     netip.Prefix
	hijacked bool
	conn     *Conn // nil where the front is being closed
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	socket, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.hijacked = true
	_ = socket.SetDeadline(time.Time{}) // the HTTP server's
	if h.conn, err = h.front.take(socket, h.addr); err != nil {
		return nil, nil, err
	}
	return h.conn.base, brw, nil
}

// address is a peer's address as an HTTP request has it.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// originAllowed lets a browser's page connect from the host that serves it and
// from those in Options.Origins. A browser sends its user's cookies and client
// certificate along whatever page asks.
func (w *WebSocket) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true // no browser
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return slices.Contains(w.options.Origins, "*")
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true
	}
	for _, pattern := range w.options.Origins {
		scheme, host, named := strings.Cut(pattern, "://")
		if !named {
			scheme, host = u.Scheme, pattern
		}
		if hosts.Match(scheme, u.Scheme) && hosts.Match(host, u.Host) {
			return true
		}
	}
	return false
}

// wsStream is the MQTT in a WebSocket: the content of its binary messages, whose
// limits mean nothing to it [MQTT-6.0.0-2].
type wsStream struct {
	*sender
	ws    *websocket.Conn
	stats *stats
	msg   io.Reader // of the message under way
	err   error
}

var errText = errors.New("WebSocket message is not binary")

func (s *wsStream) Read(p []byte) (int, error) {
	for {
		if s.err != nil {
			return 0, s.err
		}
		if s.msg == nil {
			kind, msg, err := s.ws.NextReader()
			switch {
			case err != nil:
				s.err = err
				if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived) {
					s.err = io.EOF
				}
				continue
			case kind != websocket.BinaryMessage:
				s.stats.textFrames.Add(1)
				s.farewell(websocket.CloseUnsupportedData, errText.Error())
				s.err = errText // [MQTT-6.0.0-1]
				continue
			}
			s.msg = msg
		}
		n, err := s.msg.Read(p)
		if err == io.EOF {
			s.msg, err = nil, nil
		}
		if err != nil {
			s.err = err
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (s *wsStream) Write(p []byte) (int, error) {
	if err := s.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite says that the connection ends.
func (s *wsStream) CloseWrite() error {
	s.farewell(websocket.CloseNormalClosure, "")
	return nil
}

func (s *wsStream) farewell(code int, text string) {
	_ = s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(time.Second))
}

package listener

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	mqtt "github.com/mochi-mqtt/server/v2"
)

// mounted is a WebSocket at /mqtt of an HTTP server.
func mounted(t *testing.T, o Options) (*mqtt.Server, *WebSocket, string) {
	t.Helper()
	w := NewWebSocket(o)
	s := newServer(t, nil, w)
	mux := http.NewServeMux()
	mux.Handle("/mqtt", w)
	h := httptest.NewServer(mux)
	t.Cleanup(func() { _ = s.Close(); h.Close() })
	eventually(t, "mochi serves", w.started)
	return s, w, "ws" + strings.TrimPrefix(h.URL, "http") + "/mqtt"
}

// wsClient is the client's end as a stream.
type wsClient struct {
	*websocket.Conn
	r io.Reader
}

func (c *wsClient) Read(p []byte) (int, error) {
	for {
		if c.r == nil {
			_, r, err := c.NextReader()
			if err != nil {
				return 0, err
			}
			c.r = r
		}
		n, err := c.r.Read(p)
		if err == io.EOF {
			c.r, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}
func (c *wsClient) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}
func (c *wsClient) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

var _ net.Conn = (*wsClient)(nil)

func dialWS(t *testing.T, url string, header http.Header, protocols ...string) (*client, *websocket.Conn) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: protocols}
	ws, answer, err := d.Dial(url, header)
	if err != nil {
		t.Fatalf("%v, %+v", err, answer)
	}
	return newClient(t, &wsClient{Conn: ws}, true), ws
}

func TestWebSocket(t *testing.T) {
	s, w, url := mounted(t, Options{})
	c, ws := dialWS(t, url, nil, "mqtt")
	if ws.Subprotocol() != "mqtt" {
		t.Errorf("subprotocol %q", ws.Subprotocol()) // [MQTT-6.0.0-4]
	}
	// Packets and messages need not begin or end together. [MQTT-6.0.0-2]
	b := append(connectPacket("id", true), 0xC0, 0, 0xC0)
	for _, p := range [][]byte{b[:3], b[3:10], {}, b[10:]} {
		c.send(p...)
	}
	for _, want := range []byte{0x20, 0xD0} {
		if p, err := c.packet(patience); err != nil || p[0] != want {
			t.Fatalf("%x, %v", p, err)
		}
	}
	c.send(0)
	if p, err := c.packet(patience); err != nil || p[0] != 0xD0 {
		t.Fatalf("%x, %v", p, err)
	}
	if conn := connOf(t, s, "id"); conn.ListenerID() != "ws" || conn.RemoteAddr().String() != ws.LocalAddr().String() {
		t.Error(conn.ListenerID(), conn.RemoteAddr())
	}
	if st := w.Stats(); st.Established != 1 || w.Protocol() != "ws" {
		t.Errorf("%+v", st)
	}
	// A ping of the WebSocket is answered, and a close ends the session.
	pong := make(chan string, 1)
	ws.SetPongHandler(func(d string) error { pong <- d; return nil })
	_ = ws.WriteControl(websocket.PingMessage, []byte("x"), time.Now().Add(time.Second))
	c.ping()
	if <-pong != "x" {
		t.Error("pong")
	}
	_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	eventually(t, "forgotten", func() bool { return w.Stats().Open == 0 })
}

func TestWebSocketRefusals(t *testing.T) {
	_, w, url := mounted(t, Options{Origins: []string{"*.example.com", "https://app.test", "shop.*", "https://pages.*", "http://[::1]:3000"}})
	upgrade := func(header ...string) *http.Request {
		r, _ := http.NewRequest("GET", "http"+strings.TrimPrefix(url, "ws"), nil)
		for _, h := range append([]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}, header...) {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		return r
	}
	bare, _ := http.NewRequest("GET", upgrade().URL.String(), nil)
	const mqttProtocol = "Sec-WebSocket-Protocol: chat, mqtt"
	for name, c := range map[string]struct {
		r    *http.Request
		want int
	}{
		"no upgrade":          {bare, http.StatusUpgradeRequired},
		"no subprotocol":      {upgrade(), http.StatusBadRequest},
		"another subprotocol": {upgrade("Sec-WebSocket-Protocol: chat"), http.StatusBadRequest},
		"no key":              {upgrade(mqttProtocol, "Sec-WebSocket-Key: "), http.StatusBadRequest},
		"foreign origin":      {upgrade(mqttProtocol, "Origin: https://evil.test"), http.StatusForbidden},
		"other scheme":        {upgrade(mqttProtocol, "Origin: http://app.test"), http.StatusForbidden},
		"no origin at all":    {upgrade(mqttProtocol, "Origin: null"), http.StatusForbidden},
		"allowed host":        {upgrade(mqttProtocol, "Origin: http://a.example.com"), http.StatusSwitchingProtocols},
		"allowed origin":      {upgrade(mqttProtocol, "Origin: https://app.test"), http.StatusSwitchingProtocols},
		"a * for one label":   {upgrade(mqttProtocol, "Origin: https://shop.test"), http.StatusSwitchingProtocols},
		"for two labels":      {upgrade(mqttProtocol, "Origin: https://shop.evil.test"), http.StatusForbidden},
		"for two, of https":   {upgrade(mqttProtocol, "Origin: https://pages.evil.test"), http.StatusForbidden},
		"IPv6":                {upgrade(mqttProtocol, "Origin: http://[::1]:3000"), http.StatusSwitchingProtocols},
		"other port":          {upgrade(mqttProtocol, "Origin: http://[::1]:3001"), http.StatusForbidden},
		"same host":           {upgrade(mqttProtocol, "Origin: "+bare.URL.String()), http.StatusSwitchingProtocols},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(c.r)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != c.want {
				t.Errorf("%s, want %d", answer.Status, c.want)
			}
			if c.want == http.StatusUpgradeRequired && answer.Header.Get("Upgrade") != "websocket" {
				t.Error("the answer does not say to what")
			}
		})
	}
	eventually(t, "all gone", func() bool { return w.Stats().Open == 0 })
}

func TestWebSocketBeforeMochiServes(t *testing.T) {
	w := NewWebSocket(Options{})
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest("GET", "/mqtt", nil))
	if rec.Code != http.StatusServiceUnavailable {
		t.Error(rec.Code)
	}
}

func TestWebSocketTextMessage(t *testing.T) {
	_, w, url := mounted(t, Options{})
	_, ws := dialWS(t, url, nil, "mqtt")
	_ = ws.WriteMessage(websocket.TextMessage, connectPacket("id", true))
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseUnsupportedData) { // [MQTT-6.0.0-1]
		t.Errorf("%v", err)
	}
	eventually(t, "counted", func() bool { return w.Stats().TextFrames == 1 && w.Stats().Open == 0 })
}

func TestWebSocketConnectTimeout(t *testing.T) {
	_, w, url := mounted(t, Options{ConnectTimeout: 100 * time.Millisecond})
	c, _ := dialWS(t, url, nil, "mqtt")
	if !c.gone(patience) {
		t.Error("still open")
	}
	eventually(t, "counted", func() bool { return w.Stats().ConnectTimeouts == 1 })
}

func TestWebSocketCap(t *testing.T) {
	_, w, url := mounted(t, Options{Gate: NewGate(Limits{Connections: 1})})
	c, _ := dialWS(t, url, nil, "mqtt")
	c.connect("1")
	_, answer, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial(url, nil)
	if err == nil || answer == nil || answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a second: %+v, %v", answer, err)
	}
	if w.Stats().RefusedFull != 1 {
		t.Errorf("%+v", w.Stats())
	}
	_ = c.Close()
	eventually(t, "its place is free", func() bool { n, _ := w.options.Gate.Open(); return n == 0 })
}

func TestWebSocketViolation(t *testing.T) {
	_, _, url := mounted(t, Options{})
	c, _ := dialWS(t, url, nil, "mqtt")
	c.connect("id")
	c.send(subscribeCut...)
	if p, err := c.packet(patience); err != nil || p[0] != 0xE0 || p[2] != 0x81 || !c.gone(patience) {
		t.Errorf("%x, %v", p, err)
	}
}

func TestWebSocketReaderThatStops(t *testing.T) {
	s, w, url := mounted(t, Options{})
	c, _ := dialWS(t, url, nil, "mqtt")
	c.connect("deaf")
	c.subscribe("n/#", 1)
	payload := make([]byte, 64<<10)
	if !done(patience, func() {
		for range 400 {
			_ = s.Publish("n/1", payload, false, 1)
		}
	}) {
		t.Fatal("publishers wait")
	}
	eventually(t, "it is cut", func() bool { return w.Stats().SlowConsumers == 1 })
}

func TestWebSocketClose(t *testing.T) {
	w := NewWebSocket(Options{})
	s := newServer(t, nil, w)
	h := httptest.NewServer(w)
	defer h.Close()
	eventually(t, "mochi serves", w.started)
	url := "ws" + strings.TrimPrefix(h.URL, "http")
	dialWS(t, url, nil, "mqtt") // and no CONNECT
	c, _ := dialWS(t, url, nil, "mqtt")
	c.connect("id")
	if !done(patience, func() { _ = s.Close() }) {
		t.Fatal("Close waits")
	}
	if p, err := c.packet(patience); err != nil || !bytes.HasPrefix(p, []byte{0xE0}) || p[2] != 0x8B {
		t.Errorf("%x, %v", p, err)
	}
}

// Over TLS the socket is the HTTP server's, and cannot be tried without waiting.
func TestWebSocketOverTLS(t *testing.T) {
	w := NewWebSocket(Options{})
	s := newServer(t, nil, w)
	h := httptest.NewTLSServer(w)
	defer h.Close()
	defer s.Close()
	eventually(t, "mochi serves", w.started)
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: h.Client().Transport.(*http.Transport).TLSClientConfig}
	connect := func(id string) *client {
		ws, _, err := d.Dial("wss"+strings.TrimPrefix(h.URL, "https"), nil)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, &wsClient{Conn: ws}, true)
		c.connect(id)
		return c
	}
	c := connect("id")
	if connOf(t, s, "id").TLS() == nil {
		t.Error("no TLS state")
	}
	c.ping()
	deaf := connect("deaf")
	deaf.subscribe("n/#", 1)
	payload := make([]byte, 64<<10)
	if !done(patience, func() {
		for range 400 {
			_ = s.Publish("n/1", payload, false, 1)
		}
	}) {
		t.Fatal("publishers wait")
	}
	eventually(t, "it is cut", func() bool { return w.Stats().SlowConsumers == 1 })
	c.ping()
}

// TestServing: mochi runs Serve on a goroutine. Whoever lets clients in waits for Serving.
func TestServing(t *testing.T) {
	w := NewWebSocket(Options{})
	select {
	case <-w.Serving():
		t.Error("serving before Serve")
	default:
	}
	answer := func() int {
		r := httptest.NewRecorder()
		w.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/mqtt", nil))
		return r.Code
	}
	if got := answer(); got != http.StatusServiceUnavailable {
		t.Errorf("before Serve: %d", got)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Serve(func(string, net.Conn) error { return nil })
	}()
	<-w.Serving()
	if got := answer(); got != http.StatusUpgradeRequired {
		t.Errorf("during Serve: %d", got)
	}
	w.Close(nil)
	<-ended
}

package webpushsim

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// A real browser subscribes over a WebSocket, as Firefox does with Mozilla's push
// service (https://mozilla-push-service.readthedocs.io, "SimplePush protocol"). Its
// pushes are forwarded as they are: the browser has the keys.

// userAgent is a browser that has connected at least once.
type userAgent struct {
	id      string
	mu      sync.Mutex
	conn    *websocket.Conn // nil: it is not running
	waiting []held          // not acknowledged, oldest first
}

type held struct {
	topic, version string
	text           []byte
}

// maxHeld is how many pushes wait for a browser that is not running.
const maxHeld = 100

// frame is a message of either side.
type frame struct {
	Type     string            `json:"messageType"`
	UAID     string            `json:"uaid,omitempty"`
	Status   int               `json:"status,omitempty"`
	WebPush  bool              `json:"use_webpush,omitempty"`
	Channel  string            `json:"channelID,omitempty"`
	Key      string            `json:"key,omitempty"`
	Endpoint string            `json:"pushEndpoint,omitempty"`
	Version  string            `json:"version,omitempty"`
	Data     string            `json:"data,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`
	Updates  []update          `json:"updates,omitempty"` // of an ack
}

type update struct {
	Version string `json:"version"`
}

var upgrader = websocket.Upgrader{
	Subprotocols: []string{"push-notification"},
	// simkit.Guard has checked the origin.
	CheckOrigin: func(*http.Request) bool { return true },
}

// BrowserURL is the address for Firefox's setting dom.push.serverURL, which also needs
// dom.push.testing.allowInsecureServerURL.
func (s *Server) BrowserURL() string {
	return strings.Replace(s.ControlURL(), "http://", "ws://", 1) + "/browser"
}

func (s *Server) serveBrowser(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // it has been answered
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = conn.Close()
		return
	}
	s.sockets[conn] = true
	s.serving.Add(1)
	s.mu.Unlock()
	var ua *userAgent
	defer func() {
		if ua != nil {
			ua.gone(conn)
		}
		_ = conn.Close()
		s.mu.Lock()
		delete(s.sockets, conn)
		s.mu.Unlock()
		s.serving.Done()
	}()
	conn.SetReadLimit(1 << 20)
	for {
		_, text, err := conn.ReadMessage()
		if err != nil {
			return // the browser ends, or we do
		}
		var f frame
		if err := json.Unmarshal(text, &f); err != nil {
			return // no browser
		}
		switch f.Type {
		case "hello":
			ua = s.hello(f.UAID)
			if !ua.connected(conn) {
				return
			}
		case "register", "unregister":
			if ua == nil {
				return
			}
			answer := frame{Type: f.Type, Channel: f.Channel, Status: http.StatusOK}
			if f.Type == "register" {
				answer.Endpoint = s.subscribeBrowser(ua, f.Channel, strings.TrimRight(f.Key, "="))
			} else {
				s.unsubscribeBrowser(ua, f.Channel)
			}
			if !ua.send(answer) {
				return
			}
		case "ack", "nack": // a nack: its worker failed
			if ua != nil {
				ua.acknowledged(append(f.Updates, update{f.Version}))
			}
		case "": // a ping is {}
			if ua != nil && !ua.write([]byte("{}")) {
				return
			}
		}
	}
}

// hello returns the browser of a uaid, or a new one: a browser then knows that its
// subscriptions are lost.
func (s *Server) hello(uaid string) *userAgent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ua := s.agents[uaid]; ua != nil {
		return ua
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	ua := &userAgent{id: hex.EncodeToString(id)}
	s.agents[ua.id] = ua
	return ua
}

func (s *Server) subscribeBrowser(ua *userAgent, channel, key string) (endpoint string) {
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.browsers[token] = &browser{vapid: key, agent: ua, channel: channel}
	return s.URL() + "/push/" + token
}

func (s *Server) unsubscribeBrowser(ua *userAgent, channel string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token, b := range s.browsers {
		if b.agent == ua && b.channel == channel {
			delete(s.browsers, token)
			s.gone[token] = true
		}
	}
}

// ForgetBrowsers ends every connection of a browser and forgets its subscriptions, as a
// push service that has lost them: browsers tell their pages by pushsubscriptionchange.
func (s *Server) ForgetBrowsers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.agents)
	for token, b := range s.browsers {
		if b.agent != nil {
			delete(s.browsers, token)
			s.gone[token] = true
		}
	}
	for conn := range s.sockets {
		_ = conn.Close() // its reader ends
	}
}

// forward hands an encrypted push to the browser, and keeps it until the browser
// acknowledges it; one of the same topic that still waits is replaced (RFC 8030 §5.4).
func (b *browser) forward(topic string, body []byte) {
	version := rand.Text()
	text, err := json.Marshal(frame{
		Type: "notification", Channel: b.channel, Version: version,
		Data: base64.RawURLEncoding.EncodeToString(body), Headers: map[string]string{"encoding": "aes128gcm"},
	})
	if err != nil {
		panic(fmt.Errorf("webpushsim: marshal a push: %w", err)) // strings
	}
	ua := b.agent
	ua.mu.Lock()
	defer ua.mu.Unlock()
	ua.waiting = slices.DeleteFunc(ua.waiting, func(h held) bool { return topic != "" && h.topic == topic })
	if len(ua.waiting) < maxHeld {
		ua.waiting = append(ua.waiting, held{topic, version, text})
	}
	ua.writeLocked(text)
}

// connected answers the hello of a connection and sends the waiting pushes.
func (ua *userAgent) connected(conn *websocket.Conn) bool {
	ua.mu.Lock()
	defer ua.mu.Unlock()
	ua.conn = conn
	text, err := json.Marshal(frame{Type: "hello", UAID: ua.id, Status: http.StatusOK, WebPush: true})
	if err != nil || !ua.writeLocked(text) {
		return false
	}
	for _, h := range ua.waiting {
		if !ua.writeLocked(h.text) {
			return false
		}
	}
	return true
}

func (ua *userAgent) acknowledged(updates []update) {
	ua.mu.Lock()
	defer ua.mu.Unlock()
	ua.waiting = slices.DeleteFunc(ua.waiting, func(h held) bool { return slices.Contains(updates, update{h.version}) })
}

func (ua *userAgent) gone(conn *websocket.Conn) {
	ua.mu.Lock()
	defer ua.mu.Unlock()
	if ua.conn == conn {
		ua.conn = nil
	}
}

func (ua *userAgent) send(f frame) bool {
	text, err := json.Marshal(f)
	return err == nil && ua.write(text)
}

func (ua *userAgent) write(text []byte) bool {
	ua.mu.Lock()
	defer ua.mu.Unlock()
	return ua.writeLocked(text)
}

func (ua *userAgent) writeLocked(text []byte) bool {
	if ua.conn == nil {
		return false
	}
	_ = ua.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return ua.conn.WriteMessage(websocket.TextMessage, text) == nil
}

package webpushsim_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
)

type frame map[string]any

// realBrowser speaks to the simulator as Firefox does.
type realBrowser struct {
	t    *testing.T
	conn *websocket.Conn
	uaid string
}

func connectBrowser(t *testing.T, s *webpushsim.Server, uaid string) *realBrowser {
	t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial(s.BrowserURL(), http.Header{"Origin": {s.BrowserURL()}, "Sec-WebSocket-Protocol": {"push-notification"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	b := &realBrowser{t: t, conn: conn}
	b.uaid, _ = b.ask(frame{"messageType": "hello", "uaid": uaid, "use_webpush": true})["uaid"].(string)
	return b
}

func (b *realBrowser) read() frame {
	b.t.Helper()
	var f frame
	_ = b.conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if err := b.conn.ReadJSON(&f); err != nil {
		b.t.Fatal(err)
	}
	return f
}

func (b *realBrowser) ask(f frame) frame {
	b.t.Helper()
	if err := b.conn.WriteJSON(f); err != nil {
		b.t.Fatal(err)
	}
	return b.read()
}

// TestBrowser: a real browser subscribes, gets its pushes as they are, also those that
// came while it was not running, and ends its subscription.
func TestBrowser(t *testing.T) {
	s, p := start(t, "mailto:ops@example.com")
	b := connectBrowser(t, s, "")
	if got := b.ask(frame{}); len(got) != 0 {
		t.Errorf("a ping is answered %v", got)
	}
	answer := b.ask(frame{"messageType": "register", "channelID": "c1", "key": p.PublicKey() + "="})
	endpoint, _ := answer["pushEndpoint"].(string)
	if answer["status"] != 200.0 || endpoint == "" {
		t.Fatalf("register: %v", answer)
	}
	r := registration(t, s, p.PublicKey())
	r = delivery.Registration{Server: r.Server, Kind: r.Kind, Token: endpoint, P256dh: r.P256dh, Auth: r.Auth}
	if pe := push(t, p, r, "a"); pe != nil {
		t.Fatal(pe)
	}
	got := b.read()
	headers, _ := got["headers"].(map[string]any)
	if got["messageType"] != "notification" || got["channelID"] != "c1" || headers["encoding"] != "aes128gcm" || got["data"] == "" {
		t.Errorf("the push is %v", got)
	}
	if err := b.conn.WriteJSON(frame{"messageType": "ack", "updates": []frame{{"channelID": "c1", "version": got["version"]}}}); err != nil {
		t.Fatal(err)
	}
	b.ask(frame{}) // it has been read
	_ = b.conn.Close()
	for _, id := range []string{"b", "c", "b"} { // the second b takes the place of the first
		if pe := push(t, p, r, id); pe != nil {
			t.Fatal(pe)
		}
	}
	again := connectBrowser(t, s, b.uaid)
	if again.uaid != b.uaid {
		t.Errorf("the browser is %q, and was %q", again.uaid, b.uaid)
	}
	if first, second := again.read(), again.read(); first["data"] == second["data"] || len(s.Received(endpoint)) != 4 {
		t.Errorf("got %v, %v", first, second)
	}
	again.ask(frame{"messageType": "unregister", "channelID": "c1"})
	if pe := push(t, p, r, "d"); pe == nil || !pe.TokenGone {
		t.Errorf("after unsubscribing: %v", pe)
	}
	s.ForgetBrowsers()
	if forgotten := connectBrowser(t, s, b.uaid); forgotten.uaid == b.uaid || forgotten.uaid == "" {
		t.Errorf("a browser that was forgotten is %q", forgotten.uaid)
	}
}

// TestBrowserOfAnotherSite: a page cannot act as a browser.
func TestBrowserOfAnotherSite(t *testing.T) {
	s, _ := start(t, "mailto:ops@example.com")
	conn, res, err := websocket.DefaultDialer.Dial(s.BrowserURL(), http.Header{"Origin": {"https://evil.example"}})
	if err == nil {
		_ = conn.Close()
		t.Fatal("connected")
	}
	if res == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("got %v, %v", res, err)
	}
	_ = res.Body.Close()
}

package broker

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// reasons passes the reason of each record on. It must have room.
type reasons chan string

func (r reasons) Write(b []byte) (int, error) {
	var record struct{ Level, Remote, Reason, Mend string }
	if err := json.Unmarshal(b, &record); err != nil {
		return 0, err
	}
	if record.Level != "WARN" || record.Remote == "" || record.Mend == "" {
		record.Reason = "not told well: " + string(b)
	}
	r <- record.Reason
	return len(b), nil
}

// TestProxyProtocolOfHTTP: where a peer and the configuration disagree, the log says how; where
// they agree it says nothing.
func TestProxyProtocolOfHTTP(t *testing.T) {
	const header, request = "PROXY TCP4 203.0.113.1 192.0.2.1 1000 80\r\n", "GET / HTTP/1.0\r\n\r\n"
	for _, c := range []struct {
		name    string
		trusted []string
		proxied bool
		sent    string
		want    string
	}{
		{"stranger", []string{"192.0.2.0/24"}, true, header + request, "its address is not that of a trusted proxy"},
		{"no header", []string{"127.0.0.1"}, true, request, "the trusted proxy does not send the header"},
		{"header", []string{"127.0.0.1"}, true, header + request, ""},
		{"header where none is expected", nil, false, header + request, "it begins with the header, which is not expected"},
		{"none where none is expected", nil, false, request, ""},
		{"health check", []string{"127.0.0.1"}, true, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			log := make(reasons, 10)
			s := &http.Server{
				Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
				ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
			}
			served := make(chan error, 1)
			go func() {
				served <- s.Serve(newProxies(c.trusted).listen(l, c.proxied, slog.New(slog.NewJSONHandler(log, nil))))
			}()
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, c.sent) // a stranger's connection may be closed already
			_ = conn.(*net.TCPConn).CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.ReadAll(conn) // until it is closed
			_ = conn.Close()
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			<-served
			got := ""
			if len(log) > 0 {
				got = <-log
			}
			if got != c.want {
				t.Errorf("the log has %q, want %q", got, c.want)
			}
		})
	}
}

package h2pool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestTransport: requests with a body reach servers with and without HTTP/2, over one
// connection; a server without it is asked for HTTP/2 once.
func TestTransport(t *testing.T) {
	for _, h2 := range []bool{true, false} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(append([]byte(r.Proto+" "), body...))
		}))
		s.EnableHTTP2 = h2
		s.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(s.Certificate())
		var dials atomic.Int64
		client := &http.Client{Transport: NewTransport(&http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				dials.Add(1)
				return (&net.Dialer{}).DialContext(ctx, network, address)
			},
		})}
		want, connections := "HTTP/2.0 hello", int64(1)
		if !h2 {
			want, connections = "HTTP/1.1 hello", 2
		}
		for range 3 {
			res, err := client.Post(s.URL, "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if string(body) != want {
				t.Errorf("got %q, want %q", body, want)
			}
		}
		if n := dials.Load(); n != connections {
			t.Errorf("HTTP/2 %v: %d connections, want %d", h2, n, connections)
		}
		client.CloseIdleConnections()
		s.Close()
	}
}

// TestTransportRefusesCertificate: as net/http does.
func TestTransportRefusesCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	client := &http.Client{Transport: NewTransport(&http.Transport{})}
	res, err := client.Get(s.URL)
	if err == nil {
		_ = res.Body.Close()
		t.Fatal("a certificate that nobody has signed is trusted")
	}
	if !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

// clientOf returns a client of a server that has begun.
func clientOf(t *testing.T, s *httptest.Server) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	client := &http.Client{Transport: NewTransport(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// stuck is a server whose requests come in on arrived. It answers those for which answers is
// true, and no other.
func stuck(t *testing.T, answers func(*http.Request) bool, arrived chan<- struct{}) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		if !answers(r) {
			<-r.Context().Done()
		}
	}))
	s.EnableHTTP2 = true
	t.Cleanup(s.Close)
	return s
}

func post(ctx context.Context, t *testing.T, client *http.Client, url string) error {
	t.Helper()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(q)
	if err == nil {
		_ = res.Body.Close()
	}
	return err
}

// inVain posts until the deadline, which passes when the request has arrived.
func inVain(t *testing.T, client *http.Client, url string, arrived <-chan struct{}) {
	t.Helper()
	ctx, pass := testtool.Deadline()
	go func() { <-arrived; pass() }()
	if err := post(ctx, t, client, url); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request without an answer: %v", err)
	}
}

// TestTransportReplacesAStuckConnection: a connection may answer PINGs and no request. It
// makes room for another after some requests without an answer in time.
func TestTransportReplacesAStuckConnection(t *testing.T) {
	var first atomic.Value // the address of the client's side
	arrived := make(chan struct{}, 1)
	s := stuck(t, func(r *http.Request) bool {
		return first.CompareAndSwap(nil, r.RemoteAddr) || r.RemoteAddr != first.Load()
	}, arrived)
	s.StartTLS()
	client := clientOf(t, s)
	if err := post(t.Context(), t, client, s.URL); err != nil {
		t.Fatal(err)
	}
	<-arrived
	for range MaxServerErrors {
		inVain(t, client, s.URL, arrived)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := post(ctx, t, client, s.URL); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

// TestTransportToAServerThatAnswersNothing: a new connection does not help, so not every request
// gets one.
func TestTransportToAServerThatAnswersNothing(t *testing.T) {
	var opened atomic.Int32
	arrived := make(chan struct{}, 1)
	s := stuck(t, func(*http.Request) bool { return false }, arrived)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.StartTLS()
	client := clientOf(t, s)
	const requests = 4 * MaxServerErrors
	for range requests {
		inVain(t, client, s.URL, arrived)
	}
	if n := opened.Load(); n > requests/2 {
		t.Errorf("%d connections for %d requests", n, requests)
	}
}

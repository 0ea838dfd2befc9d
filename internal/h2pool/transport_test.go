package h2pool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
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

// TestTransportReplacesAStuckConnection: a connection may answer PINGs and no request. It
// makes room for another after some requests without an answer in time.
func TestTransportReplacesAStuckConnection(t *testing.T) {
	var stuck atomic.Value // the address of the client's side
	stuck.Store("")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.RemoteAddr == stuck.Load() {
			<-r.Context().Done()
			return
		}
		stuck.CompareAndSwap("", r.RemoteAddr)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	client := clientOf(t, s)
	post := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(q)
		if err == nil {
			_ = res.Body.Close()
		}
		return err
	}
	if err := post(time.Minute); err != nil {
		t.Fatal(err)
	}
	for range MaxServerErrors {
		if err := post(100 * time.Millisecond); err == nil {
			t.Error("a stuck connection answers")
		}
	}
	if err := post(20 * time.Second); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

// TestTransportToAServerThatAnswersNothing: a new connection does not help, so not every request
// gets one.
func TestTransportToAServerThatAnswersNothing(t *testing.T) {
	var opened atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	s.EnableHTTP2 = true
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.StartTLS()
	defer s.Close()
	client := clientOf(t, s)
	const requests = 4 * MaxServerErrors
	for range requests {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if res, err := client.Do(q); err == nil {
			_ = res.Body.Close()
			t.Error("got an answer")
		}
		cancel()
	}
	if n := opened.Load(); n > requests/2 {
		t.Errorf("%d connections for %d requests", n, requests)
	}
}

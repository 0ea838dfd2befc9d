package simkit

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Server is the endpoint that pushes are sent to, with a certificate of its own, and a
// control API over plain HTTP.
type Server struct {
	// Pushes is the endpoint's socket, and Certificate what to serve TLS with. After Open
	// they are the caller's to use; Close closes the socket.
	Pushes      net.Listener
	Certificate tls.Certificate

	caPEM        []byte
	steer        net.Listener
	pushes       *http.Server // nil: the caller serves Pushes
	mutable      *mutable     // with pushes
	control      *http.Server
	wg           sync.WaitGroup
	closing      sync.Once
	closeFailure error
}

// Start listens, and serves pushes over HTTPS (HTTP/2 and 1.1), until Close. address and
// controlAddress are host:port, by default a free port on loopback; controlAddress "off"
// is no control API.
func Start(address, controlAddress string, pushes, control http.Handler) (*Server, error) {
	s, err := Open(address, controlAddress, control)
	if err != nil {
		return nil, err
	}
	s.mutable = &mutable{Listener: s.Pushes, conns: map[*mutableConn]bool{}}
	s.pushes = &http.Server{
		Handler: pushes, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0), ConnContext: withConn,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.Certificate}, MinVersion: tls.VersionTLS12},
	}
	s.wg.Go(func() { _ = s.pushes.ServeTLS(s.mutable, "", "") }) // ends with Close
	return s, nil
}

// Open is Start for a caller that serves the pushes itself, on Pushes.
func Open(address, controlAddress string, control http.Handler) (*Server, error) {
	s := &Server{}
	var err error
	if s.Pushes, err = net.Listen("tcp", cmp.Or(address, "127.0.0.1:0")); err != nil {
		return nil, fmt.Errorf("listen for pushes: %w", err)
	}
	if s.Certificate, s.caPEM, err = Certificate(s.Pushes.Addr()); err != nil {
		return nil, errors.Join(err, s.Pushes.Close())
	}
	if controlAddress != "off" {
		if s.steer, err = net.Listen("tcp", cmp.Or(controlAddress, "127.0.0.1:0")); err != nil {
			return nil, errors.Join(fmt.Errorf("listen for control: %w", err), s.Pushes.Close())
		}
		s.control = &http.Server{Handler: Guard(control), ReadHeaderTimeout: 10 * time.Second}
		s.wg.Go(func() { _ = s.control.Serve(s.steer) }) // ends with Close
	}
	return s, nil
}

// Silence makes every open connection of a server that Start made go dead without a word.
func (s *Server) Silence() { s.mutable.silence() }

// URL is the endpoint.
func (s *Server) URL() string { return "https://" + s.Pushes.Addr().String() }

// ControlURL is where the control API listens; "" if it is off.
func (s *Server) ControlURL() string {
	if s.steer == nil {
		return ""
	}
	return "http://" + s.steer.Addr().String()
}

// CAPEM is the certificate of the CA that signed the endpoint's.
func (s *Server) CAPEM() []byte { return slices.Clone(s.caPEM) }

// Close cuts every connection and waits for the listeners. It may be called twice.
func (s *Server) Close() error {
	s.closing.Do(func() {
		if s.pushes != nil {
			s.closeFailure = s.pushes.Close()
		} else {
			s.closeFailure = s.Pushes.Close()
		}
		if s.control != nil {
			s.closeFailure = errors.Join(s.closeFailure, s.control.Close())
		}
	})
	s.wg.Wait()
	return s.closeFailure
}

// Client returns an HTTP client that trusts the server's certificate.
func (s *Server) Client() *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.caPEM)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
}

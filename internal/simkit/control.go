package simkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// Guard refuses what a web page of another site can send: a foreign Origin, and a
// Host that is a name other than localhost, which a page can make resolve to this
// machine (DNS rebinding).
func Guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		_, notIP := netip.ParseAddr(host)
		switch {
		case host != "localhost" && notIP != nil:
			WriteError(w, http.StatusForbidden, fmt.Errorf("the control API is asked by address or as localhost, not as %q", host))
		// Firefox itself, connecting to a push service, sends the service's address. A
		// page cannot: its origin is never of the scheme ws.
		case r.Header.Get("Origin") == "ws://"+r.Host+r.URL.Path:
			h.ServeHTTP(w, r)
		case r.Header.Get("Origin") != "" && r.Header.Get("Origin") != "http://"+r.Host:
			WriteError(w, http.StatusForbidden, errors.New("the control API is not for pages of other sites"))
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// Control is what every simulator's control API has: JSON in and out; an error is
// {"error": "…"}.
//
//	GET    /ca.pem            the CA of the endpoint's certificate
//	POST   /scripts           one Script or a list of them: added
//	GET    /scripts           the scripts that are not used up
//	DELETE /scripts           forgets them
//	GET    /received?token=   the received requests
//	DELETE /received          forgets it
//	GET    /wait?n=&token=&timeout=10s
//	                          the received requests, once there are n; 408 if there are not in time
func Control[T, S any, R Rule[S]](caPEM func() []byte, scripts *ScriptList[S, R], journal *Journal[T]) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ca.pem", func(w http.ResponseWriter, _ *http.Request) {
		WritePEM(w, caPEM())
	})
	mux.HandleFunc("GET /scripts", func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, http.StatusOK, scripts.List()) })
	mux.HandleFunc("POST /scripts", func(w http.ResponseWriter, r *http.Request) {
		var list []S
		err := readScripts(r.Body, &list)
		if err == nil {
			err = scripts.Add(list...)
		}
		if err != nil {
			WriteError(w, http.StatusBadRequest, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /scripts", func(w http.ResponseWriter, _ *http.Request) { scripts.Clear(); w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /received", func(w http.ResponseWriter, r *http.Request) {
		WriteJSON(w, http.StatusOK, journal.List(r.FormValue("token")))
	})
	mux.HandleFunc("DELETE /received", func(w http.ResponseWriter, _ *http.Request) { journal.Clear(); w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, r *http.Request) { wait(w, r, journal) })
	return mux
}

func wait[T any](w http.ResponseWriter, r *http.Request, journal *Journal[T]) {
	n, timeout := 1, 10*time.Second
	var err error
	if v := r.FormValue("n"); v != "" {
		if n, err = strconv.Atoi(v); err != nil || n < 0 {
			WriteError(w, http.StatusBadRequest, fmt.Errorf("n: must be a number, got %q", v))
			return
		}
	}
	if v := r.FormValue("timeout"); v != "" {
		if timeout, err = time.ParseDuration(v); err != nil {
			WriteError(w, http.StatusBadRequest, fmt.Errorf("timeout: must be a duration like 10s, got %q", v))
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	got, err := journal.WaitFor(ctx, r.FormValue("token"), n)
	if err != nil {
		WriteError(w, http.StatusRequestTimeout, fmt.Errorf("%d of %d requests have come: %w", len(got), n, err))
		return
	}
	WriteJSON(w, http.StatusOK, got)
}

func readScripts[S any](r io.Reader, into *[]S) error {
	var raw json.RawMessage
	if err := json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(&raw); err != nil {
		return err
	}
	if raw[0] == '[' {
		return strict(raw, into)
	}
	*into = make([]S, 1)
	return strict(raw, &(*into)[0])
}

func strict(raw []byte, v any) error { return ReadJSON(bytes.NewReader(raw), v) }

// ReadJSON reads one JSON value without members that v lacks.
func ReadJSON(r io.Reader, v any) error {
	d := json.NewDecoder(io.LimitReader(r, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone, or our types are broken
}

// WritePEM answers with a certificate or a key.
func WritePEM(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(b) // the client is gone
}

// WriteError answers with {"error": "…"}.
func WriteError(w http.ResponseWriter, status int, err error) {
	WriteJSON(w, status, map[string]string{"error": err.Error()})
}

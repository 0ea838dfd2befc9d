package apnssim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/heartline-mqtt/heartline/internal/simkit"
)

// Control is the control API as a handler, also for a server of one's own. JSON
// in and out; an error is {"error": "…"}. It refuses what a web page of another site
// can send.
//
//	GET    /                  Info: the endpoint, key ID and team ID
//	GET    /ca.pem            the CA of the endpoint's certificate
//	GET    /key.p8            a provider key that is taken
//	POST   /scripts           one Script or a list of them: added
//	GET    /scripts           the scripts that are not used up
//	DELETE /scripts           forgets them
//	GET    /received          [Received], ?token= for one device
//	DELETE /received          forgets them, and what devices show
//	GET    /shown?token=      [Received]: what the device would show
//	GET    /wait?n=&token=&timeout=10s
//	                          [Received] once there are n; 408 if there are not in time
//	POST   /streams           {"max": n}: limits concurrent streams
//	POST   /topics            {"topics": [...]}: those that may be pushed to; none: any
//	POST   /limit             {"requests": n, "per": "1s"}: of a device token, then 429; 0: none
//	POST   /device            {"token": "…", "off": true}: the phone is off, or on again
//	POST   /goaway            GOAWAY on every connection
//	POST   /silence           every open connection goes dead without a word
//	POST   /disconnect        every open connection is cut
//	POST   /expire            every provider token seen so far has expired
func (s *Server) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		open, ever := s.Connections()
		writeJSON(w, http.StatusOK, Info{Endpoint: s.URL(), KeyID: s.key.KeyID, TeamID: s.key.TeamID, Connections: open, ConnectionsEver: ever})
	})
	mux.HandleFunc("GET /ca.pem", func(w http.ResponseWriter, _ *http.Request) { writePEM(w, s.caPEM) })
	mux.HandleFunc("GET /key.p8", func(w http.ResponseWriter, _ *http.Request) { writePEM(w, s.key.PEM) })
	mux.HandleFunc("GET /scripts", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.Scripts()) })
	mux.HandleFunc("POST /scripts", func(w http.ResponseWriter, r *http.Request) {
		scripts, err := readScripts(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		s.Script(scripts...)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /scripts", s.do(s.ClearScripts))
	mux.HandleFunc("GET /received", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, notNil(s.ReceivedFor(r.FormValue("token"))))
	})
	mux.HandleFunc("DELETE /received", s.do(s.Clear))
	mux.HandleFunc("GET /shown", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, notNil(s.Shown(r.FormValue("token"))))
	})
	mux.HandleFunc("GET /wait", s.serveWait)
	mux.HandleFunc("POST /streams", func(w http.ResponseWriter, r *http.Request) {
		var v struct {
			Max uint32 `json:"max"`
		}
		if err := readJSON(r, &v); err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		s.LimitStreams(v.Max)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /topics", func(w http.ResponseWriter, r *http.Request) {
		var v struct {
			Topics []string `json:"topics"`
		}
		if err := readJSON(r, &v); err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		s.SetTopics(v.Topics...)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /limit", func(w http.ResponseWriter, r *http.Request) {
		var v struct {
			Requests int    `json:"requests"`
			Per      string `json:"per"`
		}
		err := readJSON(r, &v)
		per := time.Second
		if err == nil && v.Per != "" {
			per, err = time.ParseDuration(v.Per)
		}
		if err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		s.LimitToken(v.Requests, per)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /device", func(w http.ResponseWriter, r *http.Request) {
		var v struct {
			Token string `json:"token"`
			Off   bool   `json:"off"`
		}
		err := readJSON(r, &v)
		if err == nil && v.Token == "" {
			err = errors.New("token: must be given")
		}
		if err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		s.SwitchDevice(v.Token, !v.Off)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /goaway", s.do(s.GoAway))
	mux.HandleFunc("POST /silence", s.do(s.Silence))
	mux.HandleFunc("POST /disconnect", s.do(s.Disconnect))
	mux.HandleFunc("POST /expire", s.do(s.ExpireProviderTokens))
	return simkit.Guard(mux)
}

// Info is what GET / of the control API tells.
type Info struct {
	Endpoint        string `json:"endpoint"`
	KeyID           string `json:"key_id"`
	TeamID          string `json:"team_id"`
	Connections     int    `json:"connections"`
	ConnectionsEver int    `json:"connections_ever"`
}

func (s *Server) do(fn func()) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		fn()
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) serveWait(w http.ResponseWriter, r *http.Request) {
	n, timeout := 1, 10*time.Second
	var err error
	if v := r.FormValue("n"); v != "" {
		if n, err = strconv.Atoi(v); err != nil || n < 0 {
			writeError(w, http.StatusBadRequest, fmt.Errorf("n: must be a number, got %q", v))
			return
		}
	}
	if v := r.FormValue("timeout"); v != "" {
		if timeout, err = time.ParseDuration(v); err != nil {
			writeError(w, http.StatusBadRequest, fmt.Errorf("timeout: must be a duration like 10s, got %q", v))
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	got, err := s.WaitFor(ctx, r.FormValue("token"), n)
	if err != nil {
		writeError(w, http.StatusRequestTimeout, fmt.Errorf("%d of %d requests have come: %w", len(got), n, err))
		return
	}
	writeJSON(w, http.StatusOK, notNil(got))
}

func readScripts(r io.Reader) ([]Script, error) {
	var raw json.RawMessage
	if err := json.NewDecoder(r).Decode(&raw); err != nil {
		return nil, err
	}
	var many []Script
	if raw[0] == '[' {
		err := json.Unmarshal(raw, &many)
		return many, err
	}
	var one Script
	if err := json.Unmarshal(raw, &one); err != nil {
		return nil, err
	}
	return []Script{one}, nil
}

func readJSON(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}

// notNil makes an empty list [] and not null.
func notNil(r []Received) []Received {
	if r == nil {
		return []Received{}
	}
	return r
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone, or our types are broken
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, map[string]string{"error": err.Error()})
}

func writePEM(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(b) // the client is gone
}

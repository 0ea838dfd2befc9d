package apnssim

import (
	"errors"
	"net/http"
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
		simkit.WriteJSON(w, http.StatusOK, Info{Endpoint: s.URL(), KeyID: s.key.KeyID, TeamID: s.key.TeamID, Connections: open, ConnectionsEver: ever})
	})
	mux.HandleFunc("GET /key.p8", func(w http.ResponseWriter, _ *http.Request) { simkit.WritePEM(w, s.key.PEM) })
	mux.Handle("/", simkit.Control(func() []byte { return s.CAPEM() }, &s.scripts, s.journal))
	mux.HandleFunc("DELETE /received", s.do(s.Clear))
	mux.HandleFunc("GET /shown", func(w http.ResponseWriter, r *http.Request) {
		simkit.WriteJSON(w, http.StatusOK, s.Shown(r.FormValue("token")))
	})
	mux.HandleFunc("POST /streams", func(w http.ResponseWriter, r *http.Request) {
		var v struct {
			Max uint32 `json:"max"`
		}
		if err := simkit.ReadJSON(r.Body, &v); err != nil {
			simkit.WriteError(w, http.StatusBadRequest, err)
			return
		}
		s.LimitStreams(v.Max)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /topics", func(w http.ResponseWriter, r *http.Request) {
		var v struct {
			Topics []string `json:"topics"`
		}
		if err := simkit.ReadJSON(r.Body, &v); err != nil {
			simkit.WriteError(w, http.StatusBadRequest, err)
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
		err := simkit.ReadJSON(r.Body, &v)
		per := time.Second
		if err == nil && v.Per != "" {
			per, err = time.ParseDuration(v.Per)
		}
		if err != nil {
			simkit.WriteError(w, http.StatusBadRequest, err)
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
		err := simkit.ReadJSON(r.Body, &v)
		if err == nil && v.Token == "" {
			err = errors.New("token: must be given")
		}
		if err != nil {
			simkit.WriteError(w, http.StatusBadRequest, err)
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

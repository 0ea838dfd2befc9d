package fcmsim

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/heartline-mqtt/heartline/internal/simkit"
)

// Options are what a Server is made of. The zero value is a working one on loopback.
type Options struct {
	Address        string           // of both endpoints; "127.0.0.1:0"
	ControlAddress string           // of the control API; "127.0.0.1:0"; "off": none
	Project        string           // "heartline-demo"
	TokenLife      time.Duration    // of an access token; 3599 s
	MaxReceived    int              // how many requests are kept for Received; 10,000. The oldest go first
	Now            func() time.Time // nil: time.Now
}

// Received is a message as it came, and what became of it.
type Received struct {
	Number   int             `json:"number"` // 1, 2, … since the start or the last Clear
	Time     time.Time       `json:"time"`
	Token    string          `json:"token"` // or the installation ID
	FID      bool            `json:"fid,omitempty"`
	Message  json.RawMessage `json:"message,omitempty"`
	Tag      string          `json:"tag,omitempty"`
	Status   int             `json:"status"` // 0: no answer
	Reason   string          `json:"reason,omitempty"`
	Protocol string          `json:"protocol"`
	// Unanswered: the client did not get the answer, whatever Status says: a script cut the
	// connection, or the client had gone.
	Unanswered bool `json:"unanswered,omitempty"`
}

// Server is a running simulator. Its methods are safe for concurrent use.
type Server struct {
	*simkit.Server
	project string
	life    time.Duration
	now     func() time.Time
	key     *rsa.PrivateKey
	Scripts Scripts
	journal *simkit.Journal[Received]

	mu           sync.Mutex
	access       map[string]time.Time // access tokens and their ends
	unregistered map[string]bool
	shown        map[string][]Received
	down         bool // the token endpoint answers 503
	revoked      bool // the service account's key is refused
}

// Start makes a service account, listens, and serves until Close.
func Start(o Options) (*Server, error) {
	s := &Server{
		project: o.Project, life: o.TokenLife, now: o.Now, journal: simkit.NewJournal[Received](cmp.Or(o.MaxReceived, 10_000)),
		access: map[string]time.Time{}, unregistered: map[string]bool{}, shown: map[string][]Received{},
	}
	if s.project == "" {
		s.project = "heartline-demo"
	}
	if s.life == 0 {
		s.life = 3599 * time.Second
	}
	if s.now == nil {
		s.now = time.Now
	}
	var err error
	if s.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, fmt.Errorf("make a service account: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("POST /v1/projects/{project}/messages:send", s.send)
	if s.Server, err = simkit.Start(o.Address, o.ControlAddress, mux, s.Control()); err != nil {
		return nil, err
	}
	return s, nil
}

// Control is the control API as a handler, also for a server of one's own.
func (s *Server) Control() http.Handler {
	control := simkit.Control(func() []byte { return s.CAPEM() }, &s.Scripts, s.journal)
	control.HandleFunc("GET /service-account.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.ServiceAccount()) // the client is gone
	})
	control.HandleFunc("GET /shown", func(w http.ResponseWriter, r *http.Request) {
		simkit.WriteJSON(w, http.StatusOK, s.Shown(r.FormValue("token")))
	})
	control.HandleFunc("POST /unregister", func(w http.ResponseWriter, r *http.Request) {
		s.Unregister(r.FormValue("token"))
		w.WriteHeader(http.StatusNoContent)
	})
	control.HandleFunc("POST /oauth", func(w http.ResponseWriter, r *http.Request) {
		var v struct {
			Down    bool `json:"down"`
			Revoked bool `json:"revoked"`
		}
		if err := simkit.ReadJSON(r.Body, &v); err != nil {
			simkit.WriteError(w, http.StatusBadRequest, err)
			return
		}
		s.SetOAuth(v.Down, v.Revoked)
		w.WriteHeader(http.StatusNoContent)
	})
	return control
}

// Close stops the server and ends every wait. It may be called twice.
func (s *Server) Close() error {
	s.journal.Close()
	return s.Server.Close()
}

// ServiceAccount is the JSON file of an account whose token endpoint is this server.
func (s *Server) ServiceAccount() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		panic(fmt.Errorf("fcmsim: marshal the key: %w", err)) // it was made here
	}
	b, err := json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": s.project, "private_key_id": "simulator-1",
		"client_email": "push@" + s.project + ".iam.gserviceaccount.com", "token_uri": s.URL() + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}, "", "  ")
	if err != nil {
		panic(fmt.Errorf("fcmsim: marshal the account: %w", err)) // strings
	}
	return b
}

// SetOAuth makes the token endpoint answer 503 (down), or refuse the account's key
// (revoked).
func (s *Server) SetOAuth(down, revoked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.revoked = down, revoked
}

// Unregister ends a registration: the next message gets UNREGISTERED.
func (s *Server) Unregister(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unregistered[token] = true
}

// Received lists the pushes received for a registration, for all of them with "".
func (s *Server) Received(token string) []Received { return s.journal.List(token) }

// WaitFor returns the pushes received for a registration (all with "") once there are n.
func (s *Server) WaitFor(ctx context.Context, token string, n int) ([]Received, error) {
	return s.journal.WaitFor(ctx, token, n)
}

// Shown is what a phone would show, oldest first: of two with one tag the later.
func (s *Server) Shown(token string) []Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Received{}, s.shown[token]...)
}

// token is Google's token endpoint (RFC 7523).
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code, text string) {
		simkit.WriteJSON(w, status, map[string]string{"error": code, "error_description": text})
	}
	s.mu.Lock()
	down, revoked := s.down, s.revoked
	s.mu.Unlock()
	if down {
		refuse(http.StatusServiceUnavailable, "backend_error", "try again later")
		return
	}
	if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		refuse(http.StatusBadRequest, "unsupported_grant_type", "Invalid grant_type")
		return
	}
	now := s.now()
	claims := jwt.MapClaims{}
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(s.URL()+"/token"), jwt.WithIssuedAt(), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }),
	).ParseWithClaims(r.FormValue("assertion"), claims, func(*jwt.Token) (any, error) { return &s.key.PublicKey, nil })
	switch {
	case revoked:
		refuse(http.StatusBadRequest, "invalid_grant", "Invalid JWT Signature.")
		return
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		refuse(http.StatusBadRequest, "invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")
		return
	case err != nil:
		refuse(http.StatusBadRequest, "invalid_grant", "Invalid JWT Signature.")
		return
	}
	exp, _ := claims.GetExpirationTime()
	iat, _ := claims.GetIssuedAt()
	if scope, _ := claims["scope"].(string); scope != "https://www.googleapis.com/auth/firebase.messaging" || iat == nil || exp.Sub(iat.Time) > time.Hour {
		refuse(http.StatusBadRequest, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
		return
	}
	token := "ya29." + rand.Text()
	s.mu.Lock()
	s.access[token] = now.Add(s.life)
	s.mu.Unlock()
	simkit.WriteJSON(w, http.StatusOK, map[string]any{"access_token": token, "expires_in": int(s.life / time.Second), "token_type": "Bearer"})
}

// status is google.rpc.Status in JSON.
func status(code int, text, message, fcmCode, field string) map[string]any {
	var details []map[string]any
	if fcmCode != "" {
		details = append(details, map[string]any{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": fcmCode})
	}
	if field != "" {
		details = append(details, map[string]any{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": []map[string]string{{"field": field, "description": message}}})
	}
	return map[string]any{"error": map[string]any{"code": code, "message": message, "status": text, "details": details}}
}

// send is projects.messages.send.
func (s *Server) send(w http.ResponseWriter, r *http.Request) {
	rec := Received{Time: s.now(), Protocol: r.Proto}
	defer func() { s.journal.Add(rec.Token, func(n int) Received { rec.Number = n; return rec }) }()
	refuse := func(code int, text, message, fcmCode, field string) {
		rec.Status, rec.Reason = code, text
		if fcmCode != "" {
			rec.Reason = fcmCode
		}
		simkit.WriteJSON(w, code, status(code, text, message, fcmCode, field))
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	end, known := s.access[token]
	s.mu.Unlock()
	if !known || !s.now().Before(end) {
		refuse(http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials.", "", "")
		return
	}
	if r.PathValue("project") != s.project {
		refuse(http.StatusNotFound, "NOT_FOUND", "Requested entity was not found.", "", "")
		return
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return // the client is gone
	}
	var body struct {
		Message      message `json:"message"`
		ValidateOnly bool    `json:"validate_only"`
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		refuse(http.StatusBadRequest, "INVALID_ARGUMENT", "Invalid JSON payload received.", "", "message")
		return
	}
	rec.Message = raw
	to, f := check(&body.Message)
	rec.Token, rec.FID = to, body.Message.FID != ""
	if f != nil {
		refuse(http.StatusBadRequest, "INVALID_ARGUMENT", f.message, "INVALID_ARGUMENT", f.field)
		return
	}
	var shown shown
	if len(body.Message.Android.Notification) > 0 {
		d := json.NewDecoder(bytes.NewReader(body.Message.Android.Notification))
		d.DisallowUnknownFields()
		if err := d.Decode(&shown); err != nil {
			refuse(http.StatusBadRequest, "INVALID_ARGUMENT", "Invalid value at 'message.android.notification'", "", "message.android.notification")
			return
		}
	}
	rec.Tag = shown.Tag
	s.mu.Lock()
	gone := s.unregistered[to]
	s.mu.Unlock()
	if gone {
		refuse(http.StatusNotFound, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED", "")
		return
	}
	script := s.Scripts.Next(to)
	rec.Unanswered = script.Action != ActionAnswer
	answered, done := script.Play(w, r, func() {
		if body.ValidateOnly {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if rec.Tag != "" {
			s.shown[to] = slices.DeleteFunc(s.shown[to], func(x Received) bool { return x.Tag == rec.Tag })
		}
		s.shown[to] = append(s.shown[to], rec)
	})
	rec.Status = answered
	rec.Unanswered = rec.Unanswered || r.Context().Err() != nil
	if done {
		return
	}
	rec.Status = http.StatusOK
	simkit.WriteJSON(w, http.StatusOK, map[string]string{"name": "projects/" + s.project + "/messages/0:" + rand.Text()})
}

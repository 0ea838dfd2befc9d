package apnssim

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// request is the request of a stream.
type request struct {
	conn       *conn
	stream     uint32
	method     string
	path       string
	header     map[string]string
	duplicated bool // an apns header came twice
	body       []byte
	tooLarge   bool
}

// reply is the answer to a request.
type reply struct {
	status     int
	reason     string
	timestamp  int64 // ms
	retryAfter string
	body       string // in place of the JSON, if not empty
	apnsID     string
}

func refuse(status int, reason string) reply { return reply{status: status, reason: reason} }

const (
	maxPayload     = 4096
	maxVoIPPayload = 5120
	maxTokenAge    = time.Hour
	minTokenUpdate = 20 * time.Minute
	maxTokens      = 1_000_000 // whose topics are remembered
)

var pushTypes = []string{"alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity", "pushtotalk", "widgets", "controls"}

// check answers a request as Apple documents it. The order is: the way, the
// credentials, the headers, the payload.
func (s *Server) check(r *request, rec *Received) reply {
	if r.method != "POST" {
		return refuse(405, "MethodNotAllowed")
	}
	token, ok := strings.CutPrefix(r.path, "/3/device/")
	if !ok {
		if r.path == "/3/device" {
			return refuse(400, "MissingDeviceToken")
		}
		return refuse(404, "BadPath")
	}
	if strings.ContainsAny(token, "/?#") {
		return refuse(404, "BadPath")
	}
	rec.Token = strings.ToLower(token)
	if rep := s.authenticate(r, rec); rep.status != 0 {
		return rep
	}
	if token == "" {
		return refuse(400, "MissingDeviceToken")
	}
	if len(token)%2 != 0 || len(token) > 256 || strings.Trim(rec.Token, "0123456789abcdef") != "" {
		return refuse(400, "BadDeviceToken")
	}
	if r.duplicated {
		return refuse(400, "DuplicateHeaders")
	}

	if rec.Topic == "" {
		return refuse(400, "MissingTopic")
	}
	if strings.Trim(rec.Topic, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return refuse(400, "BadTopic")
	}
	s.mu.Lock()
	disallowed := len(s.topics) > 0 && !slices.Contains(s.topics, rec.Topic)
	s.mu.Unlock()
	if disallowed {
		return refuse(400, "TopicDisallowed")
	}
	if rec.PushType != "" && !slices.Contains(pushTypes, rec.PushType) {
		return refuse(400, "InvalidPushType")
	}
	switch rec.Priority {
	case "", "1", "5", "10":
	default:
		return refuse(400, "BadPriority")
	}
	if rec.PushType == "background" && rec.Priority == "10" {
		return refuse(400, "BadPriority") // "Using priority 10 is an error."
	}
	if rec.Expiration != "" {
		if n, err := strconv.ParseInt(rec.Expiration, 10, 64); err != nil || n < 0 {
			return refuse(400, "BadExpirationDate")
		}
	}
	if id := r.header["apns-id"]; id != "" {
		if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
			return refuse(400, "BadMessageId")
		}
	}
	if len(rec.CollapseID) > 64 {
		return refuse(400, "BadCollapseId")
	}

	limit := maxPayload
	if rec.PushType == "voip" {
		limit = maxVoIPPayload
	}
	if r.tooLarge || len(r.body) > limit {
		return refuse(413, "PayloadTooLarge")
	}
	if b := bytes.TrimSpace(r.body); len(b) == 0 || b[0] != '{' || !json.Valid(b) {
		return refuse(400, "PayloadEmpty")
	}
	if !fits(rec.PushType, rec.Topic) {
		return refuse(400, "BadTopic")
	}
	if !carries(rec.PushType, r.body) {
		return refuse(400, "InvalidPushType")
	}
	if !s.belongs(rec.Token, rec.Topic) {
		return refuse(400, "DeviceTokenNotForTopic")
	}
	rec.Payload = json.RawMessage(r.body)
	if s.tooMany(rec.Token) {
		return refuse(429, "TooManyRequests")
	}
	return reply{status: 200}
}

// suffixes end the topic of a push type; a topic without one is for the types that are
// not here.
// https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
var suffixes = map[string]string{
	"location": ".location-query", "voip": ".voip", "complication": ".complication",
	"fileprovider": ".pushkit.fileprovider", "liveactivity": ".push-type.liveactivity",
	"pushtotalk": ".voip-ptt", "widgets": ".push-type.widgets", "controls": ".push-type.controls",
}

// fits reports whether a topic is one for the push type.
func fits(pushType, topic string) bool {
	if suffix := suffixes[pushType]; suffix != "" {
		return strings.HasSuffix(topic, suffix)
	}
	if pushType == "" || pushType == "mdm" {
		return true
	}
	return suffixOf(topic) == ""
}

// suffixOf returns the suffix of a topic; "": it has none.
func suffixOf(topic string) string {
	for _, suffix := range suffixes {
		if strings.HasSuffix(topic, suffix) {
			return suffix
		}
	}
	return ""
}

// belongs reports whether a device token is one for a topic: the suffix is that of the first
// topic that a push to it was accepted for. An app has one token for its alerts and others for
// VoIP, live activities and so on.
func (s *Server) belongs(token, topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	suffix, known := s.tokens[token]
	return !known || suffix == suffixOf(topic)
}

// accepted notes what a device token is for.
func (s *Server) accepted(rec *Received) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.tokens[rec.Token]; !known {
		if len(s.tokens) >= maxTokens {
			clear(s.tokens)
		}
		s.tokens[rec.Token] = suffixOf(rec.Topic)
	}
}

// carries reports whether a payload is one for the push type: Apple asks that the
// header reflect the contents of the payload.
func carries(pushType string, body []byte) bool {
	var p struct {
		APS map[string]json.RawMessage `json:"aps"`
	}
	if json.Unmarshal(body, &p) != nil {
		return false // aps is not an object
	}
	shows := false
	for _, key := range []string{"alert", "badge", "sound"} {
		shows = shows || p.APS[key] != nil
	}
	switch pushType {
	case "alert":
		return shows
	case "background":
		return !shows && string(p.APS["content-available"]) == "1"
	case "liveactivity":
		return p.APS["event"] != nil && p.APS["timestamp"] != nil
	}
	return true
}

// window counts the requests for a device token.
type window struct {
	began time.Time
	n     int
}

// tooMany counts a request for a device token against the limit.
func (s *Server) tooMany(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.TokenLimit <= 0 {
		return false
	}
	if s.taken == nil {
		s.taken = map[string]window{}
	}
	w, now := s.taken[token], s.opts.Now()
	if now.Sub(w.began) >= s.opts.TokenWindow {
		w = window{began: now}
	}
	w.n++
	s.taken[token] = w
	return w.n > s.opts.TokenLimit
}

// LimitToken changes Options.TokenLimit and TokenWindow.
func (s *Server) LimitToken(requests int, per time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.TokenLimit, s.opts.TokenWindow = requests, cmp.Or(per, time.Second)
}

// authState is the state of the provider tokens.
type authState struct {
	checked map[string]jwt // by bearer: one signature check each
	expired map[string]bool
}

func (a *authState) init() {
	a.checked = map[string]jwt{}
	a.expired = map[string]bool{}
}

// jwt is a provider token that has been looked at.
type jwt struct {
	valid  bool
	keyID  string
	teamID string
	issued time.Time
}

// authenticate wants a client certificate or a provider token.
func (s *Server) authenticate(r *request, rec *Received) reply {
	auth := r.header["authorization"]
	if auth == "" {
		if r.conn.certificate == "" {
			return refuse(403, "MissingProviderToken")
		}
		rec.Certificate = r.conn.certificate
		return reply{}
	}
	scheme, bearer, _ := strings.Cut(auth, " ")
	if !strings.EqualFold(scheme, "bearer") || bearer == "" {
		return refuse(403, "MissingProviderToken")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.auth.checked[bearer]
	if !ok {
		if len(s.auth.checked) > 1000 {
			clear(s.auth.checked)
		}
		t = s.checkJWTLocked(bearer)
		s.auth.checked[bearer] = t
	}
	rec.KeyID, rec.TeamID, rec.TokenIssued = t.keyID, t.teamID, t.issued
	now := s.opts.Now()
	switch age := now.Sub(t.issued); {
	case !t.valid:
		return refuse(403, "InvalidProviderToken")
	case s.auth.expired[bearer], age > maxTokenAge:
		return refuse(403, "ExpiredProviderToken")
	case age < -time.Minute:
		return refuse(403, "InvalidProviderToken") // from the future
	}
	return r.conn.authenticated(bearer, t, now)
}

// checkJWTLocked looks at form, algorithm, claims and signature.
func (s *Server) checkJWTLocked(bearer string) jwt {
	parts := strings.Split(bearer, ".")
	if len(parts) != 3 {
		return jwt{}
	}
	var header struct{ Alg, Kid string }
	var claims struct {
		Iss string
		Iat float64
	}
	if !decodePart(parts[0], &header) || !decodePart(parts[1], &claims) {
		return jwt{}
	}
	t := jwt{keyID: header.Kid, teamID: claims.Iss, issued: time.Unix(int64(claims.Iat), 0)}
	if header.Alg != "ES256" || header.Kid == "" || claims.Iss == "" || claims.Iat <= 0 {
		return t
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(sig) != 64 {
		return t
	}
	key, ok := s.keys[header.Kid]
	if !ok {
		t.valid = len(s.opts.Keys) == 0
		return t
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	t.valid = key.teamID == claims.Iss &&
		ecdsa.Verify(key.public, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	return t
}

func decodePart(s string, v any) bool {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && json.Unmarshal(b, v) == nil
}

// ExpireProviderTokens makes every provider token seen so far an expired one.
func (s *Server) ExpireProviderTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.auth.checked {
		s.auth.expired[b] = true
	}
}

// SetTopics replaces Options.Topics.
func (s *Server) SetTopics(topics ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics = slices.Clone(topics)
}

// handle decides what becomes of a request, and records it.
func (s *Server) handle(r *request) {
	rec := &Received{
		Time: s.opts.Now(), Connection: r.conn.number, Stream: r.stream,
		APNsID: r.header["apns-id"], Topic: r.header["apns-topic"], PushType: r.header["apns-push-type"],
		Priority: r.header["apns-priority"], Expiration: r.header["apns-expiration"], CollapseID: r.header["apns-collapse-id"],
		Header: r.header,
	}
	rep := s.check(r, rec)
	delete(rec.Header, "authorization") // a secret, also here
	if rec.APNsID == "" || rep.reason == "BadMessageId" {
		rec.APNsID = uuid.NewString()
	}
	var script Script
	if rep.status == 200 {
		script = s.scripts.Next(rec.Token)
		if script.Status != 0 {
			rep = reply{status: script.Status, reason: script.Reason, timestamp: script.Timestamp, retryAfter: script.RetryAfter, body: script.Body}
		}
	}
	rep.apnsID = rec.APNsID
	rec.Status, rec.Reason, rec.Action = rep.status, rep.reason, script.Action
	switch script.Action {
	case ActionReset, ActionRefuse, ActionGoAway, ActionHang, ActionSilence:
		rec.Status = 0 // no answer
	}
	if rec.Status == 200 {
		s.accepted(rec)
	}

	s.journal.Add(rec.Token, func(n int) Received { rec.Number = n; return *rec })
	send := func() {
		if rec.Status == 200 {
			s.screens.show(rec)
		}
		switch script.Action {
		case ActionReset:
			r.conn.reset(r.stream, false)
		case ActionRefuse:
			r.conn.reset(r.stream, true)
		case ActionGoAway:
			r.conn.goAway(max(r.stream, 2)-2, script.Reason)
		case ActionHang:
		case ActionSilence:
			r.conn.silence()
		case ActionDrop:
			r.conn.close()
		default:
			r.conn.answer(r.stream, rep)
		}
	}
	delay := script.Delay
	if s.opts.Reorder > 0 {
		delay += rand.N(s.opts.Reorder)
	}
	if delay > 0 {
		r.conn.later(delay, send)
		return
	}
	send()
}

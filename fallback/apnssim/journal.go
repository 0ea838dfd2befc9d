package apnssim

import (
	"container/list"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Received is a request as it came, and what became of it.
type Received struct {
	Number      int               `json:"number"` // 1, 2, … since the start or the last Clear
	Time        time.Time         `json:"time"`
	Connection  int               `json:"connection"` // 1, 2, …
	Stream      uint32            `json:"stream"`
	Token       string            `json:"token"` // lower case
	APNsID      string            `json:"apns_id"`
	Topic       string            `json:"topic,omitempty"`
	PushType    string            `json:"push_type,omitempty"`
	Priority    string            `json:"priority,omitempty"`
	Expiration  string            `json:"expiration,omitempty"`
	CollapseID  string            `json:"collapse_id,omitempty"`
	Header      map[string]string `json:"header"` // without authorization
	Payload     json.RawMessage   `json:"payload,omitempty"`
	KeyID       string            `json:"key_id,omitempty"`
	TeamID      string            `json:"team_id,omitempty"`
	TokenIssued time.Time         `json:"token_issued,omitzero"`
	Certificate string            `json:"certificate,omitempty"` // subject of the client's
	Status      int               `json:"status"`                // 0: no answer
	Reason      string            `json:"reason,omitempty"`
	Action      Action            `json:"action,omitempty"`
}

// screens is what devices show.
type screens struct {
	mu    sync.Mutex
	shown map[string]*screen   // by token
	kept  map[string]*Received // by token, for phones that are off; nil value: nothing is kept
}

func newScreens() *screens {
	return &screens{shown: map[string]*screen{}, kept: map[string]*Received{}}
}

func (s *screens) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.shown)
	for token := range s.kept {
		s.kept[token] = nil
	}
}

// screen is what one device shows, oldest first: a later notification with the
// same collapse ID takes the place of the earlier.
type screen struct {
	list       list.List // of *Received
	byCollapse map[string]*list.Element
}

// show is what the device does with an accepted notification. Of two with the
// same apns-id it shows both, as far as is known, unless a collapse ID says
// otherwise.
func (s *screens) show(r *Received) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, off := s.kept[r.Token]; off {
		// "APNs stores only one notification per app for a device that is offline"; one
		// without an expiration is not stored.
		if r.Expiration != "0" {
			s.kept[r.Token] = r
		}
		return
	}
	s.showLocked(r)
}

// switchDevice turns a phone off, or on: it then shows the notification kept for it.
func (s *screens) switchDevice(token string, on bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, off := s.kept[token]
	switch {
	case !on && !off:
		s.kept[token] = nil
	case on && off:
		delete(s.kept, token)
		if kept == nil {
			return
		}
		if at, err := strconv.ParseInt(kept.Expiration, 10, 64); err == nil && !now.Before(time.Unix(at, 0)) {
			return // expired meanwhile
		}
		s.showLocked(kept)
	}
}

func (s *screens) showLocked(r *Received) {
	d := s.shown[r.Token]
	if d == nil {
		d = &screen{byCollapse: map[string]*list.Element{}}
		s.shown[r.Token] = d
	}
	shown := d.list.PushBack(r)
	if r.CollapseID == "" {
		return
	}
	if old := d.byCollapse[r.CollapseID]; old != nil {
		d.list.Remove(old)
	}
	d.byCollapse[r.CollapseID] = shown
}

// Received lists the requests that have come, in order of arrival, whatever
// their answer.
func (s *Server) Received() []Received { return s.journal.List("") }

// ReceivedFor lists those for one device token.
func (s *Server) ReceivedFor(token string) []Received { return s.journal.List(token) }

// Clear forgets the received pushes and what devices show.
func (s *Server) Clear() {
	s.journal.Clear()
	s.screens.clear()
}

// Shown lists what the device with this token would show: the notifications
// accepted for it, of those with the same collapse ID the last one.
func (s *Server) Shown(token string) []Received {
	s.screens.mu.Lock()
	defer s.screens.mu.Unlock()
	out := []Received{}
	if d := s.screens.shown[strings.ToLower(token)]; d != nil {
		for e := d.list.Front(); e != nil; e = e.Next() {
			out = append(out, *e.Value.(*Received))
		}
	}
	return out
}

// SwitchDevice turns the phone with this token off or on; all are on at first. For one
// that is off, only the last notification is kept, as Apple does it, and shown when it
// is on again.
func (s *Server) SwitchDevice(token string, on bool) {
	s.screens.switchDevice(strings.ToLower(token), on, s.opts.Now())
}

// Wait returns when n requests have come since the start or the last Clear, with
// the requests, or with ctx's error.
func (s *Server) Wait(ctx context.Context, n int) ([]Received, error) {
	return s.WaitFor(ctx, "", n)
}

// WaitFor is Wait for the requests of one device token.
func (s *Server) WaitFor(ctx context.Context, token string, n int) ([]Received, error) {
	return s.journal.WaitFor(ctx, token, n)
}

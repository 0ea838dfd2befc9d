package apnssim

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
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

// journal keeps the received pushes, and what devices show.
type journal struct {
	mu      sync.Mutex
	limit   int
	list    []*Received
	total   int
	byToken map[string]int
	shown   map[string]*screen   // by token
	kept    map[string]*Received // by token, for phones that are off; nil value: nothing is kept
	changed chan struct{}
	waiting int
	closed  bool
}

func (j *journal) init(limit int) {
	j.limit = limit
	j.changed = make(chan struct{})
	j.clear()
}

func (j *journal) clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.list, j.total, j.byToken, j.shown = nil, 0, map[string]int{}, map[string]*screen{}
	for token := range j.kept {
		j.kept[token] = nil
	}
}

func (j *journal) add(r *Received) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.total++
	r.Number = j.total
	if len(j.list) >= j.limit {
		// Half at a time, so that dropping costs nothing per request.
		j.list = append([]*Received(nil), j.list[len(j.list)-j.limit/2:]...)
	}
	j.list = append(j.list, r)
	j.byToken[r.Token]++
	if j.waiting > 0 {
		close(j.changed)
		j.changed = make(chan struct{})
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
func (j *journal) show(r *Received) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, off := j.kept[r.Token]; off {
		// "APNs stores only one notification per app for a device that is offline"; one
		// without an expiration is not stored.
		if r.Expiration != "0" {
			j.kept[r.Token] = r
		}
		return
	}
	j.showLocked(r)
}

// switchDevice turns a phone off, or on: it then shows the notification kept for it.
func (j *journal) switchDevice(token string, on bool, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	kept, off := j.kept[token]
	switch {
	case !on && !off:
		if j.kept == nil {
			j.kept = map[string]*Received{}
		}
		j.kept[token] = nil
	case on && off:
		delete(j.kept, token)
		if kept == nil {
			return
		}
		if at, err := strconv.ParseInt(kept.Expiration, 10, 64); err == nil && !now.Before(time.Unix(at, 0)) {
			return // expired meanwhile
		}
		j.showLocked(kept)
	}
}

func (j *journal) showLocked(r *Received) {
	s := j.shown[r.Token]
	if s == nil {
		s = &screen{byCollapse: map[string]*list.Element{}}
		j.shown[r.Token] = s
	}
	shown := s.list.PushBack(r)
	if r.CollapseID == "" {
		return
	}
	if old := s.byCollapse[r.CollapseID]; old != nil {
		s.list.Remove(old)
	}
	s.byCollapse[r.CollapseID] = shown
}

// wake ends all waiting, for good.
func (j *journal) wake() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.closed {
		j.closed = true
		close(j.changed)
	}
}

// received copies the pushes received for token; "": all.
func (j *journal) received(token string) []Received {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []Received
	for _, r := range j.list {
		if token == "" || r.Token == token {
			out = append(out, *r)
		}
	}
	return out
}

func (j *journal) count(token string) int {
	if token == "" {
		return j.total
	}
	return j.byToken[token]
}

func (j *journal) wait(ctx context.Context, token string, n int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.count(token) < n {
		if j.closed {
			return errors.New("the simulator was closed")
		}
		changed := j.changed
		j.waiting++
		j.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		j.mu.Lock()
		j.waiting--
		if err != nil && j.count(token) < n {
			return err
		}
	}
	return nil
}

// Received lists the requests that have come, in order of arrival, whatever
// their answer.
func (s *Server) Received() []Received { return s.journal.received("") }

// ReceivedFor lists those for one device token.
func (s *Server) ReceivedFor(token string) []Received {
	return s.journal.received(strings.ToLower(token))
}

// Clear forgets the received pushes and what devices show.
func (s *Server) Clear() { s.journal.clear() }

// Shown lists what the device with this token would show: the notifications
// accepted for it, of those with the same collapse ID the last one.
func (s *Server) Shown(token string) []Received {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	var out []Received
	if d := s.journal.shown[strings.ToLower(token)]; d != nil {
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
	s.journal.switchDevice(strings.ToLower(token), on, s.opts.Now())
}

// Wait returns when n requests have come since the start or the last Clear, with
// the requests, or with ctx's error.
func (s *Server) Wait(ctx context.Context, n int) ([]Received, error) {
	return s.WaitFor(ctx, "", n)
}

// WaitFor is Wait for the requests of one device token.
func (s *Server) WaitFor(ctx context.Context, token string, n int) ([]Received, error) {
	token = strings.ToLower(token)
	err := s.journal.wait(ctx, token, n)
	return s.journal.received(token), err
}

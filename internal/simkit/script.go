package simkit

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The actions of a scripted request.
const (
	ActionAnswer = ""      // with the script's status
	ActionHang   = "hang"  // no answer, until the client gives up
	ActionDrop   = "drop"  // processed, and the connection is cut before the answer
	ActionReset  = "reset" // not processed, and the connection is cut

	ActionSilence = "silence" // not processed, and the connection goes dead without a word
)

// Script is how a request that passes every check is treated.
type Script struct {
	Token      string   `json:"token,omitempty"`  // "": every token without a script of its own
	Status     int      `json:"status,omitempty"` // 0: as the server would answer
	Body       string   `json:"body,omitempty"`   // with Status
	RetryAfter string   `json:"retry_after,omitempty"`
	Times      int      `json:"times,omitempty"` // requests that it is good for; 0: all
	Delay      Duration `json:"delay,omitempty"` // before the action
	Action     string   `json:"action,omitempty"`
}

// Duration is a time.Duration that JSON holds as text ("50ms").
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Validate implements Rule.
func (sc *Script) Validate() error {
	switch sc.Action {
	case ActionAnswer, ActionHang, ActionDrop, ActionReset, ActionSilence:
	default:
		return fmt.Errorf("action: must be hang, drop, reset or silence, or left out; got %q", sc.Action)
	}
	return ValidScript(sc.Status, sc.Times, time.Duration(sc.Delay))
}

// Scope implements Rule.
func (sc *Script) Scope() (token string, times *int) { return sc.Token, &sc.Times }

// ValidScript checks what every server's scripts have.
func ValidScript(status, times int, delay time.Duration) error {
	if status != 0 && (status < 200 || status > 599) {
		return fmt.Errorf("status: must be 200 to 599, got %d", status)
	}
	if times < 0 || delay < 0 {
		return fmt.Errorf("times and delay: must not be negative")
	}
	return nil
}

// Rule is a pointer to a script S. Scope is the token that the script is for ("": every
// one without a script of its own), and how many requests it is good for (0: all).
type Rule[S any] interface {
	*S
	Validate() error
	Scope() (token string, times *int)
}

// ScriptList is a list of scripts. Its methods are safe for concurrent use.
type ScriptList[S any, R Rule[S]] struct {
	mu   sync.Mutex
	list []R
}

// Scripts is a list of Scripts.
type Scripts = ScriptList[Script, *Script]

// Add appends scripts. A request uses the first one of its token, or else the first one
// for every token, until that has been used as often as it is good for.
func (s *ScriptList[S, R]) Add(scripts ...S) error {
	for i := range scripts {
		if err := R(&scripts[i]).Validate(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sc := range scripts {
		s.list = append(s.list, &sc)
	}
	return nil
}

// List returns the scripts that are not used up.
func (s *ScriptList[S, R]) List() []S {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]S, 0, len(s.list))
	for _, sc := range s.list {
		out = append(out, *sc)
	}
	return out
}

// Clear forgets every script.
func (s *ScriptList[S, R]) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = nil
}

// Next takes the script for a request of token.
func (s *ScriptList[S, R]) Next(token string) (next S) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := func(token string) int {
		return slices.IndexFunc(s.list, func(sc R) bool { t, _ := sc.Scope(); return t == token })
	}
	i := of(token)
	if i < 0 {
		i = of("")
	}
	if i < 0 {
		return next
	}
	next = *s.list[i]
	switch _, times := s.list[i].Scope(); {
	case *times == 1:
		s.list = slices.Delete(s.list, i, i+1)
	case *times > 1:
		*times--
	}
	return next
}

// Play runs the script for a request. process is what the server does with a
// request that it accepts; it is called unless the script refuses the request. done
// reports that the answer has been written.
func (sc Script) Play(w http.ResponseWriter, r *http.Request, process func()) (status int, done bool) {
	if sc.Delay > 0 {
		timer := time.NewTimer(time.Duration(sc.Delay))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		}
	}
	switch sc.Action {
	case ActionHang:
		<-r.Context().Done()
		return 0, true
	case ActionSilence:
		silenceConn(r)
		<-r.Context().Done() // the client gives the connection up
		return 0, true
	case ActionReset:
		panic(http.ErrAbortHandler) // net/http resets the stream and logs nothing
	case ActionDrop:
		process()
		panic(http.ErrAbortHandler)
	}
	if sc.RetryAfter != "" {
		w.Header().Set("Retry-After", sc.RetryAfter)
	}
	if sc.Status == 0 {
		process()
		return 0, false
	}
	if sc.Status < 300 {
		process()
	}
	w.WriteHeader(sc.Status)
	_, _ = w.Write([]byte(sc.Body)) // the client is gone
	return sc.Status, true
}

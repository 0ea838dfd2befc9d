package apnssim

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/internal/simkit"
)

// Action is how a scripted request ends.
type Action string

// The actions. Apart from ActionDrop none of those without an answer shows the
// notification.
const (
	ActionAnswer  Action = ""        // with the script's status, or as Apple would
	ActionReset   Action = "reset"   // the stream is reset (INTERNAL_ERROR)
	ActionRefuse  Action = "refuse"  // the stream is refused (REFUSED_STREAM): not looked at
	ActionGoAway  Action = "goaway"  // GOAWAY that names the stream before as the last one
	ActionHang    Action = "hang"    // no answer to this request, ever
	ActionSilence Action = "silence" // the connection goes dead without a word
	ActionDrop    Action = "drop"    // accepted, but the connection is cut before the answer
)

// Script says how to treat requests that pass all checks. In JSON the names are
// as in the tags, and delay is a Go duration ("50ms").
type Script struct {
	Token      string        `json:"token,omitempty"`       // hex; "": every token without a script of its own
	Status     int           `json:"status,omitempty"`      // 0: as Apple would answer
	Reason     string        `json:"reason,omitempty"`      // with Status; with goaway, the reason in its debug data
	Timestamp  int64         `json:"timestamp,omitempty"`   // ms since 1970, for 410
	RetryAfter string        `json:"retry_after,omitempty"` // the header, as it is sent
	Body       string        `json:"body,omitempty"`        // in place of Apple's JSON
	Times      int           `json:"times,omitempty"`       // requests it is good for; 0: all
	Delay      time.Duration `json:"-"`                     // before the action
	Action     Action        `json:"action,omitempty"`
}

type scriptJSON Script

// MarshalJSON implements json.Marshaler.
func (s Script) MarshalJSON() ([]byte, error) {
	v := struct {
		scriptJSON
		Delay string `json:"delay,omitempty"`
	}{scriptJSON: scriptJSON(s)}
	if s.Delay > 0 {
		v.Delay = s.Delay.String()
	}
	return json.Marshal(v)
}

// UnmarshalJSON implements json.Unmarshaler. Unknown fields are errors.
func (s *Script) UnmarshalJSON(b []byte) error {
	var v struct {
		scriptJSON
		Delay string `json:"delay"`
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return err
	}
	*s = Script(v.scriptJSON)
	if v.Delay != "" {
		var err error
		if s.Delay, err = time.ParseDuration(v.Delay); err != nil {
			return fmt.Errorf("delay: %w", err)
		}
	}
	return nil
}

// Validate implements simkit.Rule.
func (s *Script) Validate() error {
	switch s.Action {
	case ActionAnswer, ActionReset, ActionRefuse, ActionGoAway, ActionHang, ActionSilence, ActionDrop:
	default:
		return fmt.Errorf("action: must be one of reset, refuse, goaway, hang, silence, drop, or left out; got %q", s.Action)
	}
	return simkit.ValidScript(s.Status, s.Times, s.Delay)
}

// Scope implements simkit.Rule.
func (s *Script) Scope() (token string, times *int) { return strings.ToLower(s.Token), &s.Times }

// Script adds scripts behind those there are. For a request the first one of its
// token is used, or else the first one for every token, until it has been used
// Times times. It panics on a script that the control API would refuse.
func (s *Server) Script(scripts ...Script) {
	if err := s.scripts.Add(scripts...); err != nil {
		panic("apnssim: " + err.Error())
	}
}

// Scripts lists the scripts that are not used up.
func (s *Server) Scripts() []Script { return s.scripts.List() }

// ClearScripts forgets all scripts.
func (s *Server) ClearScripts() { s.scripts.Clear() }

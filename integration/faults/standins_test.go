package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/fallback/fcmsim"
	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
	"github.com/heartline-mqtt/heartline/internal/credentials"
)

// standIn is a notification server other than Apple's, as a row needs it.
type standIn struct {
	name     string
	start    func(w *World) error
	register func(w *World, i int) (member, token string, err error) // a registration of its own for the ith device
	script   func(w *World, scripts ...fcmsim.Script) error
	clear    func(w *World)
}

var google = standIn{
	name:  "FCM",
	start: func(w *World) error { return w.startGoogle(fcmsim.Options{}) },
	register: func(_ *World, i int) (string, string, error) {
		token := fmt.Sprintf("fcm-token:%07d", i)
		return fmt.Sprintf(`{"fcm":{"token":%q}}`, token), token, nil
	},
	script: func(w *World, scripts ...fcmsim.Script) error { return w.Google.Scripts.Add(scripts...) },
	clear:  func(w *World) { w.Google.Scripts.Clear() },
}

var browsers = standIn{
	name:     "Web Push",
	start:    func(w *World) error { return w.startBrowsers() },
	register: func(w *World, _ int) (string, string, error) { return w.subscribe() },
	script:   func(w *World, scripts ...fcmsim.Script) error { return w.Browsers.Scripts.Add(scripts...) },
	clear:    func(w *World) { w.Browsers.Scripts.Clear() },
}

// fid is an installation ID of FCM for the ith device.
func fid(i int) (member, token string) {
	token = fmt.Sprintf("fid-%018d", i)
	return fmt.Sprintf(`{"fcm":{"fid":%q}}`, token), token
}

func (w *World) subscribe() (member, token string, err error) {
	sub, err := w.Browsers.Subscribe("")
	if err != nil {
		return "", "", err
	}
	b, err := json.Marshal(map[string]any{"webpush": sub})
	return string(b), webpushsim.Token(sub.Endpoint), err
}

// env adds to the program's environment, before its start, a section of the fallback
// with short times.
func (w *World) env(section, ca string, capem []byte, more ...string) error {
	file := filepath.Join(w.dir, ca)
	if err := os.WriteFile(file, capem, 0o600); err != nil {
		return err
	}
	prefix := "HEARTLINE_FALLBACK_" + section + "_"
	for _, s := range append([]string{"ENABLED=true", "CA_FILE=" + file, "TIMEOUT=2s", "RETRY_INITIAL=100ms", "RETRY_MAX=1s"}, more...) {
		w.Program.env = append(w.Program.env, prefix+s)
	}
	return nil
}

// startGoogle starts the stand-in for FCM and its token endpoint.
func (w *World) startGoogle(o fcmsim.Options) error {
	o.ControlAddress, o.MaxReceived = "off", 2_000_000
	var err error
	if w.Google, err = fcmsim.Start(o); err != nil {
		return err
	}
	w.closer = append(w.closer, func() { _ = w.Google.Close() })
	return w.env("FCM", "fcm-ca.pem", w.Google.CAPEM(), "ENDPOINT="+w.Google.URL(), "SERVICE_ACCOUNT="+string(w.Google.ServiceAccount()))
}

// startBrowsers starts the stand-in for a push service and its browsers.
func (w *World) startBrowsers() error {
	key, err := credentials.GenerateVAPIDKey()
	if err != nil {
		return err
	}
	if w.Browsers, err = webpushsim.Start(webpushsim.Options{ControlAddress: "off", MaxReceived: 2_000_000}); err != nil {
		return err
	}
	w.closer = append(w.closer, func() { _ = w.Browsers.Close() })
	return w.env("WEBPUSH", "webpush-ca.pem", w.Browsers.CAPEM(), "KEY="+string(key), "CONTACT=mailto:ops@example.com", `ALLOW_PRIVATE=["127.0.0.0/8"]`)
}

// taken is one request that a stand-in has received, of whichever server.
type taken struct {
	at                        time.Time
	token, urgency, tag       string
	id                        string // the notification's
	ok, unanswered, dismissal bool
}

// taken lists the requests of both, in the order of arrival.
func (w *World) taken() (all []taken) {
	add := func(t taken, text []byte) {
		var p struct {
			ID      string
			Dismiss bool `json:"dismiss"`
		}
		if json.Unmarshal(text, &p) == nil {
			t.id, t.dismissal = p.ID, p.Dismiss
		}
		all = append(all, t)
	}
	if w.Google != nil {
		for _, r := range w.Google.Received("") {
			var m struct {
				Message struct {
					Data    struct{ Heartline string }
					Android struct{ Priority string }
				}
			}
			_ = json.Unmarshal(r.Message, &m) // a request that is none of ours has no ID
			add(taken{at: r.Time, token: r.Token, urgency: m.Message.Android.Priority, tag: r.Tag, ok: r.Status == http.StatusOK, unanswered: r.Unanswered}, []byte(m.Message.Data.Heartline))
		}
	}
	if w.Browsers != nil {
		for _, r := range w.Browsers.Received("") {
			var m struct{ Heartline json.RawMessage }
			_ = json.Unmarshal(r.Message, &m) // likewise
			add(taken{at: r.Time, token: r.Token, urgency: r.Urgency, tag: r.Tag, ok: r.Status == http.StatusCreated, unanswered: r.Unanswered}, m.Heartline)
		}
	}
	slices.SortStableFunc(all, func(a, b taken) int { return a.at.Compare(b.at) })
	return all
}

// ledger is what stand-ins other than Apple's took, in the form of Apple's: the checker knows one. FCM
// and Web Push have no apns-id. Two requests that were taken for a delivery are one push
// if the first was not answered, or the program was killed between them: nobody could know
// that it had been taken.
func ledger(requests []taken, tokens map[string]string, lives []Life) (all []apnssim.Received) {
	type state struct {
		pushes int
		last   time.Time // of the last that was taken and answered
	}
	known := map[deliveryKey]*state{}
	for _, t := range requests {
		k := deliveryKey{t.id, tokens[t.token]}
		s := known[k]
		if s == nil {
			s = &state{}
			known[k] = s
		}
		if t.ok && !s.last.IsZero() && !slices.ContainsFunc(lives, func(l Life) bool { return l.Killed && l.End.After(s.last) && l.End.Before(t.at) }) {
			s.pushes++
			s.last = time.Time{}
		}
		r := apnssim.Received{
			Time: t.at, Token: t.token, APNsID: fmt.Sprintf("%s/%s/%d", k.device, k.id, s.pushes), Priority: t.urgency, CollapseID: t.tag,
			Payload: fmt.Appendf(nil, `{"heartline":{"id":%q}}`, t.id),
		}
		if t.dismissal {
			r.PushType = "background"
		}
		if t.ok {
			r.Status = http.StatusOK
			if s.last = t.at; t.unanswered {
				s.last, r.Status, r.Action = time.Time{}, 0, apnssim.ActionDrop
			}
		}
		all = append(all, r)
	}
	return all
}

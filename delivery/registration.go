package delivery

import (
	"slices"
	"strings"
	"time"
)

// The notification servers as a Registration names them.
const (
	ServerAPNs    = "apns"    // Apple Push Notification service
	ServerFCM     = "fcm"     // Firebase Cloud Messaging
	ServerWebPush = "webpush" // a browser's push service (RFC 8030)
)

// KindAlert is the kind of registration that a notification goes to unless it
// names another.
const KindAlert = "alert"

// KindRule says which kinds there are (contract §1).
const KindRule = "must be alert, voip, liveactivity: and a name, pushtotalk, location, widgets or complication"

// liveActivity begins the kind of a live activity, which has a name.
const liveActivity = "liveactivity:"

// ValidKind reports whether a registration can be of a kind. All but KindAlert are Apple's.
func ValidKind(kind string) bool {
	switch kind {
	case KindAlert, "voip", "pushtotalk", "location", "widgets", "complication":
		return true
	}
	name, activity := strings.CutPrefix(kind, liveActivity)
	return activity && name != ""
}

// The forms of an FCM registration.
const (
	FormToken = "token" // a registration token
	FormFID   = "fid"   // a Firebase installation ID
)

// Registration is how a notification server reaches a device (contract §1).
// Token, P256dh and Auth are secrets: String leaves them out.
type Registration struct {
	Server       string // ServerAPNs, ServerFCM or ServerWebPush
	App          string // APNs: the topic; FCM: the project ID; Web Push: the first characters of the application server key; "": the default of the configuration
	Environment  string // APNs: "production" or "sandbox", "": the default; "" elsewhere
	Kind         string // KindAlert, "voip", "liveactivity:…", "pushtotalk", "location", "widgets", "complication"
	Token        string // APNs: lower-case hex; FCM: token or installation ID; Web Push: the endpoint URL
	Form         string // FCM: FormToken or FormFID; "" elsewhere
	P256dh, Auth []byte // Web Push: the subscription's keys, 65 and 16 bytes
	RegisteredAt time.Time
	Suspended    *Suspension // nil: in use
	// Ended is not nil once a notification server has proved that the registration
	// is no more. Token, P256dh and Auth are empty then; the rest says what there
	// was.
	Ended *Ending
	// Claims says that a write takes the token from whichever device holds it. It is set
	// in a Batch alone, and not stored.
	Claims bool
}

// Suspension says why a registration is not asked for now. A slip in the
// configuration can suspend every registration of an app, so that none is deleted.
type Suspension struct {
	Since     time.Time
	Reason    string    // the server's word, such as "BadDeviceToken"
	Config    string    // fingerprint of the app's configuration at that time, without secrets
	NextProbe time.Time // from then on one delivery may try again
}

// Ending says why a registration is no more.
type Ending struct {
	At     time.Time
	Reason string // the server's word, such as "410 Unregistered"
}

// Usable reports whether a push may be sent to r at the time now: it has not ended,
// and is in use or due for a probe. A nil r is not usable.
func (r *Registration) Usable(now time.Time) bool {
	// Round(0): the wall clock decides, as for the deadline of whoever waits for the probe
	// (clock.at). By the monotonic one that deadline would come again and again after a step.
	return r != nil && r.Ended == nil && (r.Suspended == nil || !now.Round(0).Before(r.Suspended.NextProbe))
}

// SameAddress reports whether r and o reach the same app on the same device.
func (r *Registration) SameAddress(o *Registration) bool {
	return r.Server == o.Server && r.App == o.App && r.Environment == o.Environment && r.Token == o.Token
}

// String names r without its secrets.
func (r Registration) String() string {
	s := r.Server + " " + r.App + " " + r.Kind
	if r.Environment != "" {
		s += " " + r.Environment
	}
	return s
}

// Clone returns a copy that shares nothing with r.
func (r Registration) Clone() Registration {
	r.P256dh, r.Auth = slices.Clone(r.P256dh), slices.Clone(r.Auth)
	if r.Suspended != nil {
		s := *r.Suspended
		r.Suspended = &s
	}
	if r.Ended != nil {
		e := *r.Ended
		r.Ended = &e
	}
	return r
}

// Device is one entry of the registry (contract §1).
type Device struct {
	ID            string
	Account       string
	Registrations []Registration // at most one of each kind, in the order of their first registration
	// ReportsApp: the device has reported an app state at least once, so that
	// its messages wait for the foreground.
	ReportsApp bool
	SeenAt     time.Time // last sign of life (contract §3)
	Via        string    // "" or ViaMQTT: an MQTT client; ViaXMPP: an XMPP client
	Address    string    // ViaXMPP: the full JID
	Foreground bool      // ViaXMPP: the session at Address has last reported its app there
	Unread     Unread    // what badge "auto" counts; it outlives the history of what was counted
}

// How a device is connected.
const (
	ViaMQTT = "mqtt"
	ViaXMPP = "xmpp"
)

// Registration returns the device's registration of a kind, nil for none. It may
// have ended: see Usable.
func (d *Device) Registration(kind string) *Registration {
	for i := range d.Registrations {
		if d.Registrations[i].Kind == kind {
			return &d.Registrations[i]
		}
	}
	return nil
}

// SetRegistration puts r in the place of the device's registration of its kind. One over
// MaxRegistrations takes the place of a live activity: of the one that ended first, or, if
// none has ended, of the one that was registered first.
func (d *Device) SetRegistration(r Registration) {
	if old := d.Registration(r.Kind); old != nil {
		*old = r
		return
	}
	for len(d.Registrations) >= MaxRegistrations {
		oldest := -1
		for i := range d.Registrations {
			if x := &d.Registrations[i]; strings.HasPrefix(x.Kind, liveActivity) && (oldest < 0 || x.olderThan(&d.Registrations[oldest])) {
				oldest = i
			}
		}
		if oldest < 0 {
			break
		}
		d.Registrations = slices.Delete(d.Registrations, oldest, oldest+1)
	}
	d.Registrations = append(d.Registrations, r)
}

// olderThan orders the registrations that make room: those that have ended come first.
func (r *Registration) olderThan(o *Registration) bool {
	switch {
	case r.Ended != nil && o.Ended != nil:
		return r.Ended.At.Before(o.Ended.At)
	case r.Ended != nil || o.Ended != nil:
		return r.Ended != nil
	}
	return r.RegisteredAt.Before(o.RegisteredAt)
}

// RemoveRegistrations removes every registration that match returns true for, and
// reports whether there was one.
func (d *Device) RemoveRegistrations(match func(*Registration) bool) bool {
	n := len(d.Registrations)
	d.Registrations = slices.DeleteFunc(d.Registrations, func(r Registration) bool { return match(&r) })
	removed := len(d.Registrations) < n
	if len(d.Registrations) == 0 {
		d.Registrations = nil
	}
	return removed
}

// Written returns what a Batch's entry for d leaves in the store, where stored is now;
// nil: nothing. The entry of another account stays as it is: an account gets a device only
// when nobody holds it, or the holder's has been removed. Of two accounts that register one
// device at the same time at two nodes, the first to be written has it. A token that the entry
// does not claim stays only if the stored entry has it: whoever wrote it may not have heard
// yet that another device has claimed the token.
func (d Device) Written(stored *Device) Device {
	if stored != nil && stored.Account != d.Account {
		return stored.Clone()
	}
	w := d.Clone()
	w.RemoveRegistrations(func(r *Registration) bool {
		held := r.Token == "" || r.Claims || stored != nil &&
			slices.ContainsFunc(stored.Registrations, func(s Registration) bool { return s.address() == r.address() })
		return !held
	})
	for i := range w.Registrations {
		w.Registrations[i].Claims = false
	}
	return w
}

// Clone returns a copy that shares nothing with d.
func (d Device) Clone() Device {
	if d.Registrations != nil {
		list := make([]Registration, len(d.Registrations))
		for i := range list {
			list[i] = d.Registrations[i].Clone()
		}
		d.Registrations = list
	}
	d.Unread = slices.Clone(d.Unread)
	return d
}

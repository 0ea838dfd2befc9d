package delivery

import (
	"encoding/json"
	"errors"
	"time"
)

// Seq is a notification's place in the order of acceptance. It is unique in a
// store and only grows: a hybrid of wall clock (nanoseconds since 1970) and
// counter, so that neither a clock step nor a restart can turn the order round.
type Seq uint64

// AckKind is what a device says of a notification (contract §1, "ack").
type AckKind uint8

const (
	// AckReceived is the PUBACK with a success reason code.
	AckReceived AckKind = iota + 1
	// AckDisplayed is the device's word on its acks topic that it has shown it.
	AckDisplayed
)

// Urgency says how soon a notification server should deliver.
type Urgency uint8

const (
	// UrgencyHigh is delivered at once (APNs priority 10).
	UrgencyHigh Urgency = iota + 1
	// UrgencyNormal may wait for the device's convenience (APNs priority 5).
	UrgencyNormal
)

// Notification is what a backend asked to have delivered. It does not change
// once it is accepted; what changes is the state of its deliveries.
type Notification struct {
	Seq         Seq
	ID          string // 1 to 64 of A-Za-z0-9._:-
	Account     string
	Title       string
	Body        string
	Badge       *int
	Sound       string
	Category    string
	CollapseKey string
	Ack         AckKind // the ack that makes a delivery `acked`
	Urgency     Urgency
	Fallback    bool // false: the channel alone, never a push
	HasMessage  bool // Data was given; it is kept apart, see Reader.Data
	AcceptedAt  time.Time
	ExpiresAt   time.Time
	Devices     []string // one delivery each, in the order of the registry
	Fingerprint uint64   // of the content, to tell a repeat from a conflict
}

// State is where a delivery stands (contract §2). Who moves it on is said at
// each; what a crash in it means, too.
type State uint8

const (
	// StatePending is accepted and durable, not yet tried. The core moves
	// it on at once, or as soon as the device's window has room. A crash: tried
	// after the restart.
	StatePending State = iota + 1
	// StatePublished has its pseudo-notification on the channel and the ack
	// window running. Moved on by the ack or by the window. A crash: a second
	// copy with the same ID.
	StatePublished
	// StatePushing has a push under way or to be tried again. Moved on by the
	// notification server's answer or by the channel. A crash: asked again with
	// the same apns-id and apns-collapse-id.
	StatePushing
	// StatePushed has its push accepted and the fallback window running. Moved
	// on by an ack, by the device's return or by the window. A crash: the window
	// goes on from its recorded end.
	StatePushed
	// StateWaiting has nothing under way. Moved on by the device's return. A
	// crash changes nothing.
	StateWaiting
	// StateAcked is final: the asked-for ack has come.
	StateAcked
	// StateExpired is final: the TTL ran out.
	StateExpired
	// StateSuperseded is final: a newer notification took its collapse key.
	StateSuperseded
	// StateCancelled is final: a backend, or the loss of the device, ended it.
	StateCancelled
)

// Final reports whether no transition leaves s.
func (s State) Final() bool { return s >= StateAcked }

var stateNames = [...]string{"", "pending", "published", "pushing", "pushed", "waiting", "acked", "expired", "superseded", "cancelled"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// ParseState is the inverse of State.String; ok is false for any other text.
func ParseState(name string) (s State, ok bool) {
	for i, n := range stateNames {
		if i > 0 && n == name {
			return State(i), true
		}
	}
	return 0, false
}

// EventKind is a line of the timeline (contract §2, "Events").
type EventKind uint8

// The events, in the order in which a delivery may see them. The numbers are
// stored: append, never renumber.
const (
	EventAccepted EventKind = iota + 1
	EventPublished
	EventRedelivered
	EventAckTimeout
	EventChannelLost
	EventNacked
	EventPushRequested
	EventPushed
	EventPushFailed
	EventPushRetry
	EventTokenRemoved
	EventFallbackTimeout
	EventWaiting
	EventReceived
	EventDisplayed
	EventMessageSent
	EventMessageReceived
	EventExpired
	EventSuperseded
	EventCancelled
)

var eventNames = [...]string{
	"", "accepted", "published", "redelivered", "ack_timeout", "channel_lost", "nacked",
	"push_requested", "pushed", "push_failed", "push_retry", "token_removed", "fallback_timeout",
	"waiting", "received", "displayed", "message_sent", "message_received", "expired", "superseded", "cancelled",
}

func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return "unknown"
}

// Event is one line of a notification's timeline.
type Event struct {
	Seq     Seq    // the notification
	Number  uint64 // orders the events of a store; unique, only grows
	Time    time.Time
	Kind    EventKind
	Device  string
	Attempt int    // publishes so far; 0 before the first
	Detail  string // for people: a reason, "late", a push server's answer
}

// MessageState is how far the full message of a delivery has come (contract
// §2, "The message").
type MessageState uint8

const (
	// MessageNone: the notification has no data.
	MessageNone MessageState = iota
	// MessageHeld: kept until the delivery is acked and the app is in the
	// foreground.
	MessageHeld
	// MessageSent: published, its PUBACK outstanding. A crash: sent again.
	MessageSent
	// MessageReceived: the device's PUBACK has come.
	MessageReceived
)

// Record is a delivery that is not finished, as the store keeps it: what the
// core needs to go on after a restart, and no content.
type Record struct {
	Seq          Seq
	Device       string
	State        State
	Attempts     int
	PushAttempts int
	PushAccepted bool    // at most one accepted push (guarantee 2)
	PushRefused  bool    // refused for good: never asked again
	Received     bool    // the PUBACK came, `displayed` is still asked for
	Ack          AckKind // copied from the notification, so that a start reads no content
	Fallback     bool    // likewise
	Message      MessageState
	CollapseKey  string    // likewise
	Deadline     time.Time // end of the window or of the backoff; zero: none
	ExpiresAt    time.Time
}

// Key names one delivery.
type Key struct {
	Seq    Seq
	Device string
}

// ServerAPNs is Apple's push service as a PushToken names it.
const ServerAPNs = "apns"

// PushToken is where a notification server finds a device.
type PushToken struct {
	Server       string // ServerAPNs; another server brings its own name
	Token        string // APNs: lower-case hex
	App          string // APNs: the topic, a bundle ID; never empty once registered
	Environment  string // APNs: "production" or "sandbox"
	RegisteredAt time.Time
}

// Device is one entry of the registry (contract §1).
type Device struct {
	ID      string
	Account string
	Push    *PushToken // nil: none
	// ReportsApp: the device has reported an app state at least once, so that
	// its messages wait for the foreground.
	ReportsApp bool
	SeenAt     time.Time // last subscription, token or PUT; it is forgotten 60 days after
}

// Acceptance is a notification and its content on the way into the store.
type Acceptance struct {
	Notification *Notification
	Data         json.RawMessage // nil: none
}

// Batch is a set of changes that a store makes durable together or not at all.
// Every change states an outcome (put this, remove that), so that applying a
// batch twice is the same as applying it once. Within a batch the kinds apply in
// the order of the fields.
type Batch struct {
	Accept []Acceptance // content, its ID, and a pending Record per device
	Update []Record     // replaces the Record of a delivery that is not finished
	Events []Event      // appended to timelines
	Finish []Finish     // removes the Record: the delivery is over

	PutDevices    []Device // replaces registry entries, moving their push tokens
	RemoveDevices []string // forgets them; deliveries are finished separately

	// Sync asks that the batch be on the disk, not only in the page cache,
	// before its commit returns.
	Sync bool
}

// Finish ends a delivery in the store.
type Finish struct {
	Key
	At time.Time // its history is kept for store.history from here
}

// Merge appends the changes of o to b.
func (b *Batch) Merge(o *Batch) {
	b.Accept = append(b.Accept, o.Accept...)
	b.Update = append(b.Update, o.Update...)
	b.Events = append(b.Events, o.Events...)
	b.Finish = append(b.Finish, o.Finish...)
	b.PutDevices = append(b.PutDevices, o.PutDevices...)
	b.RemoveDevices = append(b.RemoveDevices, o.RemoveDevices...)
	b.Sync = b.Sync || o.Sync
}

// Empty reports whether b changes nothing.
func (b *Batch) Empty() bool {
	return len(b.Accept) == 0 && len(b.Update) == 0 && len(b.Events) == 0 && len(b.Finish) == 0 &&
		len(b.PutDevices) == 0 && len(b.RemoveDevices) == 0
}

// Errors of the core that its callers tell apart.
var (
	// ErrNotFound: no such notification, device or account.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the ID was used before for other content.
	ErrConflict = errors.New("id already used with other content")
	// ErrTooMuchOutstanding: every addressed device has as many unfinished
	// deliveries as delivery.max_outstanding_per_device allows.
	ErrTooMuchOutstanding = errors.New("too much outstanding")
	// ErrInvalid: the request breaks a rule; the text says which.
	ErrInvalid = errors.New("invalid")
	// ErrUnavailable: the store does not take changes now; nothing was accepted.
	ErrUnavailable = errors.New("store unavailable")
	// ErrChannelClosed: the channel was closed before it could be brought up.
	ErrChannelClosed = errors.New("channel closed")
	// ErrStopped: the core has been stopped.
	ErrStopped = errors.New("stopped")
)

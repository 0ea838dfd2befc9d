package delivery

import (
	"encoding/json"
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
	// AckRead is the device's word that its user has seen it (see Core.AckByID). No
	// notification asks for it.
	AckRead
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

	Subtitle  string
	Thread    string // shown as one conversation; "": the account
	Link      string // a URL or deep link that a tap opens
	Image     string // an https URL
	Level     Level  // 0: LevelActive
	Localized *Localized
	Extra     json.RawMessage // a JSON object of the app's own, in every copy
	BadgeAuto bool            // the server counts; Badge is nil
	AckWindow *time.Duration  // of the first attempt; nil: delivery.ack_window
	TTLZero   bool            // ttl was 0: one attempt and no more
	Kind      string          // of the registration that a push goes to; "": KindAlert
	PushType  string          // APNs: apns-push-type; "": alert. Any other is always pushed
	Overlay   *Overlay        // what only one notification server knows
	Mark      *RequestMark    // of a publish over MQTT without an id
	Narrowed  bool            // to some of the devices that the account had
	Held      bool            // accepted for an account without devices
	AckGiven  bool            // the request named Ack, which is no default
	TTLGiven  bool            // likewise ExpiresAt
}

// RegistrationKind is the kind of registration that a push of n goes to.
func (n *Notification) RegistrationKind() string {
	if n.Kind == "" {
		return KindAlert
	}
	return n.Kind
}

// Level is how much a notification may disturb (Apple's interruption levels). The
// numbers are stored.
type Level uint8

// The levels.
const (
	LevelPassive Level = iota + 1
	LevelActive
	LevelTimeSensitive
	LevelCritical
)

var levelNames = [...]string{"", "passive", "active", "time-sensitive", "critical"}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return "unknown"
}

// Localized names texts that the app holds in its user's language.
type Localized struct {
	TitleKey     string   `json:"title_key,omitempty"`
	TitleArgs    []string `json:"title_args,omitempty"`
	SubtitleKey  string   `json:"subtitle_key,omitempty"`
	SubtitleArgs []string `json:"subtitle_args,omitempty"`
	BodyKey      string   `json:"body_key,omitempty"`
	BodyArgs     []string `json:"body_args,omitempty"`
}

// shows reports whether there is a text to show.
func (l *Localized) shows() bool {
	return l != nil && (l.TitleKey != "" || l.SubtitleKey != "" || l.BodyKey != "")
}

// Overlay is what a backend puts over the requests that Heartline makes, a JSON
// object each; nil: nothing.
type Overlay struct {
	APNs    json.RawMessage
	FCM     json.RawMessage
	WebPush json.RawMessage
}

// RequestMark tells the publish of a notification from its repetition (MQTT 5
// §4.4): the client may send it again with DUP, the same packet ID and payload.
type RequestMark struct {
	Client   string
	PacketID uint16
	Payload  uint64 // hash of the payload
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
	EventTokenSuspended
	EventDismissalSent
	EventDismissed
	EventRead
)

var eventNames = [...]string{
	"", "accepted", "published", "redelivered", "ack_timeout", "channel_lost", "nacked",
	"push_requested", "pushed", "push_failed", "push_retry", "token_removed", "fallback_timeout",
	"waiting", "received", "displayed", "message_sent", "message_received", "expired", "superseded", "cancelled",
	"token_suspended", "dismissal_sent", "dismissed", "read",
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
	PushAccepted bool        // at most one accepted push (guarantee 2)
	PushRefused  RefusedKind // why none is asked for
	Received     bool        // the PUBACK came, `displayed` is still asked for
	Ack          AckKind     // copied from the notification, so that a start reads no content
	Fallback     bool        // likewise
	Message      MessageState
	CollapseKey  string    // likewise
	Deadline     time.Time // end of the window or of the backoff; zero: none
	ExpiresAt    time.Time
	Urgency      Urgency        // copied; 0: UrgencyHigh
	AckWindow    *time.Duration // likewise; nil: delivery.ack_window
	TTLZero      bool           // likewise
	Kind         string         // likewise: of the registration; "": KindAlert
	Dismissed    bool           // taken off the screen
	Read         bool           // the device has said `read`
}

// NewRecord is what a store keeps of a delivery that has just been accepted.
func NewRecord(n *Notification, device string) Record {
	return Record{
		Seq: n.Seq, Device: device, State: StatePending, Ack: n.Ack, Fallback: n.Fallback,
		Message: pick(n.HasMessage, MessageHeld, MessageNone), CollapseKey: n.CollapseKey, ExpiresAt: n.ExpiresAt,
		Urgency: n.Urgency, AckWindow: n.AckWindow, TTLZero: n.TTLZero, Kind: n.Kind,
	}
}

// RefusedKind says why a push was refused, and so when it is asked for again. The
// numbers are stored.
type RefusedKind uint8

const (
	// RefusedNot: it was not.
	RefusedNot RefusedKind = iota
	// RefusedContent: the server cannot take this content. Final.
	RefusedContent
	// RefusedRegistration: the registration has ended or is suspended. Asked for
	// again when another one comes.
	RefusedRegistration
	// RefusedApp: the app was not configured, or its server off. Asked for again
	// when that changes.
	RefusedApp
)

// Key names one delivery.
type Key struct {
	Seq    Seq
	Device string
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
	// Assign names the device of a Record that has none, and in
	// Notification.Devices, too: a notification was held for an account without
	// devices. Without such a Record it changes nothing.
	Assign []Key
	Update []Record // replaces the Record of a delivery that is not finished
	Events []Event  // appended to timelines
	Finish []Finish // removes the Record: the delivery is over

	// PutDevices replaces registry entries, moving the tokens that they claim: see
	// Device.Written. RemoveDevices forgets entries; their deliveries are finished
	// separately. A batch does not name a device in both.
	PutDevices    []Device
	RemoveDevices []DeviceKey

	PutDismissals    []Dismissal // by device and Seq; replaces
	RemoveDismissals []Key

	// Erase removes notifications with everything of theirs: content, data, ID,
	// timeline. Their Records count as finished.
	Erase []Seq

	// Sync asks that the batch be on the disk, not only in the page cache,
	// before its commit returns.
	Sync bool

	// InDoubt, unless it is nil, is called at most once, before the commit's done, where
	// the store will not know for a while whether a batch that accepts took effect. Like
	// done it must not block.
	InDoubt func()
}

// DeviceKey names a registry entry. That of another account is another entry.
type DeviceKey struct{ ID, Account string }

// Finish ends a delivery in the store.
type Finish struct {
	Key
	At       time.Time // its history is kept for store.history from here
	State    State     // the final one
	Attempts int       // publishes
	Pushed   bool      // a notification server has accepted a push
}

// Merge appends the changes of o to b.
func (b *Batch) Merge(o *Batch) {
	b.Accept = append(b.Accept, o.Accept...)
	b.Assign = append(b.Assign, o.Assign...)
	b.Update = append(b.Update, o.Update...)
	b.Events = append(b.Events, o.Events...)
	b.Finish = append(b.Finish, o.Finish...)
	b.PutDevices = append(b.PutDevices, o.PutDevices...)
	b.RemoveDevices = append(b.RemoveDevices, o.RemoveDevices...)
	b.PutDismissals = append(b.PutDismissals, o.PutDismissals...)
	b.RemoveDismissals = append(b.RemoveDismissals, o.RemoveDismissals...)
	b.Erase = append(b.Erase, o.Erase...)
	b.Sync = b.Sync || o.Sync
}

// Empty reports whether b changes nothing.
func (b *Batch) Empty() bool {
	return len(b.Accept) == 0 && len(b.Update) == 0 && len(b.Events) == 0 && len(b.Finish) == 0 &&
		len(b.PutDevices) == 0 && len(b.RemoveDevices) == 0 && len(b.Erase) == 0 && len(b.Assign) == 0 &&
		len(b.PutDismissals) == 0 && len(b.RemoveDismissals) == 0
}

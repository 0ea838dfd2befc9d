package delivery

import (
	"context"
	"encoding/json"
	"time"
)

// Outbox is the durable store as the core sees it. Package outbox makes one out
// of an engine.
type Outbox interface {
	Reader

	// Commit queues b, which must not change any more, behind every batch
	// committed before it, and returns. done is called once, in the order of the
	// commits, when b is in the store (on the disk if b.Sync); it must not block.
	// A refusal may come sooner. Many batches share one write.
	//
	// A batch that accepts is refused when the store fails: done gets an error
	// that wraps ErrUnavailable and nothing of it will ever take effect. Every
	// other batch describes the past: it is kept, and tried
	// again until the store takes it or is closed (done then gets ErrStopped). An
	// empty batch is refused, too, while the store fails: it only asks whether all
	// before it is in, and on the disk if it is to be synced.
	Commit(b *Batch, done func(error))

	// InMemory returns a notification if it is in memory, and nil otherwise. It reads
	// nothing and does not wait. The notification is shared, as Reader.Notification's.
	InMemory(seq Seq) *Notification

	// OnGroupDone sets a function that runs once after all done functions of one write,
	// or of one refusal, on the same goroutine. It replaces the function set before.
	OnGroupDone(fn func())
}

// Reader is the reading side of a store. Reads see every batch whose done has been
// called. All methods are safe for concurrent use; all return an error that wraps
// ErrNotFound for an unknown key.
type Reader interface {
	// Notification returns a notification that the callers share: none may change it.
	Notification(seq Seq) (*Notification, error)
	// Data is the message content of a notification with HasMessage.
	Data(seq Seq) (json.RawMessage, error)
	// Lookup finds a notification by its ID.
	Lookup(id string) (Seq, error)
	// Timeline returns the events of a notification by Number. It does not hold
	// EventAccepted, which Notification.AcceptedAt stands for.
	Timeline(seq Seq) ([]Event, error)
	// Deliveries returns where each delivery of a notification stands, in the order
	// of Notification.Devices.
	Deliveries(seq Seq) ([]DeliveryState, error)
	// List calls fn with notifications, newest first, beginning below `before`
	// (0: the newest), until fn returns false. account "" means every account.
	List(account string, before Seq, fn func(*Notification) bool) error

	// EventsFrom calls fn with every event of one partition behind a position, in the
	// order of their commits, until fn returns false; `at` is the event's own position. It holds
	// EventAccepted, whose Number is the Seq. The cost is that of the events read. No
	// event ever appears behind a position that was read; one may be shown twice
	// after the store has failed. Events of notifications that are pruned or erased
	// are left out, as are those older than store.history. A position that is not of
	// this store is an error that wraps ErrNotFound.
	EventsFrom(after Position, fn func(at Position, account string, e Event) bool) error
	// EventsEnd returns the place behind the newest event, with all partitions as they are
	// at one moment.
	EventsEnd() (Place, error)
	// EventsSince returns a place for ReadEvents: of the commits of a partition behind it, the
	// first has an event of t or later; those before it are older. It is found by halving, in a
	// few dozen small reads. The times of events follow the order of commits but for a moment,
	// for which a caller has to allow, and wherever the clock was set back.
	EventsSince(t time.Time) (Place, error)

	Device(id string) (*Device, error)
	// AccountDevices returns the devices of an account by ID; none is no error.
	AccountDevices(account string) ([]Device, error)
	// Devices calls fn with every registry entry whose ID is greater than after, by ID,
	// until it returns false. It reads no other entries.
	Devices(after string, fn func(*Device) bool) error
	// TokenOwner finds the device that holds a token of a server. It decides nothing:
	// who holds a token is decided by the order of the claims in PutDevices.
	TokenOwner(server, token string) (device string, err error)

	// Unfinished calls fn with every Record of a shard, by device and Seq, until it
	// returns false. The Record is reused: fn must copy it. A start reads it
	// first.
	Unfinished(of Shard, fn func(*Record) bool) error
	// Dismissals calls fn with every Dismissal of a shard, by device and Seq, until it
	// returns false. The Dismissal is reused: fn must copy it.
	Dismissals(of Shard, fn func(*Dismissal) bool) error
	// LastSeq is what a new Seq and event Number of a shard must exceed: no lower than
	// the highest ever stored for the shard, and 0 where the store is empty.
	LastSeq(of Shard) (uint64, error)
	// Totals counts deliveries over the life of the store.
	Totals() (Totals, error)
}

// Backlog is what a Core takes up when it starts (Core.StartFrom), of its shard and perhaps
// of others: a store that is asked over a network reads it for many Cores at once.
type Backlog interface {
	// LastSeq, Unfinished and Dismissals are those of Reader.
	LastSeq(of Shard) (uint64, error)
	Unfinished(of Shard, fn func(*Record) bool) error
	Dismissals(of Shard, fn func(*Dismissal) bool) error
	// Accounts calls fn with all devices of accounts that have something unfinished. The Core
	// reads those that are left out.
	Accounts(of Shard, fn func(account string, devices []Device))
}

// DeliveryState is where a delivery stands, finished or not.
type DeliveryState struct {
	Device   string
	State    State
	Attempts int // publishes
	Pushed   bool
}

// Totals is the store's own account: Accepted = Finished + the Records that
// Unfinished lists, always; a difference is a lost delivery.
type Totals struct {
	Accepted uint64
	Finished uint64
}

// Channel is one connection of a device that is subscribed at QoS 1 or more to
// its notifications topic. The core holds it between Online and Offline.
type Channel interface {
	// Publish queues a packet behind those before it and returns without
	// waiting for the network. An error means that it was not queued and never
	// will be: the ack window ends at once.
	Publish(Publication) error
	// Closed reports whether the connection has ended, or another has its session.
	// Once true it stays so, and is so before another for the device is brought up.
	Closed() bool
}

// Replaceable is a Channel that hears when another connection of its device has come
// up, perhaps at another node: its own is to end.
type Replaceable interface {
	// Replaced is called with the core's mutex held. Closed is true from then on.
	Replaced()
}

// Movable is a Channel whose client can be asked to connect to another node.
type Movable interface {
	// Move ends the channel, and says so to the client where its protocol can.
	Move()
}

// Up is one stretch of a device's channel being up: from Core.Online to Offline. The
// connection reports the device's packets to it.
type Up interface {
	// Heartbeat reports a control packet from the device, other than the PUBACK of one
	// of our packets: a late PUBACK has others behind it, and a retry would double
	// their deliveries. It is cheap unless the device missed an ack: then the core
	// publishes again.
	Heartbeat()
	// SetSubscribed says whether the device is subscribed to its messages topic, and to
	// its dismissals topic.
	SetSubscribed(messages, dismissals bool)
	// SetApp reports what the device says of its app. The error wraps ErrInvalid for a
	// state that is neither AppForeground nor AppBackground.
	SetApp(state AppState) error
	// Offline says that the channel is down. Only the last Up of a device can take it
	// down: an old connection's end does not hurt the new one.
	Offline(why string)
}

// Acker is told what became of a packet to a device.
type Acker interface {
	// Acked reports the device's PUBACK with a reason code below 0x80.
	Acked(r Ref)
	// Nacked reports the device's PUBACK with a reason code of 0x80 and up, or a packet
	// that cannot be sent.
	Nacked(r Ref, reason string)
}

// Ref tells one packet to a device from all others: what its PUBACK is for. The
// Channel keeps it and calls Acked or Nacked once, or neither where the connection
// ends first.
type Ref struct {
	Seq     Seq
	Attempt uint16
	Message bool // the full message, on the messages topic; otherwise the pseudo-notification
	// Dismissal: on the dismissals topic; Seq is the dismissal's own.
	Dismissal bool
	acker     Acker
}

// For returns r with a as the one to be told what becomes of it: a relay passes the
// packet on, and the answer back.
func (r Ref) For(a Acker) Ref {
	r.acker = a
	return r
}

// Acked reports the device's PUBACK with a reason code below 0x80.
func (r Ref) Acked() { r.acker.Acked(r) }

// Nacked reports the device's PUBACK with a reason code of 0x80 and up, or a packet
// that cannot be sent.
func (r Ref) Nacked(reason string) { r.acker.Nacked(r, reason) }

// Publication is a packet that a Channel is asked to send at QoS 1. The Channel reads
// the content by Seq (Core.Notification, Core.Data), off the core's path.
type Publication struct {
	Ref
	// Content is the notification where another node has sent it along; nil: it is read by Seq.
	// Whoever does not send it at once drops it: it may be erased meanwhile.
	Content     *Notification
	ExpiresAt   time.Time // with a monotonic reading; zero: the Content has it
	Redelivery  bool      // not the first of its kind for this delivery
	Pushed      bool      // a notification server has accepted a push for it
	DismissedID string    // of a Dismissal: the ID of the notification to take away
	BadgeAuto   bool      // of a Dismissal: the notification was one with badge "auto"
	Unread      int       // with badge "auto": the number to show
}

// Pusher asks a notification server to notify a device. Package fallback
// implements it.
type Pusher interface {
	// Push takes p over and returns without waiting. done is called once with
	// the outcome. Pushes to different apps do not delay each other. ctx ends
	// when the push is no longer wanted: one that is not yet under way is then
	// dropped, and done called with a result whose Err is the context's. It also ends
	// while a push that was handed back (PushRetry) waits for its next attempt, if
	// that will not come: later ones need not wait for it.
	Push(ctx context.Context, p Push, done func(PushResult))
}

// Push is a request to a notification server. The Pusher reads the content by Seq when
// the push's turn has come (Core.Notification).
type Push struct {
	Seq          Seq
	Device       string
	Account      string
	Registration Registration // when the push was asked for; it chooses queue and lane
	Attempt      int          // 1 for the first
	Urgency      Urgency
	CollapseKey  string
	// ExpiresAt has a monotonic reading: the time left until then does not change with a step of
	// the wall clock.
	ExpiresAt time.Time
	// Dismiss asks for a background push that takes this notification off the screen.
	// It holds what such a push needs, and no text. nil: an ordinary push.
	Dismiss *Notification
	// Current is called when the push's turn has come, just before the request. It
	// returns the registration to use now, or an error that wraps ErrPushNotWanted:
	// signed out, registration removed, device moved to another account,
	// notification final, delivery back on the channel. It takes the core's mutex:
	// never call it with a lane's mutex held.
	Current func() (Registration, error)
	// Unread returns the number that badge "auto" shows now. It takes the core's mutex,
	// as Current does. Nil: 0.
	Unread func() int
}

// PushOutcome sorts a notification server's answers by what to do next.
type PushOutcome uint8

const (
	// PushAccepted: the server has taken it over. It says nothing of the device.
	PushAccepted PushOutcome = iota + 1
	// PushRetry: again after RetryAfter; the outcome may be unknown.
	PushRetry
	// PushTokenGone: the server has proved that the registration is no more. It
	// ends if the device still holds it and registered it before GoneSince.
	PushTokenGone
	// PushRefused: never again for this delivery; its content is at fault.
	PushRefused
	// PushTokenSuspended: the server does not take the registration, which a slip in
	// the configuration can cause for all at once. It is kept, and not asked again
	// until it is registered again, the configuration changes or a probe is due.
	PushTokenSuspended
	// PushUnserved: no server is configured for the registration's app, or it is
	// switched off. Asked again when Core.PushPossible says so.
	PushUnserved
	// PushWithdrawn: Push.Current returned an error.
	PushWithdrawn
)

// PushResult is the outcome of a Push.
type PushResult struct {
	Outcome    PushOutcome
	RetryAfter time.Duration // with PushRetry; what the server or the backoff says
	GoneSince  time.Time     // with PushTokenGone; zero: since the request
	// Registration is the one that was asked; zero: Push.Registration.
	Registration Registration
	Config       string // with PushTokenSuspended: fingerprint of the app's configuration
	Receipt      string // the server's ID of the message
	Detail       string // for the timeline: "200", "410 Unregistered", "timeout after 10s"
	Err          error
}

// Observer gets every event after it has happened, in order for each delivery.
// It must not block and must not call the core.
type Observer interface {
	Observe(account string, e Event)
}

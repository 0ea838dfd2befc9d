package relay

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// Numbers of members are on the wire: append, never renumber. A struct that is the twin
// of one in delivery is converted to it, so that a field that one lacks does not compile.

var (
	encoding = must(cbor.EncOptions{Time: cbor.TimeRFC3339Nano, OmitEmpty: cbor.OmitEmptyGoValue}.EncMode())
	decoding = must(cbor.DecOptions{MaxArrayElements: 1 << 20, MaxMapPairs: 1 << 16, UTF8: cbor.UTF8DecodeInvalid}.DecMode()) // a text that is not UTF-8 is the Core's to refuse
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// encode returns a message as a frame's body. Its types are ours and can be encoded.
func encode(v any) []byte { return must(encoding.Marshal(v)) }

func decode(b []byte, v any) error {
	if err := decoding.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

// op is what a call asks of the owner.
type op uint8

// The ops. The numbers are on the wire: append, never renumber.
const (
	opOnline op = iota + 1
	opAccept
	opAckByID
	opRegister
	opRegisterVia
	opForgetAddress
	opSetRegistration
	opRemoveRegistrations
	opSignOut
	opRelease
	opForget
	opDevices
	opDevice
	opPutDevice
	opForgetDevice
	opAccountOf
	opCheckOwner
	opGet
	opList
	opCancel
	opDismiss
	opErase
	opEraseAccount
	opFlush
	opFlushAll // this and the next ones are of the node, whatever it serves
	opDisconnect
	opEndSession
	opTakeSession
	opWebhook
	opKeepRoom
	opReportsApp // of an owner
)

var opNames = [...]string{
	"", "online", "accept", "ack by ID", "register", "register via", "forget address", "set registration", "remove registrations",
	"sign out", "release", "forget", "devices", "device", "put device", "forget device", "account of", "check owner", "get", "list",
	"cancel", "dismiss", "erase", "erase account", "flush", "flush all", "disconnect", "end session", "take session", "webhook", "keep room",
	"reports app",
}

// ofNode reports whether an op is for the node itself, not for an owner.
func (o op) ofNode() bool { return o >= opFlushAll && o <= opKeepRoom }

func (o op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("operation %d", uint8(o))
}

// call is a request to the owner of a partition.
type call struct {
	ID      uint64        `cbor:"1,keyasint"`
	Op      op            `cbor:"2,keyasint"`
	Part    uint16        `cbor:"3,keyasint"`
	Term    uint64        `cbor:"4,keyasint"`
	Timeout time.Duration `cbor:"5,keyasint,omitempty"` // how long the caller waits; 0: until the Session ends
	arguments
}

// arguments are those of all ops.
type arguments struct {
	Account      string           `cbor:"10,keyasint,omitempty"`
	Device       string           `cbor:"11,keyasint,omitempty"`
	Notification string           `cbor:"12,keyasint,omitempty"` // its ID
	Text         string           `cbor:"13,keyasint,omitempty"` // why, via, server
	Address      string           `cbor:"14,keyasint,omitempty"`
	Kind         string           `cbor:"15,keyasint,omitempty"` // of a registration
	Ack          delivery.AckKind `cbor:"16,keyasint,omitempty"`
	Registration []byte           `cbor:"17,keyasint,omitempty"` // a device that holds it alone, as in a store
	Filter       *filter          `cbor:"18,keyasint,omitempty"`
	Request      *request         `cbor:"19,keyasint,omitempty"`
	Online       *online          `cbor:"20,keyasint,omitempty"`
	At           int64            `cbor:"21,keyasint,omitempty"` // Unix nanoseconds
	Order        []byte           `cbor:"22,keyasint,omitempty"` // about a webhook
	Limit        int              `cbor:"23,keyasint,omitempty"` // of devices
	Clean        bool             `cbor:"24,keyasint,omitempty"` // a session is not continued
}

// answer is what became of a call.
type answer struct {
	ID      uint64   `cbor:"1,keyasint"`
	Failure *failure `cbor:"2,keyasint,omitempty"`
	results
}

// results are those of all ops.
type results struct {
	Receipt *receipt      `cbor:"10,keyasint,omitempty"`
	Devices []deviceView  `cbor:"11,keyasint,omitempty"`
	Page    []view        `cbor:"12,keyasint,omitempty"`
	Next    delivery.Seq  `cbor:"13,keyasint,omitempty"`
	Account string        `cbor:"14,keyasint,omitempty"`
	Ended   bool          `cbor:"15,keyasint,omitempty"`
	State   *SessionState `cbor:"16,keyasint,omitempty"`
	Outcome []byte        `cbor:"17,keyasint,omitempty"` // of an order about a webhook
	Full    bool          `cbor:"18,keyasint,omitempty"` // there is no room
}

// request is the twin of delivery.Request.
type request struct {
	Account     string                `cbor:"1,keyasint,omitempty"`
	Title       string                `cbor:"2,keyasint,omitempty"`
	Body        string                `cbor:"3,keyasint,omitempty"`
	Data        json.RawMessage       `cbor:"4,keyasint,omitempty"`
	ID          string                `cbor:"5,keyasint,omitempty"`
	CollapseKey string                `cbor:"6,keyasint,omitempty"`
	TTL         *time.Duration        `cbor:"7,keyasint,omitempty"`
	AckWindow   *time.Duration        `cbor:"8,keyasint,omitempty"`
	Ack         delivery.AckKind      `cbor:"9,keyasint,omitempty"`
	Urgency     delivery.Urgency      `cbor:"10,keyasint,omitempty"`
	NoFallback  bool                  `cbor:"11,keyasint,omitempty"`
	Devices     []string              `cbor:"12,keyasint,omitempty"`
	Badge       *int                  `cbor:"13,keyasint,omitempty"`
	Sound       string                `cbor:"14,keyasint,omitempty"`
	Category    string                `cbor:"15,keyasint,omitempty"`
	Subtitle    string                `cbor:"16,keyasint,omitempty"`
	Thread      string                `cbor:"17,keyasint,omitempty"`
	Link        string                `cbor:"18,keyasint,omitempty"`
	Image       string                `cbor:"19,keyasint,omitempty"`
	Level       delivery.Level        `cbor:"20,keyasint,omitempty"`
	Localized   *delivery.Localized   `cbor:"21,keyasint,omitempty"`
	Extra       json.RawMessage       `cbor:"22,keyasint,omitempty"`
	BadgeAuto   bool                  `cbor:"23,keyasint,omitempty"`
	Kind        string                `cbor:"24,keyasint,omitempty"`
	PushType    string                `cbor:"25,keyasint,omitempty"`
	Overlay     *delivery.Overlay     `cbor:"26,keyasint,omitempty"`
	Mark        *delivery.RequestMark `cbor:"27,keyasint,omitempty"`
	Again       bool                  `cbor:"28,keyasint,omitempty"`
}

// filter is the twin of delivery.Filter.
type filter struct {
	Account string         `cbor:"1,keyasint,omitempty"`
	Device  string         `cbor:"2,keyasint,omitempty"`
	State   delivery.State `cbor:"3,keyasint,omitempty"`
	Since   time.Time      `cbor:"4,keyasint,omitempty"`
	Until   time.Time      `cbor:"5,keyasint,omitempty"`
	Before  delivery.Seq   `cbor:"6,keyasint,omitempty"`
	Limit   int            `cbor:"7,keyasint,omitempty"`
}

// online is a delivery.OnlineInfo, but for Device and Account, which are the call's, and
// the Channel.
type online struct {
	Presence       uint64            `cbor:"1,keyasint"` // the edge's number for this stretch of the channel being up
	ReceiveMaximum int               `cbor:"2,keyasint,omitempty"`
	Messages       bool              `cbor:"3,keyasint,omitempty"`
	Dismissals     bool              `cbor:"4,keyasint,omitempty"`
	App            delivery.AppState `cbor:"5,keyasint,omitempty"`
	Keepalive      time.Duration     `cbor:"6,keyasint,omitempty"`
	Remote         string            `cbor:"7,keyasint,omitempty"`
	Via            string            `cbor:"8,keyasint,omitempty"`
	Address        string            `cbor:"9,keyasint,omitempty"`
	Age            time.Duration     `cbor:"10,keyasint,omitempty"` // since Connected: no two nodes need to have the same time
}

// receipt is a delivery.Receipt.
type receipt struct {
	Seq          delivery.Seq             `cbor:"1,keyasint"`
	Notification []byte                   `cbor:"2,keyasint"` // as in a store
	State        delivery.State           `cbor:"3,keyasint"`
	Deliveries   []delivery.DeliveryState `cbor:"4,keyasint"`
	Repeated     bool                     `cbor:"5,keyasint,omitempty"`
}

// view is a delivery.View.
type view struct {
	Seq          delivery.Seq             `cbor:"1,keyasint"`
	Notification []byte                   `cbor:"2,keyasint"` // as in a store
	State        delivery.State           `cbor:"3,keyasint"`
	Deliveries   []delivery.DeliveryState `cbor:"4,keyasint"`
	Timeline     []byte                   `cbor:"5,keyasint,omitempty"` // as in a store
}

// deviceView is a delivery.DeviceView.
type deviceView struct {
	ID            string            `cbor:"1,keyasint"`
	Entry         []byte            `cbor:"2,keyasint"` // as in a store
	App           delivery.AppState `cbor:"3,keyasint,omitempty"`
	Up            bool              `cbor:"4,keyasint,omitempty"`
	Since         time.Time         `cbor:"5,keyasint,omitempty"`
	LastHeartbeat time.Time         `cbor:"6,keyasint,omitempty"`
	Keepalive     time.Duration     `cbor:"7,keyasint,omitempty"`
	Remote        string            `cbor:"8,keyasint,omitempty"`
	Outstanding   int               `cbor:"9,keyasint,omitempty"`
}

// upKind is what a device's connection reports.
type upKind uint8

// The reports. The numbers are on the wire: append, never renumber.
const (
	upHeartbeat upKind = iota + 1
	upSubscribed
	upApp
	upOffline
	upAcked
	upNacked
	upForsaken // another owner has it now
)

// upReport is a method of delivery.Up or delivery.Acker.
type upReport struct {
	Presence   uint64            `cbor:"1,keyasint"`
	Kind       upKind            `cbor:"2,keyasint"`
	Ref        *ref              `cbor:"3,keyasint,omitempty"`
	Text       string            `cbor:"4,keyasint,omitempty"` // why
	Messages   bool              `cbor:"5,keyasint,omitempty"`
	Dismissals bool              `cbor:"6,keyasint,omitempty"`
	App        delivery.AppState `cbor:"7,keyasint,omitempty"`
}

// ref is a delivery.Ref.
type ref struct {
	Seq       delivery.Seq `cbor:"1,keyasint"`
	Attempt   uint16       `cbor:"2,keyasint,omitempty"`
	Message   bool         `cbor:"3,keyasint,omitempty"`
	Dismissal bool         `cbor:"4,keyasint,omitempty"`
}

func refOf(r delivery.Ref) *ref {
	return &ref{Seq: r.Seq, Attempt: r.Attempt, Message: r.Message, Dismissal: r.Dismissal}
}

func (r ref) ref() delivery.Ref {
	return delivery.Ref{Seq: r.Seq, Attempt: r.Attempt, Message: r.Message, Dismissal: r.Dismissal}
}

// publication is a delivery.Publication to a device's channel.
type publication struct {
	Presence    uint64 `cbor:"1,keyasint"`
	Ref         ref    `cbor:"2,keyasint"`
	Redelivery  bool   `cbor:"3,keyasint,omitempty"`
	Pushed      bool   `cbor:"4,keyasint,omitempty"`
	DismissedID string `cbor:"5,keyasint,omitempty"`
	BadgeAuto   bool   `cbor:"6,keyasint,omitempty"`
	Unread      int    `cbor:"7,keyasint,omitempty"`
	Content     []byte `cbor:"8,keyasint,omitempty"` // as the codec writes it; older nodes send none
	// Left is the rest of the TTL, since the clocks of two nodes differ; 0: an older node sent it.
	Left time.Duration `cbor:"9,keyasint,omitempty"`
}

// replaced tells the edge that another connection of the device is up.
type replaced struct {
	Presence uint64 `cbor:"1,keyasint"`
}

// Serving is a partition and the term under which a node serves it.
type Serving struct {
	Part uint16 `cbor:"1,keyasint"`
	Term uint64 `cbor:"2,keyasint"`
}

// claimed is a delivery.Claim, and the partition of the account that claims.
type claimed struct {
	Part   uint16 `cbor:"1,keyasint"`
	Device string `cbor:"2,keyasint,omitempty"`
	Server string `cbor:"3,keyasint,omitempty"`
	Token  string `cbor:"4,keyasint,omitempty"`
}

func receiptOf(r *delivery.Receipt) *receipt {
	if r.Notification == nil {
		return nil
	}
	return &receipt{r.Notification.Seq, codec.AppendNotification(nil, r.Notification), r.State, r.Deliveries, r.Repeated}
}

func (r *receipt) receipt() (delivery.Receipt, error) {
	if r == nil {
		return delivery.Receipt{}, nil
	}
	n := new(delivery.Notification)
	err := codec.DecodeNotification(n, r.Seq, r.Notification)
	return delivery.Receipt{Notification: n, State: r.State, Deliveries: r.Deliveries, Repeated: r.Repeated}, err
}

func viewOf(v *delivery.View) view {
	x := view{Seq: v.Seq, Notification: codec.AppendNotification(nil, v.Notification), State: v.State, Deliveries: v.Deliveries}
	var scratch []byte
	for i := range v.Timeline {
		x.Timeline, scratch = codec.AppendEvent(x.Timeline, scratch, &v.Timeline[i])
	}
	return x
}

func (v *view) view() (*delivery.View, error) {
	n := new(delivery.Notification)
	if err := codec.DecodeNotification(n, v.Seq, v.Notification); err != nil {
		return nil, err
	}
	timeline, err := codec.DecodeEvents(nil, v.Seq, v.Timeline)
	return &delivery.View{Notification: n, State: v.State, Deliveries: v.Deliveries, Timeline: timeline}, err
}

func deviceViewOf(d *delivery.DeviceView) deviceView {
	return deviceView{d.ID, codec.AppendDevice(nil, &d.Device), d.App, d.Up, d.Since, d.LastHeartbeat, d.Keepalive, d.Remote, d.Outstanding}
}

func (d *deviceView) view() (delivery.DeviceView, error) {
	v := delivery.DeviceView{
		App: d.App, Up: d.Up, Since: d.Since, LastHeartbeat: d.LastHeartbeat, Keepalive: d.Keepalive, Remote: d.Remote, Outstanding: d.Outstanding,
	}
	err := codec.DecodeDevice(&v.Device, d.ID, d.Entry)
	return v, err
}

func registrationOf(r *delivery.Registration) []byte {
	if r == nil {
		return nil
	}
	return codec.AppendDevice(nil, &delivery.Device{Registrations: []delivery.Registration{*r}})
}

func registration(b []byte) (*delivery.Registration, error) {
	if b == nil {
		return nil, nil
	}
	var d delivery.Device
	if err := codec.DecodeDevice(&d, "", b); err != nil {
		return nil, err
	}
	if len(d.Registrations) != 1 {
		return nil, fmt.Errorf("%w: %d registrations instead of one", errDamaged, len(d.Registrations))
	}
	return &d.Registrations[0], nil
}

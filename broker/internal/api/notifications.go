package api

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

type byID struct {
	ID string `path:"id" doc:"The notification's ID"`
}

type cancelQuery struct {
	ID    string `path:"id" doc:"The notification's ID"`
	Erase bool   `query:"erase" doc:"Also erase its content and its timeline"`
}

// ackPost is the body of POST /v1/notifications/{id}/acks.
type ackPost struct {
	Device string `json:"device" minLength:"1" maxLength:"128" doc:"The device, which is its MQTT client identifier"`
	Status string `json:"status" enum:"received,displayed,read" doc:"received: it has arrived; displayed: the app has shown it; read: the user has read it, and the account's other devices remove it"`
}

type notificationQuery struct {
	Account string    `query:"account" minLength:"1" doc:"Only this account"`
	Device  string    `query:"device" minLength:"1" doc:"Only deliveries to this device"`
	State   string    `query:"state" enum:"pending,published,pushing,pushed,waiting,acked,expired,superseded,cancelled" doc:"Only this state"`
	Since   time.Time `query:"since" doc:"Only those accepted at this time or later"`
	Until   time.Time `query:"until" doc:"Only those accepted before this time"`
	Limit   int       `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Maximum number of entries in a page"`
	Cursor  string    `query:"cursor" maxLength:"64" doc:"next of the previous page"`
}

type notificationAnswer struct {
	Body wire.NotificationView
}

type notificationListAnswer struct {
	Body wire.NotificationList
}

func (a *API) registerNotifications() {
	raw(a, huma.Operation{
		OperationID: "notify", Method: http.MethodPost, Path: "/v1/notifications", DefaultStatus: http.StatusAccepted,
		Summary: "Notify an account",
		Description: "Answers when the notification is durable. The same id with the same content again is answered with 200 and the first answer, " +
			"so that a call can be repeated whenever its answer is not known.",
		Responses: map[string]*huma.Response{
			"202": answer[wire.Accepted](a, "Accepted: on the disk, and on its way"),
			"200": answer[wire.Accepted](a, "The same was accepted before: the first answer"),
		},
		Errors: []int{
			http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable,
		},
	}, &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: schemaOf[wire.Notification](a), Example: map[string]any{"account": "alice", "title": "Your parcel is here", "ttl": "2h"}},
	}}, a.accept)

	call(a, huma.Operation{
		OperationID: "get-notification", Method: http.MethodGet, Path: "/v1/notifications/{id}",
		Summary: "A notification, its deliveries and its timeline",
		Errors:  []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *byID) (*notificationAnswer, error) {
		v, err := a.core.Get(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		if err := mayKnow(ctx, v.Account); err != nil {
			return nil, err
		}
		return &notificationAnswer{wire.NewNotificationView(v, true)}, nil
	})

	call(a, huma.Operation{
		OperationID: "list-notifications", Method: http.MethodGet, Path: "/v1/notifications",
		Summary: "Notifications, newest first, in pages, without their timelines",
		Errors:  []int{http.StatusServiceUnavailable},
	}, a.list)

	call(a, huma.Operation{
		OperationID: "cancel-notification", Method: http.MethodDelete, Path: "/v1/notifications/{id}",
		Summary: "Cancel the deliveries that are not final",
		Description: "Answers 204 when the cancellation is on the disk, also if every delivery was final already: cancelling twice is safe.  " +
			"With erase=true the content and the timeline are erased, too.",
		Errors: []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *cancelQuery) (*struct{}, error) {
		if err := a.mayActOn(ctx, in.ID); err != nil {
			return nil, err
		}
		if in.Erase {
			return nil, a.core.Erase(ctx, in.ID)
		}
		return nil, a.core.Cancel(ctx, in.ID)
	})

	call(a, huma.Operation{
		OperationID: "dismiss-notification", Method: http.MethodPost, Path: "/v1/notifications/{id}/dismissal",
		Summary: "Take a notification off every screen",
		Description: "Whatever its state, for each device that may show it: over the dismissals topic until the device's PUBACK; where the channel is down, also by one background push (Web Push: Firefox and UnifiedPush only). " +
			"Answers when that is on record. Dismissing twice does no harm. Deliveries that are not final go on: cancel the notification to end them, too.",
		Errors: []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *byID) (*struct{}, error) {
		if err := a.mayActOn(ctx, in.ID); err != nil {
			return nil, err
		}
		return nil, a.core.Dismiss(ctx, in.ID)
	})

	raw(a, huma.Operation{
		OperationID: "acknowledge", Method: http.MethodPost, Path: "/v1/notifications/{id}/acks", DefaultStatus: http.StatusNoContent,
		Summary: "Acknowledge a notification for a device that has no MQTT connection",
		Description: "For an app extension that a push has started. Authenticate as the device: in the modes file and http with HTTP Basic " +
			"(its MQTT username and password), in the mode jwt with its token as Bearer. A repetition is harmless.",
		Responses: map[string]*huma.Response{"204": {Description: "Recorded"}},
		Errors: []int{
			http.StatusNotFound, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusUnprocessableEntity, http.StatusServiceUnavailable,
		},
	}, &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: schemaOf[ackPost](a)},
	}}, a.acknowledge)
}

func (a *API) accept(w http.ResponseWriter, r *http.Request, _ *struct{}) error {
	body, err := a.read(w, r)
	if err != nil {
		return err
	}
	request, err := a.request(body)
	if err != nil {
		return err
	}
	if err := mayActFor(r.Context(), request.Account); err != nil {
		return err
	}
	begun := time.Now()
	receipt, err := a.core.Accept(r.Context(), request)
	if err != nil {
		return err
	}
	a.metrics.Accepted(time.Since(begun), receipt.Repeated)
	return writeJSON(w, statusOf(receipt), wire.NewAccepted(receipt))
}

// request reads a notification. Its rules are those of an MQTT backend's, but for
// the account, which is in the topic there.
func (a *API) request(body []byte) (delivery.Request, error) {
	if n, plain := wire.PlainNotification(body); plain && max(len(n.Account), len(n.Sound), len(n.Category)) <= delivery.MaxName { // the schema's lengths
		if r, err := n.Request(n.Account); err == nil {
			return r, nil
		}
	}
	var n wire.Notification
	if err := a.acceptBody.parse(body, &n); err != nil {
		return delivery.Request{}, err
	}
	return n.Request(n.Account)
}

func statusOf(r delivery.Receipt) int {
	if r.Repeated {
		return http.StatusOK
	}
	return http.StatusAccepted
}

// acknowledge handles the ack of a device's app extension.
func (a *API) acknowledge(w http.ResponseWriter, r *http.Request, in *byID) error {
	body, err := a.read(w, r)
	if err != nil {
		return err
	}
	var ack ackPost
	if err := a.ackBody.parse(body, &ack); err != nil {
		return err
	}
	account, err := a.asDevice(r, ack.Device)
	if err != nil {
		return err
	}
	kind := map[string]delivery.AckKind{
		"received": delivery.AckReceived, "displayed": delivery.AckDisplayed, "read": delivery.AckRead,
	}[ack.Status] // the schema has checked it
	if err := a.core.AckByID(in.ID, ack.Device, account, kind); err != nil {
		return err
	}
	if err := a.core.Flush(r.Context()); err != nil { // durable before the 204
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) list(ctx context.Context, in *notificationQuery) (*notificationListAnswer, error) {
	before, ok := parseSeqCursor(in.Cursor)
	if !ok {
		return nil, broken("query.cursor", "must be next of an earlier page")
	}
	if who := callerOf(ctx); !who.AllAccounts() && !who.MayActFor(in.Account) {
		return nil, notForAccount(in.Account)
	}
	if err := checkSpan(in.Since, in.Until); err != nil {
		return nil, err
	}
	state, _ := delivery.ParseState(in.State) // huma has checked it; "" is any
	page, next, err := a.core.List(ctx, delivery.Filter{Account: in.Account, Device: in.Device, State: state, Since: in.Since, Until: in.Until, Before: before, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // the page may end where the caller stopped waiting
	}
	out := &notificationListAnswer{wire.NotificationList{Notifications: make([]wire.NotificationView, len(page)), Next: seqCursor(next)}}
	for i, v := range page {
		out.Body.Notifications[i] = wire.NewNotificationView(v, false)
	}
	return out, nil
}

// Cursors are opaque to callers: their content may change.

func seqCursor(s delivery.Seq) string {
	if s == 0 {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(s)))
}

func parseSeqCursor(cursor string) (delivery.Seq, bool) {
	if cursor == "" {
		return 0, true
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(b) != 8 {
		return 0, false
	}
	s := delivery.Seq(binary.BigEndian.Uint64(b))
	return s, s != 0
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(text)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // the client may be gone
	return nil
}

package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

type byDevice struct {
	Account string `path:"account" doc:"The account"`
	Device  string `path:"device" doc:"The device, which is its MQTT client identifier"`
}

type byAccount struct {
	Account string `path:"account" doc:"The account"`
}

type deviceQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most that a page holds"`
	Cursor string `query:"cursor" maxLength:"256" doc:"next of the page before"`
}

// devicePut is the body of PUT. No apns leaves the token that is there.
type devicePut struct {
	APNs *wire.APNsToken `json:"apns,omitempty" doc:"The device's push token; null removes it, absent leaves it as it is"`
}

type deviceAnswer struct {
	Body wire.DeviceView
}

type deviceListAnswer struct {
	Body wire.DeviceList
}

func (a *API) registerDevices() {
	const one = "/v1/accounts/{account}/devices/{device}"
	call(a, huma.Operation{
		OperationID: "list-account-devices", Method: http.MethodGet, Path: "/v1/accounts/{account}/devices",
		Summary: "The devices of an account", Description: "An account that is not known has none.",
		Errors: []int{http.StatusServiceUnavailable},
	}, func(_ context.Context, in *byAccount) (*deviceListAnswer, error) {
		views, err := a.core.Devices(in.Account)
		return deviceList(views, ""), err
	})

	call(a, huma.Operation{
		OperationID: "list-devices", Method: http.MethodGet, Path: "/v1/devices",
		Summary: "All devices by ID, in pages", Errors: []int{http.StatusServiceUnavailable},
	}, a.allDevices)

	call(a, huma.Operation{
		OperationID: "get-device", Method: http.MethodGet, Path: one,
		Summary: "A device", Errors: []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, func(_ context.Context, in *byDevice) (*deviceAnswer, error) {
		v, err := a.core.Device(in.Account, in.Device)
		if err != nil {
			return nil, unknownDevice(in, err)
		}
		return &deviceAnswer{wire.NewDeviceView(v)}, nil
	})

	raw(a, huma.Operation{
		OperationID: "put-device", Method: http.MethodPut, Path: one,
		Summary: "Register a device, renew its registration, set or remove its push token",
		Description: "A device of another account moves here, and what is outstanding for it there is cancelled. " +
			"A push token that another device holds moves, too.",
		Responses: map[string]*huma.Response{
			"200": answer[wire.DeviceView](a, "The entry; the device was registered before"),
			"201": answer[wire.DeviceView](a, "The entry; the device is new"),
		},
		Errors: []int{
			http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity,
			http.StatusServiceUnavailable,
		},
	}, &huma.RequestBody{Content: map[string]*huma.MediaType{
		"application/json": {Schema: a.devicePutSchema()},
	}}, a.putDevice)

	call(a, huma.Operation{
		OperationID: "forget-device", Method: http.MethodDelete, Path: one,
		Summary: "Take a device out of the registry, and cancel what is outstanding for it",
		Errors:  []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *byDevice) (*struct{}, error) {
		if err := a.core.ForgetDevice(ctx, in.Account, in.Device); err != nil {
			return nil, unknownDevice(in, err)
		}
		return nil, nil
	})
}

func unknownDevice(d *byDevice, err error) error {
	if errors.Is(err, delivery.ErrNotFound) {
		return newProblem(http.StatusNotFound, "account %q has no device %q; PUT registers it", clip(d.Account), clip(d.Device))
	}
	return err
}

// devicePutSchema says that apns may be null, which no struct tag can say of a
// struct.
func (a *API) devicePutSchema() *huma.Schema {
	s := huma.SchemaFromType(a.huma.OpenAPI().Components.Schemas, reflect.TypeFor[devicePut]())
	token := s.Properties["apns"]
	s.Properties["apns"] = &huma.Schema{Description: token.Description, AnyOf: []*huma.Schema{{Ref: token.Ref}, {Type: "null"}}}
	return s
}

func (a *API) putDevice(w http.ResponseWriter, r *http.Request, in *byDevice) error {
	for _, name := range [][2]string{{"account", in.Account}, {"device", in.Device}} {
		if err := delivery.ValidName(name[0], name[1]); err != nil {
			return broken("path."+name[0], strings.TrimPrefix(plain(err, delivery.ErrInvalid), name[0]+": "))
		}
	}
	body, err := a.read(w, r)
	if err != nil {
		return err
	}
	var put devicePut
	var given map[string]json.RawMessage
	if len(bytes.TrimSpace(body)) > 0 {
		if err := a.deviceBody.parse(body, &put); err != nil {
			return err
		}
		if err := json.Unmarshal(body, &given); err != nil {
			return broken("body", err.Error())
		}
	}
	status := http.StatusOK
	if _, err := a.core.Device(in.Account, in.Device); errors.Is(err, delivery.ErrNotFound) {
		status = http.StatusCreated
	}
	if _, named := given["apns"]; named && put.APNs == nil {
		if err := a.core.RemoveRegistrations(in.Device, in.Account, delivery.ServerAPNs, ""); err != nil {
			return err
		}
	}
	if err := a.core.PutDevice(r.Context(), in.Account, in.Device, put.APNs.Registered()); err != nil {
		return err
	}
	v, err := a.core.Device(in.Account, in.Device)
	if err != nil {
		return err
	}
	return writeJSON(w, status, wire.NewDeviceView(v))
}

func (a *API) allDevices(_ context.Context, in *deviceQuery) (*deviceListAnswer, error) {
	after, err := base64.RawURLEncoding.DecodeString(in.Cursor)
	if err != nil {
		return nil, broken("query.cursor", "must be next of an earlier page")
	}
	views, err := a.core.AllDevices(string(after), in.Limit+1)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(views) > in.Limit {
		views = views[:in.Limit]
		next = base64.RawURLEncoding.EncodeToString([]byte(views[in.Limit-1].ID))
	}
	return deviceList(views, next), nil
}

func deviceList(views []delivery.DeviceView, next string) *deviceListAnswer {
	out := &deviceListAnswer{wire.DeviceList{Devices: make([]wire.DeviceView, len(views)), Next: next}}
	for i, v := range views {
		out.Body.Devices[i] = wire.NewDeviceView(v)
	}
	return out
}

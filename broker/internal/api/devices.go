package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"

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
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Maximum number of entries in a page"`
	Cursor string `query:"cursor" maxLength:"256" doc:"next of the previous page"`
}

// devicePut describes the body of PUT, which wire.ParsePushToken reads. Exactly one
// server is named, or none.
type devicePut struct {
	APNs    *wire.APNsToken           `json:"apns,omitempty" doc:"A registration with Apple; null removes all of Apple's"`
	FCM     *wire.FCMToken            `json:"fcm,omitempty" doc:"A registration with Firebase; null removes all of Firebase's"`
	WebPush *wire.WebPushSubscription `json:"webpush,omitempty" doc:"A browser's PushSubscription.toJSON() as it is; null removes all of Web Push"`
	Kind    string                    `json:"kind,omitempty" maxLength:"128" doc:"Of the registration, where its own member does not say it: alert if absent. With null: only the registration of this kind is removed"`
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
		Summary: "The devices of an account", Description: "An unknown account has none.",
		Errors: []int{http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *byAccount) (*deviceListAnswer, error) {
		if err := mayActFor(ctx, in.Account); err != nil {
			return nil, err
		}
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
	}, func(ctx context.Context, in *byDevice) (*deviceAnswer, error) {
		if err := mayActFor(ctx, in.Account); err != nil {
			return nil, err
		}
		v, err := a.core.Device(in.Account, in.Device)
		if err != nil {
			return nil, unknownDevice(in, err)
		}
		return &deviceAnswer{wire.NewDeviceView(v)}, nil
	})

	raw(a, huma.Operation{
		OperationID: "put-device", Method: http.MethodPut, Path: one,
		Summary: "Register a device, renew its entry, set or remove a registration",
		Description: "Name at most one of apns, fcm and webpush; a registration replaces the device's registration of the same kind. " +
			"A device of another account moves here: its outstanding deliveries there are cancelled, its connection and session end. " +
			"A registration that another device holds moves, too.",
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

	raw(a, huma.Operation{
		OperationID: "forget-device", Method: http.MethodDelete, Path: one, DefaultStatus: http.StatusNoContent,
		Summary: "Remove a device from the registry: sign it out",
		Description: "Its registrations are removed, its outstanding deliveries are cancelled, and its connection and session end. " +
			"A device may do this itself, with its own credentials; see acknowledge.",
		Responses: map[string]*huma.Response{"204": {Description: "Removed"}},
		Errors:    []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, nil, a.forgetDevice)

	call(a, huma.Operation{
		OperationID: "erase-account", Method: http.MethodDelete, Path: "/v1/accounts/{account}",
		Summary: "Erase an account",
		Description: "Its devices, registrations, notifications and timelines cannot be read from the answer on, and are off the disk within 24 h. " +
			"An account that is not known is no error.",
		Errors: []int{http.StatusServiceUnavailable},
	}, a.eraseAccount)

	call(a, huma.Operation{
		OperationID: "disconnect-device", Method: http.MethodPost, Path: "/v1/devices/{device}/disconnect",
		Summary:     "End a device's connection",
		Description: "Its session and its entry stay; it may connect again at once.",
		Errors:      []int{http.StatusNotFound},
	}, func(ctx context.Context, in *struct {
		Device string `path:"device" doc:"The device, which is its MQTT client identifier"`
	}) (*struct{}, error) {
		if who := callerOf(ctx); !who.Admin {
			return nil, newProblem(http.StatusForbidden, codeForbidden, "this call is for the role admin")
		}
		if !a.opts.Disconnect(in.Device) {
			return nil, newProblem(http.StatusNotFound, codeNotConnected, "device %q is not connected", clip(in.Device))
		}
		return nil, nil
	})
}

// forgetDevice is a service's or the device's own.
func (a *API) forgetDevice(w http.ResponseWriter, r *http.Request, in *byDevice) error {
	who := callerOf(r.Context())
	if who.Service {
		if err := mayActFor(r.Context(), in.Account); err != nil {
			return err
		}
		if err := a.core.ForgetDevice(r.Context(), in.Account, in.Device); err != nil {
			if delivery.Unrecorded(r.Context(), err) {
				a.opts.EndSession(in.Account, in.Device)
			}
			return unknownDevice(in, err)
		}
	} else {
		account, err := a.asDevice(r, in.Device)
		if err != nil {
			return err
		}
		if account != in.Account {
			return newProblem(http.StatusForbidden, codeNotYours, "account %q is not yours", clip(in.Account))
		}
		if err := a.core.SignOut(r.Context(), in.Device, account); err != nil {
			if delivery.Unrecorded(r.Context(), err) {
				a.opts.EndSession(in.Account, in.Device)
			}
			return err
		}
	}
	a.opts.EndSession(in.Account, in.Device)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) eraseAccount(ctx context.Context, in *byAccount) (*struct{}, error) {
	if err := delivery.ValidAccount(in.Account); err != nil {
		return nil, invalid(faultsOf(err, "path")...)
	}
	if err := mayActFor(ctx, in.Account); err != nil {
		return nil, err
	}
	devices, err := a.core.Devices(in.Account)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(devices))
	for i, d := range devices {
		ids[i] = d.ID
	}
	err = a.core.EraseAccount(ctx, in.Account)
	if err == nil || delivery.Unrecorded(ctx, err) {
		a.opts.EndSession(in.Account, ids...)
	}
	return nil, err
}

func unknownDevice(d *byDevice, err error) error {
	if errors.Is(err, delivery.ErrUnknownDevice) {
		return newProblem(http.StatusNotFound, codeUnknownDevice, "account %q has no device %q; PUT registers it", clip(d.Account), clip(d.Device))
	}
	return err
}

// devicePutSchema lets each server be null, which no struct tag can say of a struct.
func (a *API) devicePutSchema() *huma.Schema {
	s := huma.SchemaFromType(a.huma.OpenAPI().Components.Schemas, reflect.TypeFor[devicePut]())
	for _, server := range []string{delivery.ServerAPNs, delivery.ServerFCM, delivery.ServerWebPush} {
		one := s.Properties[server]
		s.Properties[server] = &huma.Schema{Description: one.Description, AnyOf: []*huma.Schema{{Ref: one.Ref}, {Type: "null"}}}
	}
	return s
}

func (a *API) putDevice(w http.ResponseWriter, r *http.Request, in *byDevice) error {
	if err := errors.Join(delivery.ValidAccount(in.Account), delivery.ValidDevice(in.Device)); err != nil {
		return invalid(faultsOf(err, "path")...)
	}
	if err := mayActFor(r.Context(), in.Account); err != nil {
		return err
	}
	body, err := a.read(w, r)
	if err != nil {
		return err
	}
	token, err := parseDevicePut(body)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if _, err := a.core.Device(in.Account, in.Device); errors.Is(err, delivery.ErrNotFound) {
		status = http.StatusCreated
	}
	before, err := a.core.AccountOf(in.Device)
	if err != nil && !errors.Is(err, delivery.ErrNotFound) {
		return err
	}
	err = a.put(r.Context(), in, token.Registration)
	if before != "" && before != in.Account && (err == nil || delivery.Unrecorded(r.Context(), err) && mayActFor(r.Context(), before) == nil) {
		a.opts.EndSession(before, in.Device) // the former account's
	}
	if err != nil {
		return err
	}
	if token.Server != "" && token.Registration == nil {
		if err := a.core.RemoveRegistrations(in.Device, in.Account, token.Server, token.Kind); err != nil {
			return err
		}
		if err := a.core.Flush(r.Context()); err != nil {
			return err
		}
	}
	v, err := a.core.Device(in.Account, in.Device)
	if err != nil {
		return err
	}
	return writeJSON(w, status, wire.NewDeviceView(v))
}

// put registers a device, and moves it here if the caller may act for the account that
// holds it.
func (a *API) put(ctx context.Context, in *byDevice, r *delivery.Registration) error {
	if who := callerOf(ctx); who.AllAccounts() {
		return a.core.PutDevice(ctx, in.Account, in.Device, r)
	}
	holder, err := a.core.AccountOf(in.Device)
	switch {
	case err == nil && holder != in.Account:
		if err := mayActFor(ctx, holder); err != nil {
			return newProblem(http.StatusForbidden, codeNotYours, "device %q belongs to an account that these credentials are not for", clip(in.Device))
		}
		return a.core.PutDevice(ctx, in.Account, in.Device, r)
	case err != nil && !errors.Is(err, delivery.ErrNotFound):
		return err
	}
	// Not PutDevice, which would move it if another account took it in this very moment.
	if r == nil {
		err = a.core.Register(in.Device, in.Account)
	} else {
		err = a.core.SetRegistration(in.Device, in.Account, *r)
	}
	if err != nil {
		return err
	}
	return a.core.Flush(ctx)
}

// parseDevicePut returns the zero value for a body that names no server.
func parseDevicePut(body []byte) (wire.PushToken, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return wire.PushToken{}, nil
	}
	if err := isObject(body); err != nil {
		return wire.PushToken{}, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err == nil && len(members) == 0 {
		return wire.PushToken{}, nil
	}
	token, err := wire.ParsePushToken(body)
	if err != nil {
		return token, invalid(faultsOf(err, "body")...)
	}
	return token, nil
}

func (a *API) allDevices(ctx context.Context, in *deviceQuery) (*deviceListAnswer, error) {
	if who := callerOf(ctx); !who.AllAccounts() {
		return nil, newProblem(http.StatusForbidden, codeForbidden, "these credentials are for some accounts only: ask for the devices of one")
	}
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

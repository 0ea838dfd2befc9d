package delivery

import (
	"context"
	"errors"
	"fmt"
)

// Errors of the core that its callers tell apart.
var (
	// ErrNotFound: no such notification, device or account. The errors below say
	// which; a Reader answers with this one.
	ErrNotFound = errors.New("not found")
	// ErrUnknownAccount: no device of the account is known. It wraps ErrNotFound.
	ErrUnknownAccount error = &subError{"unknown account", ErrNotFound}
	// ErrUnknownDevice: the account has no such device. It wraps ErrNotFound.
	ErrUnknownDevice error = &subError{"unknown device", ErrNotFound}
	// ErrUnknownNotification: no such notification, or its history is gone. It
	// wraps ErrNotFound.
	ErrUnknownNotification error = &subError{"unknown notification", ErrNotFound}
	// ErrDamaged: the store holds it, and cannot make it out, now or later.
	ErrDamaged = errors.New("damaged value")
	// ErrConflict: the ID was used before for other content.
	ErrConflict = errors.New("id already used with other content")
	// ErrTooMuchOutstanding: every addressed device has as many unfinished
	// deliveries as delivery.max_outstanding_per_device allows. See FullError.
	ErrTooMuchOutstanding = errors.New("too much outstanding")
	// ErrInvalid: the request breaks a rule. See FieldError.
	ErrInvalid = errors.New("invalid")
	// ErrUnavailable: the store does not take changes now; nothing was accepted.
	ErrUnavailable = errors.New("store unavailable")
	// ErrOverloaded: more waits for the store, or for another node, than it keeps up with;
	// nothing was accepted. It wraps ErrUnavailable.
	ErrOverloaded error = &subError{"overloaded", ErrUnavailable}
	// ErrInDoubt: the store failed while it wrote the notification, which may have been
	// accepted. The same request with the same ID tells.
	ErrInDoubt = errors.New("the store failed during the write: the notification may have been accepted")
	// ErrChannelClosed: the channel was closed before it could be brought up.
	ErrChannelClosed = errors.New("channel closed")
	// ErrStopped: the core has been stopped.
	ErrStopped = errors.New("stopped")
	// ErrNotYours: the notification was never for this device of this account.
	ErrNotYours = errors.New("not a notification of this device")
	// ErrForeignDevice: another account holds the device. Only a sign-out or a
	// service moves it.
	ErrForeignDevice = errors.New("device of another account")
	// ErrPushNotWanted: a push must not be sent any more. See Push.Current.
	ErrPushNotWanted = errors.New("push not wanted any more")
)

// subError is an error that is also another one.
type subError struct {
	text string
	of   error
}

func (k *subError) Error() string { return k.text }
func (k *subError) Unwrap() error { return k.of }

// FieldError is a fault of one field of a request. It wraps ErrInvalid. Several
// are joined (errors.Join), in the order of the fields in contract §4.
type FieldError struct {
	Field string // its name in JSON: "title"
	Rule  string // what it must be: "at most 2048 bytes"
	Got   string // what it is, if that is short enough to help; ""
}

func (e *FieldError) Error() string {
	s := e.Field + ": " + e.Rule
	if e.Got != "" {
		s += ", got " + e.Got
	}
	return s
}

// Unwrap returns ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// fieldErrorf makes a FieldError; got is formatted with %v, a string with %q.
func fieldErrorf(field, rule string, got any) *FieldError {
	e := &FieldError{Field: field, Rule: rule}
	switch v := got.(type) {
	case nil:
	case string:
		e.Got = fmt.Sprintf("%q", clip(v))
	default:
		e.Got = fmt.Sprint(v)
	}
	return e
}

// Unrecorded reports whether a change of the registry that has failed with err, under ctx, can be in
// force all the same: the store takes it later. A device is gone then, and a repetition of the call
// finds none, so its connection and session must end now.
func Unrecorded(ctx context.Context, err error) bool {
	return errors.Is(err, ErrUnavailable) || ctx.Err() != nil && errors.Is(err, context.Cause(ctx))
}

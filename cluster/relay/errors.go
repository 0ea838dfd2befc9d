package relay

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// sentinels are the errors that callers tell apart. Their places are on the wire: append,
// never move.
var sentinels = [...]error{
	delivery.ErrNotFound, delivery.ErrUnknownAccount, delivery.ErrUnknownDevice, delivery.ErrUnknownNotification,
	delivery.ErrConflict, delivery.ErrTooMuchOutstanding, delivery.ErrInvalid, delivery.ErrUnavailable,
	delivery.ErrChannelClosed, delivery.ErrStopped, delivery.ErrNotYours, delivery.ErrForeignDevice,
	delivery.ErrPushNotWanted, context.DeadlineExceeded, context.Canceled, delivery.ErrInDoubt,
	delivery.ErrOverloaded,
}

// failure is an error on the wire: its text, the sentinels that it wraps, and what
// callers read out of it.
type failure struct {
	Text   string        `cbor:"1,keyasint"`
	Is     []int         `cbor:"2,keyasint,omitempty"`
	Faults []faultOf     `cbor:"3,keyasint,omitempty"` // of a request that is invalid
	Full   bool          `cbor:"4,keyasint,omitempty"` // it is a delivery.FullError
	Limit  int           `cbor:"5,keyasint,omitempty"`
	Retry  time.Duration `cbor:"6,keyasint,omitempty"`
}

// faultOf is a delivery.FieldError; with Rule alone, any other text.
type faultOf struct {
	Field string `cbor:"1,keyasint,omitempty"`
	Rule  string `cbor:"2,keyasint"`
	Got   string `cbor:"3,keyasint,omitempty"`
}

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Text: err.Error()}
	for i, s := range sentinels {
		if errors.Is(err, s) {
			f.Is = append(f.Is, i)
		}
	}
	if full, ok := errors.AsType[*delivery.FullError](err); ok {
		f.Full, f.Limit, f.Retry = true, full.Limit, full.RetryAfter
	}
	if _, ok := errors.AsType[*delivery.FieldError](err); ok {
		f.Faults = faultsOf(err)
	}
	return f
}

// faultsOf takes an invalid request's error apart.
func faultsOf(err error) (all []faultOf) {
	switch e := err.(type) { //nolint:errorlint // each level on its own
	case *delivery.FieldError:
		return []faultOf{{e.Field, e.Rule, e.Got}}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if inner != delivery.ErrInvalid { //nolint:errorlint // the sentinel itself, of fmt.Errorf("%w: %w")
				all = append(all, faultsOf(inner)...)
			}
		}
		return all
	}
	if inner := errors.Unwrap(err); inner != nil && inner != delivery.ErrInvalid { //nolint:errorlint // likewise
		return faultsOf(inner)
	}
	return []faultOf{{Rule: err.Error()}}
}

// error returns the error that an owner gave.
func (f *failure) error() error {
	if f == nil {
		return nil
	}
	e := ownersError{text: f.Text}
	for _, i := range f.Is {
		if i >= 0 && i < len(sentinels) {
			e.is = append(e.is, sentinels[i])
		}
	}
	if f.Full {
		e.full = &delivery.FullError{Limit: f.Limit, RetryAfter: f.Retry}
	}
	if len(f.Faults) == 0 {
		return &e
	}
	faulty := &invalid{ownersError: e}
	for _, x := range f.Faults {
		if x.Field == "" {
			faulty.faults = append(faulty.faults, errors.New(x.Rule))
			continue
		}
		faulty.faults = append(faulty.faults, &delivery.FieldError{Field: x.Field, Rule: x.Rule, Got: x.Got})
	}
	return faulty
}

// ownersError is an error that an owner at another node gave.
type ownersError struct {
	text string
	is   []error
	full *delivery.FullError
}

func (e *ownersError) Error() string { return e.text }

// Is reports whether the owner's error was a sentinel.
func (e *ownersError) Is(target error) bool { return slices.Contains(e.is, target) }

// As returns the delivery.FullError that the owner's error was.
func (e *ownersError) As(target any) bool {
	full, ok := target.(**delivery.FullError)
	if ok && e.full != nil {
		*full = e.full
		return true
	}
	return false
}

// invalid is an ownersError with the faults of a request.
type invalid struct {
	ownersError
	faults []error
}

// Unwrap returns the faults, a delivery.FieldError each where it is of a field.
func (e *invalid) Unwrap() []error { return e.faults }

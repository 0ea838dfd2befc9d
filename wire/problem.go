package wire

import (
	"errors"
	"net/http"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Problem is an error as RFC 9457 has it (application/problem+json).
type Problem struct {
	Title  string        `json:"title,omitempty"`
	Status int           `json:"status,omitempty"`
	Detail string        `json:"detail,omitempty"`
	Code   string        `json:"code,omitempty" doc:"Stable, for programs: invalid, unknown_account, unknown_device, unknown_notification, id_conflict, too_much_outstanding, store_unavailable, not_yours, forbidden, stopped ..."`
	Errors []ProblemPart `json:"errors,omitempty"`
}

// ProblemPart is one of several things at fault.
type ProblemPart struct {
	Message  string `json:"message,omitempty"`
	Location string `json:"location,omitempty"`
}

// Error makes a Problem an error: a command shows its detail.
func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return p.Title
}

// Refusal is what a client gets on its refusals topic: why a publish of its own was
// refused (contract §3).
type Refusal struct {
	Problem
	Topic string `json:"topic"`
	ID    string `json:"id,omitempty"` // the notification's, if the payload told it
}

// ErrorCode returns the HTTP status and the stable code of an error of the core.
func ErrorCode(err error) (status int, code string) {
	for _, known := range []struct {
		is     error
		status int
		code   string
	}{
		{delivery.ErrNotYours, http.StatusForbidden, "not_yours"},
		{delivery.ErrForeignDevice, http.StatusForbidden, "not_yours"},
		{delivery.ErrInvalid, http.StatusUnprocessableEntity, "invalid"},
		{delivery.ErrUnknownAccount, http.StatusNotFound, "unknown_account"},
		{delivery.ErrUnknownDevice, http.StatusNotFound, "unknown_device"},
		{delivery.ErrUnknownNotification, http.StatusNotFound, "unknown_notification"},
		{delivery.ErrNotFound, http.StatusNotFound, "not_found"},
		{delivery.ErrConflict, http.StatusConflict, "id_conflict"},
		{delivery.ErrTooMuchOutstanding, http.StatusTooManyRequests, "too_much_outstanding"},
		{delivery.ErrInDoubt, http.StatusServiceUnavailable, "outcome_unknown"},
		{delivery.ErrUnavailable, http.StatusServiceUnavailable, "store_unavailable"},
		{delivery.ErrStopped, http.StatusServiceUnavailable, "stopped"},
	} {
		if errors.Is(err, known.is) {
			return known.status, known.code
		}
	}
	return http.StatusInternalServerError, "internal"
}

package pgstore

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/heartline-mqtt/heartline/delivery"
)

// A read that the server refuses for now is one that a caller may repeat.
func TestUnavailable(t *testing.T) {
	for code, want := range map[string]bool{
		"53300": true, "53100": true, "53200": true, // too many connections, no room, no memory
		"57014": true, "57P03": true, // a timeout, a start
		"55P03": true, "40001": true, "40P01": true, // a lock, serialization, a deadlock
		"28P01": true, "3D000": true, // a password that is being changed, a database that is being restored
		"42P01": false, "22P02": false, // faults
	} {
		if got := errors.Is(unavailable("read", &pgconn.PgError{Code: code}), delivery.ErrUnavailable); got != want {
			t.Errorf("%s: unavailable %v, want %v", code, got, want)
		}
	}
}

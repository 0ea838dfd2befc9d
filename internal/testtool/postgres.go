package testtool

import (
	"context"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/pgkit"
)

// Postgres is a PostgreSQL server of the tests' own.
type Postgres = pgkit.Server

// NewPostgres makes a cluster and starts it. settings are lines of postgresql.conf.
// Its data survives the end of its processes, but not of the machine: fsync is off unless
// a setting turns it on.
func NewPostgres(settings ...string) (*Postgres, error) {
	return pgkit.Start(context.Background(), settings...)
}

// StartPostgres is NewPostgres for one test, which it ends with. Without PostgreSQL the
// test is left out.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	NeedPostgres(t)
	pg, err := NewPostgres()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

// NeedPostgres leaves the test out where PostgreSQL is missing.
func NeedPostgres(t testing.TB) {
	t.Helper()
	if err := pgkit.Installed(); err != nil {
		LeaveOut(t, err.Error(), "apt-get install postgresql")
	}
}

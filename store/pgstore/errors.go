package pgstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// SQLSTATE codes that this package tells apart.
const (
	codeFenced          = "HL001" // raised by the function own
	codeUnique          = "23505"
	codeNoPartition     = "23514"
	codeDeadlock        = "40P01"
	codeSerialization   = "40001"
	codeNoStatement     = "26000"
	codeReadOnly        = "25006"
	codeNoRights        = "42501"
	codeNoTable         = "42P01"
	codeNoSchema        = "3F000"
	codeNoDatabase      = "3D000"
	codeBadPassword     = "28P01"
	codeNotLetIn        = "28000"
	codeFull            = "53300"
	codeStarting        = "57P03"
	codeDuplicateTable  = "42P07"
	codeDuplicateObject = "42710"
	codeLockTimeout     = "55P03"
	codeCanceled        = "57014"
	codeNoSetting       = "42704"
)

func code(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// connectionLost reports whether the connection is of no use after err. The outcome of
// the statements under way is then unknown.
func connectionLost(err error) bool {
	c := code(err)
	switch {
	case c == "":
		return true // of the network, or of the client
	case strings.HasPrefix(c, "08"), strings.HasPrefix(c, "57P"), strings.HasPrefix(c, "58"), strings.HasPrefix(c, "XX"):
		return true
	case strings.HasPrefix(c, "25"): // read-only: it is a standby now; idle for too long in a transaction
		return true
	}
	return c == codeNoStatement
}

// passes reports whether the server may answer the same statement later: it takes no more
// connections, lacks room, lets the user in no more, or has ended the statement by a timeout that the
// operator has set.
func passes(err error) bool {
	if c := code(err); len(c) > 2 && slices.Contains([]string{"28", "3D", "40", "53", "55", "57"}, c[:2]) {
		return true
	}
	return connectionLost(err)
}

// unavailable wraps an error of a read: one that passes also as
// delivery.ErrUnavailable.
func unavailable(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, delivery.ErrNotFound):
		return err
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%s: %w", what, delivery.ErrNotFound)
	case passes(err):
		return fmt.Errorf("%s: %w: %w", what, delivery.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// explain says what an error at opening means, and the way out. It holds no password.
func (d *DB) explain(err error) error {
	if err == nil {
		return nil
	}
	at, user, database := d.place(), d.config.User, d.config.Database
	var dns *net.DNSError
	say := func(format string, args ...any) error {
		return fmt.Errorf("PostgreSQL at %s: "+format+": %w", append(append([]any{at}, args...), bare{err})...)
	}
	switch code(err) {
	case codeBadPassword:
		return say("the password of user %q is refused: correct it in the URL of store.postgres.url_file", user)
	case codeNotLetIn:
		return say("user %q is not let in: add the user, or a line for it in pg_hba.conf", user)
	case codeNoDatabase:
		return say("there is no database %q: create it (createdb -O %s %s), or correct the URL", database, user, database)
	case codeNoRights:
		return say("user %q lacks a right that Heartline needs in schema %q: GRANT CREATE ON DATABASE %s TO %s if there is no such schema yet, or else make it the owner of the schema or a member of that role", user, d.opts.Schema, database, user)
	case codeFull:
		return say("it takes no more connections: raise max_connections, or close others")
	case codeNoSetting: // it looks at the settings before it tells its version
		return say("it does not know a setting: it is older than version %d, or the URL of store.postgres.url_file has a setting that no version knows", minServer/10000)
	case codeStarting:
		return say("it is starting up or shutting down: wait")
	}
	switch {
	case errors.As(err, &dns):
		return say("there is no host of that name: correct the URL of store.postgres.url_file")
	case strings.Contains(err.Error(), "server refused TLS connection"), strings.Contains(err.Error(), "tls error"), strings.Contains(err.Error(), "x509:"):
		return say("TLS fails: correct sslmode and sslrootcert in the URL, or the server's certificate")
	case errors.Is(err, pgconn.ErrReadOnlyConnection):
		return say("it takes no writes: name the primary in the URL, or all hosts; or default_transaction_read_only is set for user %q", user)
	case strings.Contains(err.Error(), "unsupported startup parameter"):
		return say("a connection pooler refuses settings that Heartline needs: name PostgreSQL itself in the URL of store.postgres.url_file")
	case errors.Is(err, context.DeadlineExceeded):
		return say("no answer within %v: start it, or correct the URL of store.postgres.url_file", connectTimeout)
	case code(err) == "":
		return say("it does not answer: start it, or correct the URL of store.postgres.url_file")
	}
	return say("it refused")
}

// bare prints an error of pgx without the lines that it adds about the connection.
type bare struct{ error }

func (b bare) Error() string {
	if pg, ok := errors.AsType[*pgconn.PgError](b.error); ok {
		return pg.Message + " (SQLSTATE " + pg.Code + ")"
	}
	s := b.error.Error()
	if _, reason, ok := strings.Cut(s, "\n\t"); ok { // failed to connect to `user=… database=…`:
		s, _, _ = strings.Cut(reason, "\n")
	}
	return s
}

func (b bare) Unwrap() error { return b.error }

// broken is the error of an Apply whose outcome is unknown.
func broken(err error) error { return fmt.Errorf("%w: %w", store.ErrBroken, err) }

func missing(what string, name any) error {
	return fmt.Errorf("%s %v: %w", what, name, delivery.ErrNotFound)
}

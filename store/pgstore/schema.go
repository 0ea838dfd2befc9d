package pgstore

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// format is what this version of Heartline reads and writes.
const format = 1

// version is that of a node, by which those that must not work together are told apart.
const version = 1

//go:embed schema/1.sql
var schema1 string

// added are tables that came after format 1 had been in use. A node that does not know them does
// without.
//
//go:embed schema/added.sql
var added string

// Format returns the format of the tables in the database; 0: there are none.
func (d *DB) Format(ctx context.Context) (int, error) {
	var there bool
	if err := d.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'meta')`, d.opts.Schema).Scan(&there); err != nil {
		return 0, d.explain(err)
	}
	if !there {
		var others int
		if err := d.pool.QueryRow(ctx, `SELECT count(*) FROM pg_tables WHERE schemaname = $1`, d.opts.Schema).Scan(&others); err != nil {
			return 0, d.explain(err)
		}
		if others > 0 {
			return 0, fmt.Errorf("schema %q of %s has %d tables that are not Heartline's: name another in store.postgres.schema", d.opts.Schema, d.place(), others)
		}
		return 0, nil
	}
	var found int
	if err := d.pool.QueryRow(ctx, d.sql.format).Scan(&found); err != nil {
		return 0, d.explain(err)
	}
	return found, nil
}

func checkFormat(schema string, found int) error {
	switch {
	case found > format:
		return fmt.Errorf("schema %q has format %d, and this Heartline knows formats up to %d: start the newer version that made it", schema, found, format)
	case found < format:
		return fmt.Errorf("schema %q has format %d, and this Heartline needs %d: run `heartline store migrate`", schema, found, format)
	}
	return nil
}

// checkOwner refuses a role that may use the tables and not make new ones: it would work until the days
// that have their tables are over.
func (d *DB) checkOwner(ctx context.Context) error {
	var owns bool
	var owner string
	if err := d.pool.QueryRow(ctx, `
		SELECT pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE'), pg_get_userbyid(c.relowner)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = 'notification'`, d.opts.Schema).Scan(&owns, &owner); err != nil {
		return d.explain(err)
	}
	if !owns {
		user := d.pool.Config().ConnConfig.User
		return fmt.Errorf("PostgreSQL at %s: user %q cannot make the tables of each day in schema %q, which has the owner %q: GRANT %s TO %s", d.place(), user, d.opts.Schema, owner, owner, user)
	}
	return nil
}

// Migrate makes the tables, or brings them to the format of this version, and returns
// the format that it found. It is one transaction, and safe to run on several nodes at
// once.
func (d *DB) Migrate(ctx context.Context) (from int, err error) {
	if from, err = d.Format(ctx); err != nil {
		return 0, err
	}
	if from > format {
		return from, checkFormat(d.opts.Schema, from)
	}
	err = pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if err := d.lockSchema(ctx, tx); err != nil {
			return err
		}
		var there bool // another one may have been faster
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'meta')`, d.opts.Schema).Scan(&there); err != nil || there {
			return err
		}
		quoted := pgx.Identifier{d.opts.Schema}.Sanitize()
		// IF NOT EXISTS asks for the right to create schemas also where it exists.
		var schema bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)`, d.opts.Schema).Scan(&schema); err != nil {
			return err
		}
		if !schema {
			if _, err := tx.Exec(ctx, "CREATE SCHEMA "+quoted); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, strings.ReplaceAll(schema1+added, "{schema}", quoted))
		return err
	})
	if err != nil {
		return from, d.explain(err)
	}
	return from, nil
}

// addTables makes the added tables where they are not there.
func (d *DB) addTables(ctx context.Context) error {
	var there bool
	if err := d.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'erased')`, d.opts.Schema).Scan(&there); err != nil || there {
		return d.explain(err)
	}
	return d.explain(pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if err := d.lockSchema(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, strings.ReplaceAll(added, "{schema}", pgx.Identifier{d.opts.Schema}.Sanitize()))
		return err
	}))
}

// lockSchema keeps two nodes from making tables at once, until tx ends.
func (d *DB) lockSchema(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('heartline schema ' || $1, 0))`, d.opts.Schema)
	return err
}

// Drop removes the schema with everything in it, other people's tables too.
func (d *DB) Drop(ctx context.Context) error {
	if _, err := d.pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{d.opts.Schema}.Sanitize()+" CASCADE"); err != nil {
		return d.explain(err)
	}
	return nil
}

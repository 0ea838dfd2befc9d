package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// ErrNoDatabase is wrapped by the errors of OpenDatabase where the configuration names
// another engine than postgres.
var ErrNoDatabase = errors.New("there is no database to look at")

// Database is the PostgreSQL of a configuration, for who looks at it without being a
// node: nothing of it is changed but by Migrate and Drop. Close it.
type Database struct{ db *pgstore.DB }

// OpenDatabase connects to store.postgres, whatever tables it has.
func OpenDatabase(ctx context.Context, cfg *config.Config, log *slog.Logger) (*Database, error) {
	if cfg.Store.Engine != config.EnginePostgres {
		return nil, fmt.Errorf("%w: store.engine is %s, not postgres", ErrNoDatabase, cfg.Store.Engine)
	}
	opts, err := postgresOptions(cfg, log)
	if err != nil {
		return nil, err
	}
	db, err := pgstore.Connect(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("store.postgres: %w", err)
	}
	return &Database{db}, nil
}

// Close ends the connections.
func (d *Database) Close() { d.db.Close() }

// Migrate makes the tables, or brings them to the format of this version. It returns the
// format that it found (0: no tables) and the one they have now.
func (d *Database) Migrate(ctx context.Context) (from, to int, err error) {
	if from, err = d.db.Migrate(ctx); err != nil {
		return from, from, err
	}
	to, err = d.db.Format(ctx)
	return from, to, err
}

// Place is the host and the database, without a password.
func (d *Database) Place() string { return d.db.Place() }

// Status is what the database tells of itself and of the store in it.
func (d *Database) Status(ctx context.Context) (pgstore.Status, error) { return d.db.Status(ctx) }

// DatabaseNode is a node as the database has it.
type DatabaseNode struct {
	pgstore.Member
	Parts int // that it owns
}

// Nodes returns the nodes, and how many partitions nobody owns.
func (d *Database) Nodes(ctx context.Context) (nodes []DatabaseNode, free int, err error) {
	switch format, err := d.db.Format(ctx); {
	case err != nil:
		return nil, 0, err
	case format == 0:
		return nil, 0, fmt.Errorf("%w: %s has no tables of Heartline; a node makes them at its start, and so does `heartline store migrate`", ErrNoDatabase, d.Place())
	}
	members, err := d.db.Members(ctx)
	if err != nil {
		return nil, 0, err
	}
	parts, err := d.db.Parts(ctx)
	if err != nil {
		return nil, 0, err
	}
	owned := map[int64]int{}
	for _, p := range parts {
		owned[p.Node]++
	}
	for _, m := range members {
		nodes = append(nodes, DatabaseNode{m, owned[m.ID]})
	}
	return nodes, owned[0], nil
}

// Owner returns the partition of an account and the node that owns it; "": none does at
// the moment.
func (d *Database) Owner(ctx context.Context, account string) (part uint16, node string, err error) {
	part = cluster.Partition(account)
	members, err := d.db.Members(ctx)
	if err != nil {
		return part, "", err
	}
	parts, err := d.db.Parts(ctx)
	if err != nil {
		return part, "", err
	}
	for _, p := range parts {
		for _, m := range members {
			if p.Part == part && p.Node == m.ID {
				return part, m.Name, nil
			}
		}
	}
	return part, "", nil
}

// Drop removes store.postgres.schema with everything in it, for schemas that are made to
// be thrown away.
func (d *Database) Drop(ctx context.Context) error { return d.db.Drop(ctx) }

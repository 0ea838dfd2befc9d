package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/broker"
)

func (p *program) storeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "store", Short: "Look at the database of a store on PostgreSQL, or make its tables", GroupID: groupServer,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("say what to do: store status, or store migrate")
		},
	}
	status := p.databaseCommand(&cobra.Command{
		Use: "status", Short: "Show the database, its format, its nodes and its totals",
		Long: `Connects to store.postgres and shows the server, how durable a commit is, the format of
the tables, and how many deliveries there are. It changes nothing, and can be run beside
running nodes. It exits with 1 if a delivery is unaccounted for.`,
		Args: cobra.NoArgs,
	}, p.storeStatus)
	migrate := p.databaseCommand(&cobra.Command{
		Use: "migrate", Short: "Make the tables, or bring them to the format of this version",
		Long: `Makes the tables of store.postgres, or brings them to the format of this version, in one
transaction. A node that starts makes missing tables by itself; use this command where
the nodes' role may not create any.`,
		Args: cobra.NoArgs,
	}, p.storeMigrate)
	cmd.AddCommand(status, migrate)
	return cmd
}

// databaseCommand has a command work on the database of the configuration.
func (p *program) databaseCommand(cmd *cobra.Command, run func(context.Context, *broker.Database) error) *cobra.Command {
	source := p.configSource(cmd).hideServer()
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		cfg, err := source.load()
		if err != nil {
			return err
		}
		db, err := broker.OpenDatabase(ctx, cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer db.Close()
		return run(ctx, db)
	})
	return cmd
}

func (p *program) storeMigrate(ctx context.Context, db *broker.Database) error {
	from, to, err := db.Migrate(ctx)
	switch {
	case err != nil:
		return err
	case from == 0:
		fmt.Fprintf(p.Stdout, "%s: tables of format %d made\n", db.Place(), to)
	case from == to:
		fmt.Fprintf(p.Stdout, "%s: the tables have format %d, there is nothing to do\n", db.Place(), to)
	default:
		fmt.Fprintf(p.Stdout, "%s: tables brought from format %d to %d\n", db.Place(), from, to)
	}
	return nil
}

func (p *program) storeStatus(ctx context.Context, db *broker.Database) error {
	s, err := db.Status(ctx)
	if err != nil {
		return err
	}
	durable := "a commit is on the disk when it returns"
	if !s.Fsync {
		durable = "fsync is off: a power loss can lose what was accepted"
	} else if s.Sync == "off" {
		durable = "synchronous_commit is off: a crash can lose what was accepted"
	}
	rows := [][]string{
		{"database", db.Place()},
		{"server", "PostgreSQL " + s.Server},
		{"durability", durable},
		{"replication", s.Replication.String()},
	}
	if s.Format == 0 {
		p.table(append(rows, []string{"tables", "none: a node makes them at its start, and so does `heartline store migrate`"}))
		return nil
	}
	p.table(append(rows, [][]string{
		{"format", strconv.Itoa(s.Format)},
		{"nodes", strconv.Itoa(len(s.Members))},
		{"days of history", fmt.Sprintf("%d, %d of them ahead", s.Days, s.DaysAhead)},
		{"deliveries", fmt.Sprintf("%d accepted, %d finished, %d outstanding, %d unaccounted for", s.Accepted, s.Finished, s.Outstanding, s.Unaccounted())},
	}...))
	if n := s.Unaccounted(); n != 0 {
		return fmt.Errorf("%d deliveries are unaccounted for: please report it, with this table", n)
	}
	return nil
}

func (p *program) nodesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "nodes", Short: "List the nodes of a store on PostgreSQL: leases and partitions", GroupID: groupServer,
		Long: `Lists the nodes that the database of store.postgres knows: where the others reach each,
how long its lease still runs, and how many of the partitions of the accounts it owns. It
changes nothing, and can be run beside running nodes. With --account it tells which node
owns an account.`,
		Args: cobra.NoArgs,
	}
	account := cmd.Flags().String("account", "", "tell which node owns this account")
	return p.databaseCommand(cmd, func(ctx context.Context, db *broker.Database) error {
		nodes, free, err := db.Nodes(ctx)
		if err != nil {
			return err
		}
		rows := [][]string{{"NODE", "LIFE", "ADDRESS", "LEASE", "PARTITIONS", "STATE"}}
		for _, n := range nodes {
			state, lease := "serving", n.Left.Round(100*time.Millisecond).String()+" left"
			switch {
			case n.Left < 0:
				state, lease = "silent", "over since "+(-n.Left).Round(100*time.Millisecond).String()
			case n.Leaving:
				state = "leaving"
			}
			address := n.Address
			if address == "" {
				address = "none (one node)"
			}
			rows = append(rows, []string{n.Name, strconv.FormatInt(n.ID, 10), address, lease, strconv.Itoa(n.Parts), state})
		}
		p.table(rows)
		if free > 0 {
			fmt.Fprintf(p.Stdout, "%d partitions have no owner at the moment\n", free)
		}
		if *account == "" {
			return nil
		}
		part, owner, err := db.Owner(ctx, *account)
		if err != nil {
			return err
		}
		if owner == "" {
			owner = "nobody at the moment"
		}
		fmt.Fprintf(p.Stdout, "\naccount %s is in partition %d, which is owned by %s\n", *account, part, owner)
		return nil
	})
}

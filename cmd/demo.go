package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/demo"
	"github.com/heartline-mqtt/heartline/internal/pgkit"
)

func (p *program) demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "demo", Short: "Play the loop's four paths once, in about 15 s", GroupID: groupServer,
		Long: `Plays the four paths of a notification on embedded parts: a broker with a store
in a directory that is thrown away, stand-ins for Apple's, Google's and the browsers'
push services, and for each path an iPhone, an Android phone and a browser.
Nothing outside this process is needed. The exit code is 0 only if each path went
as it should.

With --xmpp it starts the ejabberd and the Prosody of this machine, one after the
other, and plays the paths over XMPP, with two more: a dead session, and a chat
message to a user who is absent. Where neither is installed it says what to install.

With --nodes it runs three nodes over one PostgreSQL, each a process of its own, kills
one with kill -9 while it delivers, and shows that the notification arrives, and how
long the accounts of that node were not served. It starts the PostgreSQL of this machine
in a directory that is thrown away; --postgres, or HEARTLINE_STORE_POSTGRES_URL, names
a database instead, in which it makes a schema of its own and removes it at the end. The
exit code is 0 only if nothing was lost.`,
		Example: `  heartline demo
  heartline demo --nodes
  HEARTLINE_STORE_POSTGRES_URL=postgres://me:secret@db.example.org/test heartline demo --nodes`,
		Args: cobra.NoArgs,
	}
	nodes := cmd.Flags().Bool("nodes", false, "play three nodes over one PostgreSQL, and kill one")
	url := cmd.Flags().String("postgres", "", "with --nodes: the URL of the database; others on this machine can see it, HEARTLINE_STORE_POSTGRES_URL they cannot")
	xmpp := cmd.Flags().Bool("xmpp", false, "play the paths on the ejabberd and the Prosody of this machine")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		switch {
		case *nodes:
			return p.demoNodes(ctx, *url)
		case *xmpp:
			return demo.RunXMPP(ctx, p.Stdout, nil)
		}
		return demo.Run(ctx, p.Stdout)
	})
	cmd.MarkFlagsMutuallyExclusive("nodes", "xmpp")
	cmd.MarkFlagsMutuallyExclusive("postgres", "xmpp")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *url != "" && !*nodes {
			return usagef("--postgres is for --nodes only")
		}
		return nil
	}
	return cmd
}

func (p *program) demoNodes(ctx context.Context, url string) error {
	if url == "" {
		url = p.getenv("HEARTLINE_STORE_POSTGRES_URL")
	}
	file, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, which the nodes run: %w", err)
	}
	err = demo.RunNodes(ctx, p.Stdout, demo.NodesOptions{Program: file, Environ: p.Environ, Postgres: url})
	if errors.Is(err, pgkit.ErrMissing) {
		return fmt.Errorf("%w, or name a database with --postgres URL", err)
	}
	return err
}

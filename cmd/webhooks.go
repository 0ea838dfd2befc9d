package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/wire"
)

func (p *program) webhooksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "webhooks", Short: "List, retry and test the webhooks, and make their secrets", GroupID: groupClient,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("say what to do: webhooks list, parked, retry, test or secret")
		},
	}
	cmd.AddCommand(p.webhooksListCommand(), p.webhooksParkedCommand(), p.webhooksRetryCommand(), p.webhooksTestCommand(), p.webhooksSecretCommand())
	return cmd
}

func (p *program) webhooksListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the webhooks and how each is doing", Args: cobra.NoArgs}
	srv := p.callsServer(cmd)
	cmd.GroupID = ""
	asJSON := cmd.Flags().Bool("json", false, "as JSON")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		c, err := srv.client()
		if err != nil {
			return err
		}
		var list wire.WebhookList
		raw, err := c.call(ctx, http.MethodGet, "/v1/webhooks", nil, nil, &list)
		if err != nil {
			return err
		}
		if *asJSON {
			return p.printJSON(raw)
		}
		if len(list.Webhooks) == 0 {
			fmt.Fprintln(p.Stdout, "no webhooks: receipts.webhooks in the configuration names them")
			return nil
		}
		rows := [][]string{{"NAME", "STATE", "LAG", "DELIVERED", "FAILED", "DEFERRED", "PARKED", "DROPPED", "LAST ERROR"}}
		for _, w := range list.Webhooks {
			lag := time.Duration(w.Lag * float64(time.Second)).Round(time.Second).String()
			rows = append(rows, []string{
				w.Name, w.State, lag, strconv.FormatUint(w.Delivered, 10), strconv.FormatUint(w.Failed, 10),
				strconv.Itoa(w.Deferred), strconv.Itoa(w.Parked), strconv.FormatUint(w.Dropped, 10), cmp.Or(w.Reason, w.LastError, "-"),
			})
		}
		p.table(rows)
		return nil
	})
	return cmd
}

// maxParked is the API's limit for one list.
const maxParked = 1000

func (p *program) webhooksParkedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "parked NAME", Short: "List the events of a webhook for which every attempt has failed",
		Args: exactArgs(1, "webhooks parked NAME"),
	}
	srv := p.callsServer(cmd)
	cmd.GroupID = ""
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		c, err := srv.client()
		if err != nil {
			return err
		}
		var list wire.ParkedList
		if _, err := c.call(ctx, http.MethodGet, "/v1/webhooks/parked", url.Values{"name": args, "limit": {strconv.Itoa(maxParked)}}, nil, &list); err != nil {
			return err
		}
		if len(list.Parked) == 0 {
			fmt.Fprintln(p.Stdout, "nothing is parked")
			return nil
		}
		rows := [][]string{{"WEBHOOK-ID", "EVENT", "NOTIFICATION", "TIME", "ATTEMPTS", "ERROR"}}
		for _, e := range list.Parked {
			rows = append(rows, []string{e.WebhookID, e.Event, cmp.Or(e.ID, "-"), e.Time, strconv.Itoa(e.Attempts), e.Error})
		}
		p.table(rows)
		if len(list.Parked) == maxParked {
			fmt.Fprintf(p.Stderr, "these are the oldest %d; `heartline webhooks list` counts all\n", maxParked)
		}
		return nil
	})
	return cmd
}

func (p *program) webhooksRetryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "retry NAME [WEBHOOK-ID...]", Short: "Send parked events again, and enable a disabled webhook",
		Long: `Sends the parked events of a webhook again, or those named. It also enables a webhook
whose receiver has answered 410, and makes the next attempt at once. For the role admin.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return usagef("name a webhook: heartline webhooks retry NAME [WEBHOOK-ID...]")
			}
			return nil
		},
	}
	srv := p.callsServer(cmd)
	cmd.GroupID = ""
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		c, err := srv.client()
		if err != nil {
			return err
		}
		var done wire.WebhookRetry
		if _, err := c.call(ctx, http.MethodPost, "/v1/webhooks/retry", url.Values{"name": args[:1], "id": args[1:]}, nil, &done); err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.Stdout, "%s  %d parked events are sent again\n", plain(args[0]), done.Retried)
		return err
	})
	return cmd
}

func (p *program) webhooksTestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "test NAME", Short: "Send a test message to a webhook, and print the answer",
		Long: `Sends a message of the type test, once, and waits for the answer. Exits 1 unless the
receiver takes it. For the role admin.`,
		Args: exactArgs(1, "webhooks test NAME"),
	}
	srv := p.callsServer(cmd)
	cmd.GroupID = ""
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		c, err := srv.client()
		if err != nil {
			return err
		}
		var t wire.WebhookTest
		if _, err := c.call(ctx, http.MethodPost, "/v1/webhooks/test", url.Values{"name": args}, nil, &t); err != nil {
			return err
		}
		if t.Error != "" {
			return errors.New(plain(args[0] + ": " + t.Error))
		}
		_, err = fmt.Fprintf(p.Stdout, "%s  answered %d after %s\n", plain(args[0]), t.Status, t.Took)
		return err
	})
	return cmd
}

func (p *program) webhooksSecretCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "secret", Short: "Make a secret for a webhook",
		Long: `Prints a new secret in the form of Standard Webhooks, for the file that secret_file
names and for the backend that verifies the signatures. To change a secret, put the new
one above the old one in the file, reload, give the backend the new one, and take the old
one out.`,
		Example: "  (umask 077; heartline webhooks secret > /etc/heartline/webhook.secret)",
		Args:    cobra.NoArgs,
	}
	cmd.RunE = p.action(func(context.Context, []string) error {
		_, err := fmt.Fprintln(p.Stdout, credentials.NewWebhookSecret())
		return err
	})
	return cmd
}

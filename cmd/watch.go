package cmd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/wire"
)

func (p *program) watchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show events as they happen",
		Long: `Shows every event of every notification as it happens, until interrupted. Where
the connection is lost it is made again; what happened meanwhile may be missing,
and a line on standard error says so.`,
		Args: cobra.NoArgs,
	}
	srv := p.callsServer(cmd)
	asJSON := cmd.Flags().Bool("json", false, "one JSON object a line")
	filters := []string{"account", "device", "id"}
	cmd.Flags().String("account", "", "only those of this `account`")
	cmd.Flags().String("device", "", "only those of this `device`")
	cmd.Flags().String("id", "", "only those of this `notification`")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		c, err := srv.client()
		if err != nil {
			return err
		}
		query := url.Values{}
		for _, f := range filters {
			if cmd.Flags().Changed(f) { // the server refuses an empty one
				v, _ := cmd.Flags().GetString(f)
				query.Set(f, v)
			}
		}
		show := p.printStreamEvent
		if *asJSON {
			show = func(data []byte) error {
				_, err := fmt.Fprintf(p.Stdout, "%s\n", data)
				return err
			}
		}
		return p.watch(ctx, c, query, show)
	})
	return cmd
}

// Pauses before a lost connection is made again.
const (
	watchPause    = 500 * time.Millisecond
	watchPauseMax = 10 * time.Second
)

// watch follows the stream until ctx ends. A stream that could not be opened even
// once is an error, and so is one that the server refuses, as after the token was revoked;
// one that was lost is opened again.
func (p *program) watch(ctx context.Context, c *client, query url.Values, show func([]byte) error) error {
	var lastID string
	var opened bool
	pause := watchPause
	for {
		var lost, printing error
		lastID, lost = c.stream(ctx, query, lastID, func() {
			if opened {
				p.say("connected again; events in between may be missing")
			}
			opened, pause = true, watchPause
		}, func(data []byte) error {
			printing = show(data)
			return printing
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // to be interrupted is how a watch ends
		}
		if printing != nil || !opened {
			return lost
		}
		if r, refused := errors.AsType[*refusal](lost); refused && r.final() {
			return lost
		}
		p.say(fmt.Sprintf("the connection is lost (%v), trying again in %s", lost, pause))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, watchPauseMax)
	}
}

// printStreamEvent writes one line. The columns are wide enough for nearly all
// events, because the widths of later ones are unknown.
func (p *program) printStreamEvent(data []byte) error {
	var e wire.StreamEvent
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	line := fmt.Sprintf("%s  %-16s  %-12s  %-12s  %s", p.clock(wire.ParseTime(e.Time)), plain(e.Event),
		plain(cmp.Or(e.Account, "-")), plain(cmp.Or(e.Device, "-")), plain(cmp.Or(e.ID, "-")))
	if e.Attempt > 0 {
		line += fmt.Sprintf("  attempt %d", e.Attempt)
	}
	if e.Detail != "" {
		line += "  " + plain(e.Detail)
	}
	_, err := fmt.Fprintln(p.Stdout, line)
	return err
}

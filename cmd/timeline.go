package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/wire"
)

func (p *program) timelineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "timeline ID",
		Short: "Tell what became of a notification",
		Long: `Prints the state of each delivery of a notification and every event since it was
accepted, with the time (local) and the time since then. The last line is the verdict.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("give the ID of one notification: heartline timeline ID")
			}
			return nil
		},
	}
	srv := p.callsServer(cmd)
	asJSON := cmd.Flags().Bool("json", false, "the server's answer, as it came")
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		c, err := srv.client()
		if err != nil {
			return err
		}
		n, raw, err := c.notification(ctx, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return p.printRaw(raw)
		}
		p.printNotification(n)
		return nil
	})
	return cmd
}

func (c *client) notification(ctx context.Context, id string) (*wire.NotificationView, json.RawMessage, error) {
	var n wire.NotificationView
	raw, err := c.call(ctx, http.MethodGet, "/v1/notifications/"+segment(id), nil, nil, &n)
	return &n, raw, err
}

func (p *program) printNotification(n *wire.NotificationView) {
	accepted := wire.ParseTime(n.AcceptedAt)
	rows := [][]string{
		{"notification", n.ID},
		{"account", n.Account},
	}
	if n.Title != "" {
		rows = append(rows, []string{"title", n.Title})
	}
	if n.Body != "" {
		rows = append(rows, []string{"body", n.Body})
	}
	rows = append(rows,
		[]string{"accepted", p.date(accepted)},
		[]string{"expires", p.date(wire.ParseTime(n.ExpiresAt))},
		[]string{"state", n.State},
	)
	p.table(rows)

	fmt.Fprintln(p.Stdout)
	rows = [][]string{{"DEVICE", "STATE", "ATTEMPTS", "PUSHED"}}
	for _, d := range n.Deliveries {
		rows = append(rows, []string{d.Device, d.State, strconv.Itoa(d.Attempts), yes(d.Pushed)})
	}
	p.table(rows)

	fmt.Fprintln(p.Stdout)
	rows = [][]string{{"TIME", "AFTER", "EVENT", "DEVICE", "ATTEMPT", "DETAIL"}}
	for _, e := range n.Timeline {
		rows = append(rows, p.eventRow(accepted, e))
	}
	p.table(rows)
	fmt.Fprintf(p.Stdout, "\n%s\n", plain(wire.Verdict(n, p.minute)))
}

func (p *program) eventRow(accepted time.Time, e wire.TimelineEvent) []string {
	t := wire.ParseTime(e.Time)
	return []string{p.clock(t), since(accepted, t), e.Event, e.Device, attempt(e.Attempt), e.Detail}
}

func attempt(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

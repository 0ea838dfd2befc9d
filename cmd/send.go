package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/wire"
)

func (p *program) sendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send --account ACCOUNT [--title TEXT] [--body TEXT]",
		Short: "Notify an account",
		Long: `Sends one notification and prints its ID once the server has it on disk.

With --wait it follows the notification, prints each event and a verdict, and ends when every
delivery is final. It then exits 0 if at least one device has acknowledged, and 1
if none has (expired, superseded, cancelled).`,
		Example: `  heartline send --account alice --title Hello --body "It works" --wait
  heartline send --account alice --title Order --data '{"order": 7}' --id order-7
  heartline send --account alice --title Report --data @report.json --ttl 1h`,
		Args: cobra.NoArgs,
	}
	srv := p.callsServer(cmd)
	f := cmd.Flags()
	var n wire.Notification
	f.StringVar(&n.Account, "account", "", "account to notify (required)")
	f.StringVar(&n.Title, "title", "", "title of the tip")
	f.StringVar(&n.Body, "body", "", "body of the tip")
	data := f.String("data", "", "full message: JSON, @file or @- (standard input)")
	f.StringVar(&n.ID, "id", "", "ID; the same again is not sent twice")
	f.StringVar(&n.CollapseKey, "collapse-key", "", "takes the place of an unfinished notification with this `key`")
	f.StringVar((*string)(&n.TTL), "ttl", "", "how long it is tried, a `duration` such as 1h")
	f.StringVar(&n.Ack, "ack", "", "`ack` that completes it: received or displayed")
	f.StringVar(&n.Urgency, "urgency", "", "high or normal")
	f.StringVar(&n.Sound, "sound", "", "sound to play")
	f.StringVar(&n.Category, "category", "", "category of actions")
	badge := f.Int("badge", 0, "number on the app's icon")
	noFallback := f.Bool("no-fallback", false, "over the channel only, never a push")
	f.StringArrayVar(&n.Devices, "device", nil, "only to this `device` of the account; may be repeated")
	wait := f.Bool("wait", false, "follow it until every delivery is final")
	asJSON := f.Bool("json", false, "the server's answer as it came; with --wait the last one")
	_ = cmd.MarkFlagRequired("account") // it exists
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		if n.Title == "" && n.Body == "" && *data == "" {
			return usagef("there is nothing to send: give --title, --body or --data")
		}
		var err error
		if n.Data, err = p.jsonArg("--data", *data); err != nil {
			return err
		}
		if f.Changed("badge") {
			n.Badge = badge
		}
		if *noFallback {
			n.Fallback = new(bool)
		}
		c, err := srv.client()
		if err != nil {
			return err
		}
		var a wire.Accepted
		raw, err := c.call(ctx, http.MethodPost, "/v1/notifications", nil, n, &a)
		if err != nil {
			return err
		}
		if !*wait {
			if *asJSON {
				return p.printRaw(raw)
			}
			p.printAccepted(&a)
			return nil
		}
		return p.follow(ctx, c, a.ID, *asJSON)
	})
	return cmd
}

// jsonArg reads the value of a flag: JSON, @file or @-.
func (p *program) jsonArg(flag, arg string) (json.RawMessage, error) {
	text := []byte(arg)
	var err error
	switch file, isFile := strings.CutPrefix(arg, "@"); {
	case arg == "":
		return nil, nil
	case isFile && file == "-":
		text, err = io.ReadAll(p.Stdin)
	case isFile:
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	if !json.Valid(text) {
		return nil, usagef("%s: must be JSON, or @ and the name of a file that holds JSON (a text is JSON in quotes: '\"hello\"')", flag)
	}
	return text, nil
}

func (p *program) printRaw(raw json.RawMessage) error {
	return p.printJSON(raw) // indented
}

func (p *program) printAccepted(a *wire.Accepted) {
	fmt.Fprintf(p.Stdout, "%s  accepted for %s\n", plain(a.ID), plain(a.Account))
	rows := [][]string{{"DEVICE", "STATE"}}
	for _, d := range a.Deliveries {
		rows = append(rows, []string{d.Device, d.State})
	}
	p.table(rows)
}

// follow prints the events of a notification until each of its deliveries is
// final. It prints the timeline; the stream of events only says when to read it again,
// so that no event is missed if the stream begins late or breaks.
func (p *program) follow(ctx context.Context, c *client, id string, asJSON bool) error {
	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	news := make(chan struct{}, 1)
	streams.Go(func() {
		kick := func() {
			select {
			case news <- struct{}{}:
			default:
			}
		}
		// Without a stream the ticker is left, so that its error tells nothing.
		_, _ = c.stream(ctx, url.Values{"id": {id}}, "", kick, func([]byte) error { kick(); return nil })
	})
	ticker := time.NewTicker(p.lookEvery)
	defer ticker.Stop()

	printed := 0
	for {
		n, raw, err := c.notification(ctx, id)
		if err != nil {
			return interrupted(ctx, err)
		}
		if !asJSON {
			printed = p.printNews(n, printed)
		}
		if done, outcome := outcomeOf(n); done {
			if asJSON {
				if err := p.printRaw(raw); err != nil {
					return err
				}
			} else {
				fmt.Fprintln(p.Stdout, plain(wire.Verdict(n, p.minute)))
			}
			return outcome
		}
		select {
		case <-ctx.Done():
			return interrupted(ctx, nil)
		case <-news:
		case <-ticker.C:
		}
	}
}

// interrupted: whoever waits has to know that nothing has been waited for.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted before every delivery was final")
	}
	return err
}

// printNews prints the events of n after the first printed of them.
func (p *program) printNews(n *wire.NotificationView, printed int) int {
	accepted := wire.ParseTime(n.AcceptedAt)
	if printed == 0 {
		fmt.Fprintf(p.Stdout, "%s  to %s\n", plain(n.ID), plain(n.Account))
	}
	for ; printed < len(n.Timeline); printed++ {
		e := n.Timeline[printed]
		t := wire.ParseTime(e.Time)
		line := fmt.Sprintf("%s  %9s  %-16s  %-12s  %-3s  %s", p.clock(t), since(accepted, t), plain(e.Event), plain(e.Device), attempt(e.Attempt), plain(e.Detail))
		fmt.Fprintln(p.Stdout, strings.TrimRight(line, " "))
	}
	return printed
}

// outcomeOf says whether every delivery is final, and if none was acked, why.
func outcomeOf(n *wire.NotificationView) (done bool, err error) {
	if len(n.Deliveries) == 0 { // held for an account without devices, until one registers
		switch n.State {
		case "expired", "superseded", "cancelled":
			return true, fmt.Errorf("no device has acknowledged %s: %s, the account has had none", n.ID, n.State)
		}
		return false, nil
	}
	acked := false
	var others []string
	for _, d := range n.Deliveries {
		switch d.State {
		case "acked":
			acked = true
		case "expired", "superseded", "cancelled":
			others = append(others, d.Device+" "+d.State)
		default:
			return false, nil
		}
	}
	if acked {
		return true, nil
	}
	return true, fmt.Errorf("no device has acknowledged %s: %s", n.ID, plain(strings.Join(others, ", ")))
}

package cmd

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/wire"
)

func (p *program) devicesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "devices [ACCOUNT]",
		Short: "List the devices of an account, or all, and the state of their channels",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] == "" {
				return usagef("give one account, or none for the devices of all: heartline devices [ACCOUNT]")
			}
			return nil
		},
	}
	srv := p.callsServer(cmd)
	asJSON := cmd.Flags().Bool("json", false, "as JSON: {\"devices\": [...]}")
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		c, err := srv.client()
		if err != nil {
			return err
		}
		account := ""
		if len(args) > 0 {
			account = args[0]
		}
		devices, raw, err := c.devices(ctx, account)
		if err != nil {
			return err
		}
		if *asJSON {
			return p.printJSON(struct {
				Devices []json.RawMessage `json:"devices"`
			}{raw})
		}
		if len(devices) == 0 {
			fmt.Fprintln(p.Stdout, "no devices: one is known from its first subscription to its notifications topic, its first push token, or a PUT")
			return nil
		}
		now := time.Now()
		rows := [][]string{{"ACCOUNT", "DEVICE", "CHANNEL", "SINCE", "HEARTBEAT", "KEEPALIVE", "APP", "PUSH", "OUTSTANDING", "REMOTE"}}
		for _, d := range devices {
			rows = append(rows, deviceRow(now, d))
		}
		p.table(rows)
		return nil
	})
	cmd.AddCommand(p.devicesPutCommand(), p.devicesForgetCommand(), p.devicesDisconnectCommand())
	return cmd
}

// devices reads the pages of an account's devices, or of all where account is "".
// It returns each as it came, too.
func (c *client) devices(ctx context.Context, account string) ([]wire.DeviceView, []json.RawMessage, error) {
	path := "/v1/devices"
	if account != "" {
		path = "/v1/accounts/" + segment(account) + "/devices"
	}
	var devices []wire.DeviceView
	raws := []json.RawMessage{} // [] in JSON where there is none
	query := url.Values{}
	for {
		var page struct {
			Devices []json.RawMessage `json:"devices"`
			Next    string            `json:"next"`
		}
		if _, err := c.call(ctx, http.MethodGet, path, query, nil, &page); err != nil {
			return nil, nil, err
		}
		for _, raw := range page.Devices {
			var d wire.DeviceView
			if err := json.Unmarshal(raw, &d); err != nil {
				return nil, nil, fmt.Errorf("read a device of the answer: %w", err)
			}
			devices = append(devices, d)
			raws = append(raws, raw)
		}
		if page.Next == "" || page.Next == query.Get("cursor") {
			return devices, raws, nil
		}
		query.Set("cursor", page.Next)
	}
}

// pushWords says how notification servers reach a device, and why one does not.
func pushWords(rs []wire.RegistrationView) string {
	words := make([]string, len(rs))
	for i, r := range rs {
		words[i] = r.Server
		if r.Kind != "alert" {
			words[i] += " " + r.Kind
		}
		if r.Environment != "" {
			words[i] += " " + r.Environment
		}
		switch {
		case r.Ended != nil:
			words[i] += " (ended: " + r.Ended.Reason + ")"
		case r.Suspended != nil:
			words[i] += " (suspended: " + r.Suspended.Reason + ")"
		}
	}
	return strings.Join(words, ", ")
}

func deviceRow(now time.Time, d wire.DeviceView) []string {
	keepalive, push := "-", "-"
	if d.Channel.Keepalive > 0 {
		keepalive = time.Duration(d.Channel.Keepalive * float64(time.Second)).String()
	}
	if len(d.Registrations) > 0 {
		push = pushWords(d.Registrations)
	}
	return []string{
		d.Account, d.Device, d.Channel.State, ago(now, wire.ParseTime(d.Channel.Since)), ago(now, wire.ParseTime(d.Channel.LastHeartbeat)), keepalive,
		cmp.Or(d.App, "-"), push, strconv.Itoa(d.Outstanding), cmp.Or(d.Channel.Remote, "-"),
	}
}

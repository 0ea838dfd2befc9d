package cmd

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/spf13/cobra"
)

// exactArgs takes n arguments, none of them empty; usage is what the error shows.
func exactArgs(n int, usage string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if slices.Contains(args, "") {
			return usagef("no argument may be empty: heartline %s", usage)
		}
		if len(args) != n {
			return usagef("give %d arguments: heartline %s", n, usage)
		}
		return nil
	}
}

func (p *program) cancelCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "Cancel a notification's deliveries that are not final, and take it off the screens",
		Long: `Cancels every delivery of a notification that is not final. Cancelling twice does no
harm. With --erase its content and its timeline are erased, too.`,
		Args: exactArgs(1, "cancel ID"),
	}
	srv := p.callsServer(cmd)
	erase := cmd.Flags().Bool("erase", false, "erase its content and its timeline, too")
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		query := url.Values{}
		done := "cancelled"
		if *erase {
			query.Set("erase", "true")
			done = "cancelled and erased"
		}
		return p.act(ctx, srv, http.MethodDelete, "/v1/notifications/"+segment(args[0]), query, nil, args[0]+"  "+done)
	})
	return cmd
}

func (p *program) dismissCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dismiss ID",
		Short: "Take a notification off every screen",
		Args:  exactArgs(1, "dismiss ID"),
	}
	srv := p.callsServer(cmd)
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		return p.act(ctx, srv, http.MethodPost, "/v1/notifications/"+segment(args[0])+"/dismissal", nil, nil, args[0]+"  dismissed")
	})
	return cmd
}

func (p *program) devicesPutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "put ACCOUNT DEVICE",
		Short: "Register a device, or set one of its registrations",
		Long: `Registers a device for an account, or renews its entry. A device of another account
moves here, and its outstanding deliveries there are cancelled.

--registration sets how a notification server reaches the device, or removes that. It
is the JSON of the push-token topic. Tokens are secrets: use @file or @- (standard
input) rather than the command line.`,
		Example: `  heartline devices put alice phone
  echo '{"apns":{"token":"00fc...","topic":"com.example.app"}}' | heartline devices put alice phone --registration @-
  heartline devices put alice phone --registration '{"apns":null}'`,
		Args: exactArgs(2, "devices put ACCOUNT DEVICE"),
	}
	srv := p.callsServer(cmd)
	cmd.GroupID = ""
	registration := cmd.Flags().String("registration", "", "`JSON`, @file or @- (standard input)")
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		body, err := p.jsonArg("--registration", *registration)
		if err != nil {
			return err
		}
		var in any
		if body != nil {
			in = body
		}
		return p.act(ctx, srv, http.MethodPut, devicePath(args), nil, in, args[1]+"  registered for "+args[0])
	})
	return cmd
}

func (p *program) devicesForgetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget ACCOUNT DEVICE",
		Short: "Take a device out of the registry",
		Long: `Removes a device with its registrations, cancels its outstanding deliveries, and ends
its connection and its session. Another account can use it then.`,
		Args: exactArgs(2, "devices forget ACCOUNT DEVICE"),
	}
	srv := p.callsServer(cmd)
	cmd.GroupID = ""
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		return p.act(ctx, srv, http.MethodDelete, devicePath(args), nil, nil, args[1]+"  forgotten")
	})
	return cmd
}

func (p *program) devicesDisconnectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disconnect DEVICE",
		Short: "End a device's connection",
		Long:  "Ends a device's connection. Its session and its entry stay; it may connect again at once.",
		Args:  exactArgs(1, "devices disconnect DEVICE"),
	}
	srv := p.callsServer(cmd)
	cmd.GroupID = ""
	cmd.RunE = p.action(func(ctx context.Context, args []string) error {
		return p.act(ctx, srv, http.MethodPost, "/v1/devices/"+segment(args[0])+"/disconnect", nil, nil, args[0]+"  disconnected")
	})
	return cmd
}

func devicePath(args []string) string {
	return "/v1/accounts/" + segment(args[0]) + "/devices/" + segment(args[1])
}

// act makes a call whose answer says nothing, and prints done.
func (p *program) act(ctx context.Context, srv *server, method, path string, query url.Values, in any, done string) error {
	c, err := srv.client()
	if err != nil {
		return err
	}
	if _, err := c.call(ctx, method, path, query, in, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.Stdout, plain(done))
	return err
}

package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

func (p *program) apnsSimCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "apns-sim", Short: "Run a stand-in for Apple's push service", GroupID: groupServer,
		Long: `Runs an HTTP/2 server that checks and answers pushes as Apple documents it, until
it is interrupted, and shows each push. Its CA and a provider key are generated at
each start and written into --cert-dir; the lines it prints are what a server
needs in its configuration.

The control API says how it shall misbehave, and lists the pushes it received: POST
/scripts, GET /received, GET /shown?token=, GET /wait?n=1, POST /goaway.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	listen := f.String("listen", "127.0.0.1:2197", "`host:port` for pushes")
	control := f.String("control", "127.0.0.1:2198", "`host:port` for the control API; off for none")
	certDir := f.String("cert-dir", "", "`directory` for ca.pem and the key; a throw-away one by default")
	topics := f.StringSlice("topic", nil, "`bundle ID` that may be pushed to; may be repeated; default any")
	quiet := f.Bool("quiet", false, "do not show pushes, as under load")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) (err error) {
		dir := *certDir
		if dir == "" {
			if dir, err = os.MkdirTemp("", "heartline-apns-sim-"); err != nil {
				return fmt.Errorf("make the throw-away directory: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		} else if err := os.MkdirAll(dir, 0o755); err != nil {
			return usageError{fmt.Errorf("--cert-dir: %w", err)}
		}
		sim, err := apnssim.Start(apnssim.Options{Address: *listen, ControlAddress: *control, Topics: *topics})
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w: choose another address with --listen or --control", err)
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, sim.Close()) }()
		ca, key, err := writeCredentials(sim, dir)
		if err != nil {
			return err
		}
		fmt.Fprintf(p.Stdout, `# For the configuration of a server:
fallback:
  apns:
    enabled: true
    endpoint: %s
    ca_file: %s
    key_file: %s
    key_id: %s
    team_id: %s
    topic: %s
# Control API: %s
`, sim.URL(), ca, key, sim.Key().KeyID, sim.Key().TeamID, append(*topics, simulatedTopic)[0], cmp.Or(sim.ControlURL(), "off"))
		if *quiet {
			<-ctx.Done()
			return nil
		}
		return p.showPushes(ctx, sim)
	})
	return cmd
}

// showPushes writes a line for each push until ctx ends.
func (p *program) showPushes(ctx context.Context, sim *apnssim.Server) error {
	shown := 0 // number of the last one
	for ctx.Err() == nil {
		// Numbers start again when the control API clears the journal. Nothing wakes the
		// wait then, so it is short.
		look, cancel := context.WithTimeout(ctx, time.Second)
		got, err := sim.Wait(look, shown+1)
		cancel()
		if err != nil && look.Err() == nil {
			return err
		}
		if len(got) == 0 || got[len(got)-1].Number < shown {
			shown = 0
		}
		for _, r := range got {
			if r.Number <= shown {
				continue
			}
			shown = r.Number
			answer := "no answer"
			if r.Status != 0 {
				answer = fmt.Sprint(r.Status)
			}
			if r.Reason != "" {
				answer += " " + r.Reason
			}
			line := fmt.Sprintf("%s  %-20s  token %s  %s  apns-id %s", p.clock(r.Time), answer, short(r.Token), r.Topic, r.APNsID)
			if r.CollapseID != "" {
				line += "  collapse " + r.CollapseID
			}
			if len(r.Payload) > 0 {
				line += "  " + string(r.Payload)
			}
			if _, err := fmt.Fprintln(p.Stdout, plain(line)); err != nil {
				return err
			}
		}
	}
	return nil
}

// short is enough of a device token to know it by.
func short(token string) string {
	if len(token) > 12 {
		return token[:12] + "…"
	}
	return token
}

// writeCredentials writes what a client of the simulator needs into dir.
func writeCredentials(sim *apnssim.Server, dir string) (ca, key string, err error) {
	ca, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "AuthKey_"+sim.Key().KeyID+".p8")
	if err := os.WriteFile(ca, sim.CAPEM(), 0o644); err != nil {
		return "", "", fmt.Errorf("write the simulator's CA: %w", err)
	}
	if err := os.WriteFile(key, sim.Key().PEM, 0o600); err != nil {
		return "", "", fmt.Errorf("write the simulator's key: %w", err)
	}
	return ca, key, nil
}

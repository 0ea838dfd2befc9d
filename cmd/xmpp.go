package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/xmpp"
)

func (p *program) xmppCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "xmpp", Short: "Check the links to XMPP servers", GroupID: groupServer,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usagef("say what to do: xmpp check") },
	}
	cmd.AddCommand(p.xmppCheckCommand())
	return cmd
}

func (p *program) xmppCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check", Short: "Connect to each of xmpp.components once and report faults",
		Long: `Connects to each of xmpp.components as serve does, asks the server for each of its
hosts, and says what is wrong and how to mend it. It exits with 1 if one link cannot be
had, or one host is none of the server's.

Use it before serve runs, or while it is stopped: ejabberd takes the second link and
sends it some of the stanzas, Prosody refuses it (conflict).`,
		Args: cobra.NoArgs,
	}
	source := p.configSource(cmd).hideServer()
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		cfg, err := source.load()
		if err != nil {
			return err
		}
		if len(cfg.XMPP.Components) == 0 {
			return errors.New("xmpp.components is empty: there is no link to check")
		}
		failed := 0
		for i, c := range cfg.XMPP.Components {
			o, err := broker.XMPPOptions(cfg, c)
			if err != nil {
				return fmt.Errorf("xmpp.components[%d].secret_file: %w", i, err)
			}
			notes, err := xmpp.Check(ctx, o)
			if err != nil {
				failed++
				for line := range strings.SplitSeq(err.Error(), "\n") { // one a host
					p.say(fmt.Sprintf("xmpp.components[%d]: %s", i, line))
				}
				continue
			}
			fmt.Fprintf(p.Stdout, "xmpp.components[%d]: component %s at %s: connected\n", i, c.Domain, c.Address)
			for _, note := range notes {
				fmt.Fprintf(p.Stdout, "  note: %s\n", note)
			}
		}
		if failed > 0 {
			return fmt.Errorf("%d of %d links cannot be had", failed, len(cfg.XMPP.Components))
		}
		return nil
	})
	return cmd
}

package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/demo"
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
message to a user who is absent. Where neither is installed it says what to install.`,
		Args: cobra.NoArgs,
	}
	xmpp := cmd.Flags().Bool("xmpp", false, "play the paths on the ejabberd and the Prosody of this machine")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		if *xmpp {
			return demo.RunXMPP(ctx, p.Stdout)
		}
		return demo.Run(ctx, p.Stdout)
	})
	return cmd
}

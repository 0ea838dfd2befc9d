package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // the command was understood and did not succeed
	exitUsage   = 2 // the command line or the configuration is wrong
)

// IO is what a command line is run with.
type IO struct {
	Program string   // as it was called, os.Args[0]; "" is heartline
	Args    []string // without the program
	Environ []string // as os.Environ returns it
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	// Reload has SIGHUP delivered instead of ending the process. Only a server calls it;
	// nil: there is no such signal.
	Reload func() <-chan os.Signal
}

// Run runs one command line and returns the exit code: 0 where the command
// succeeded, 1 where it failed, 2 where the command line or the configuration is
// wrong. Errors have been written to io.Stderr. ctx ends a command that would go
// on, which is success.
func Run(ctx context.Context, io IO) int {
	return newProgram(io).run(ctx)
}

// program is one run of one command line.
type program struct {
	IO
	serve   runner         // what `serve` runs
	local   *time.Location // that times are shown in
	started bool           // the command line was understood

	// lookEvery is how often a followed notification is asked for where no stream
	// of events says when there is something new.
	lookEvery   time.Duration
	logPatience time.Duration // how long a record of a server's log may take
	longerEvery time.Duration // between requests for more time to start or to stop
}

func newProgram(io IO) *program {
	return &program{IO: io, serve: runBroker, local: time.Local, lookEvery: time.Second, logPatience: logPatience, longerEvery: longerEvery}
}

func (p *program) run(ctx context.Context) int {
	root := p.root()
	root.SetArgs(append([]string{}, p.Args...)) // cobra takes nil for the arguments of the process
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if mistakes := configMistakes(err); mistakes != nil {
		p.say("the configuration is wrong:")
		p.say("  " + strings.ReplaceAll(mistakes.Error(), "\n", "\n  "))
		return exitUsage
	}
	text, suggested, _ := strings.Cut(err.Error(), "\n\nDid you mean this?\n")
	if commands := strings.Fields(suggested); len(commands) > 0 {
		text += "; did you mean " + strings.Join(commands, " or ") + "?"
	}
	p.sayAtTheEnd(text)
	if _, usage := errors.AsType[usageError](err); usage || !p.started {
		p.say(fmt.Sprintf("see `%s --help`", cmd.CommandPath()))
		return exitUsage
	}
	return exitFailure
}

// configMistakes returns all mistakes in the configuration, a line each; nil: err is another one.
func configMistakes(err error) error {
	if findings, ok := errors.AsType[config.Errors](err); ok {
		return findings
	}
	if content, ok := errors.AsType[configError](err); ok {
		return content
	}
	return nil
}

// say writes one line for people; what a command is for goes to Stdout.
func (p *program) say(text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		fmt.Fprintln(p.Stderr, "heartline: "+line)
	}
}

// sayAtTheEnd is say, but a reader that takes nothing does not keep the process from its end: a
// server that has failed must be started again.
func (p *program) sayAtTheEnd(text string) {
	said := make(chan struct{})
	go func() { // it ends with the process, if not before
		p.say(text)
		close(said)
	}()
	late := time.NewTimer(p.logPatience)
	defer late.Stop()
	select {
	case <-said:
	case <-late.C:
	}
}

// name is how whoever reads a hint can call the program.
func (p *program) name() string {
	switch {
	case p.Program == "":
		return "heartline"
	case strings.Contains(p.Program, "go-build"): // where `go run` puts what it builds
		return "go run ."
	}
	return p.Program
}

// usageError is a mistake in the command line that cobra cannot see.
type usageError struct{ error }

// configError is a mistake in a file or in a secret that the configuration names.
type configError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// getenv reads the environment that Run was given.
func (p *program) getenv(name string) string {
	for _, kv := range slices.Backward(p.Environ) { // of two the later wins, as os/exec has it
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// oneArg asks for exactly one argument, called name in the command's Use.
func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("give one %s: %s %s", name, cmd.CommandPath(), name)
		}
		return nil
	}
}

// action makes a cobra action. Until it is called, an error is one of usage.
func (p *program) action(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		p.started = true
		return fn(cmd.Context(), args)
	}
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "heartline",
		Short: "An MQTT broker that gets notifications through",
		Long: `Heartline delivers notifications over MQTT while the device's heartbeat holds,
through a push server (APNs, FCM, Web Push) when it does not, and over MQTT again when
the device returns; and it can say what became of every one. To try it out, in three
terminals:

  heartline serve --dev
  heartline terminal --account alice --device phone
  heartline send --account alice --title Hello --body "It works" --wait

Exit codes: 0 success, 1 failure, 2 a mistake in the command line or the
configuration.`,
		SilenceErrors: true, // run tells them, a line each
		SilenceUsage:  true,
	}
	root.Version = broker.Version() // what packagers and habit ask for; the command says more
	root.SetVersionTemplate("heartline {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: groupServer, Title: "Running a server:"},
		&cobra.Group{ID: groupClient, Title: "Asking a running server:"},
	)
	root.AddCommand(
		p.serveCommand(),
		p.configCommand(), p.userCommand(), p.tokenCommand(),
		p.apnsSimCommand(),
		p.pushSimCommand(),
		p.webPushKeyCommand(),
		p.storeCommand(), p.nodesCommand(),
		p.xmppCommand(),
		p.sendCommand(),
		p.timelineCommand(),
		p.cancelCommand(),
		p.dismissCommand(),
		p.devicesCommand(),
		p.watchCommand(),
		p.backupCommand(), p.webhooksCommand(),
		p.terminalCommand(),
		p.demoCommand(),
		p.benchCommand(),
		p.versionCommand(),
	)
	return root
}

const (
	groupServer = "server"
	groupClient = "client"
)

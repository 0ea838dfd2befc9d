package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
)

// configFlags are the keys that have a flag of their own; every key has a variable.
func configFlags() []configFlag {
	return []configFlag{
		{"data-dir", "data_dir", "`directory` of notifications and devices"},
		{"mqtt-address", "mqtt.address", "`host:port` for MQTT; empty turns it off"},
		{"mqtt-tls-address", "mqtt.tls.address", "`host:port` for MQTT over TLS; empty turns it off"},
		{"http-address", "http.address", "`host:port` for the API and WebSocket; empty turns it off"},
		{"auth-mode", "auth.mode", "`who` may connect: none, file, jwt, http or tls"},
		{"ack", "delivery.ack", "default `ack`: received or displayed"},
		{"ack-window", "delivery.ack_window", "`time` until an unacknowledged notification is pushed"},
		{"fallback-window", "delivery.fallback_window", "`time` until an unanswered push is followed by a look at the channel"},
		{"ttl", "delivery.ttl", "default `time` to live of notifications"},
		{"store-engine", "store.engine", "`engine`: pebble, journal, postgres or memory"},
		{"log-level", "log.level", "`level`: debug, info, warn or error"},
		{"log-format", "log.format", "`format`: text or json"},
	}
}

type configFlag struct{ name, key, usage string }

// configSource collects where a command's configuration comes from.
type configSource struct {
	p     *program
	flags *pflag.FlagSet
}

// configSource adds --config and the flags of single keys to a command. Their
// values stay text: package config alone has the rules.
func (p *program) configSource(cmd *cobra.Command) *configSource {
	flags := cmd.Flags()
	flags.StringP("config", "c", "", "configuration `file`: .yaml, .toml or .json (or "+config.EnvConfig+")")
	for _, f := range configFlags() {
		flags.String(f.name, "", f.usage)
	}
	return &configSource{p, flags}
}

func (s *configSource) file() string {
	if f, _ := s.flags.GetString("config"); f != "" || s.flags.Changed("config") {
		return f
	}
	return s.p.getenv(config.EnvConfig)
}

// hideServer keeps the flags of a server out of the help of a command that only takes the
// name of a file from the configuration.
func (s *configSource) hideServer() *configSource {
	for _, f := range configFlags() {
		s.flags.Lookup(f.name).Hidden = true
	}
	return s
}

// load loads the configuration. beneath are flags that those of the command line
// win over.
func (s *configSource) load(beneath ...config.Flag) (*config.Config, error) {
	return config.Load(s.source(beneath...))
}

func (s *configSource) source(beneath ...config.Flag) config.Source {
	src := config.Source{File: s.file(), Environ: s.p.Environ, Flags: beneath}
	for _, f := range configFlags() {
		if s.flags.Changed(f.name) {
			value, _ := s.flags.GetString(f.name) // it is one of ours, and a string
			src.Flags = append(src.Flags, config.Flag{Key: f.key, Name: "--" + f.name, Value: value})
		}
	}
	return src
}

// reload loads the configuration of a running server, and checks the files that it names.
func (s *configSource) reload() (*config.Config, error) {
	cfg, err := s.load()
	if err != nil {
		return nil, err
	}
	return cfg, broker.Check(cfg)
}

// loadChecked is reload for a command that ends at a mistake.
func (s *configSource) loadChecked() (*config.Config, error) {
	cfg, err := s.load()
	if err != nil {
		return nil, err
	}
	if err := broker.Check(cfg); err != nil {
		return nil, configError{err}
	}
	return cfg, nil
}

func (p *program) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Check or print the configuration", GroupID: groupServer,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usagef("say what to do: config check or config print") },
	}
	cmd.AddCommand(p.configCheckCommand(), p.configPrintCommand())
	return cmd
}

func (p *program) configCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report everything that is wrong with the configuration, all at once",
		Long: `Reads the configuration as serve would (file, environment, flags), looks at the
files that it names, and reports every mistake with its key. Exits 0 if there is
none and 2 if there is one.

With --online it also asks Google whether the credentials for FCM may be used; nothing
is sent to anybody. Apple and the browsers' push services offer no such question.`,
		Args: cobra.NoArgs,
	}
	src := p.configSource(cmd)
	online := cmd.Flags().Bool("online", false, "ask Google whether the credentials for FCM may be used")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		cfg, err := src.loadChecked()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		lines, err := broker.CheckPush(ctx, cfg, *online)
		for _, line := range lines {
			fmt.Fprintln(p.Stdout, line)
		}
		if err != nil {
			return configError{err}
		}
		from := src.file()
		if from == "" {
			from = "no file: defaults, environment and flags"
		}
		fmt.Fprintf(p.Stdout, "the configuration is right (%s)\n", from)
		return nil
	})
	return cmd
}

func (p *program) configPrintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration that serve would run with, without secrets",
		Args:  cobra.NoArgs,
	}
	src := p.configSource(cmd)
	defaults := cmd.Flags().Bool("defaults", false, "print every key with its default and its meaning")
	cmd.RunE = p.action(func(context.Context, []string) error {
		if *defaults {
			_, err := p.Stdout.Write(config.Example())
			return err
		}
		cfg, err := src.load()
		if err != nil {
			return err
		}
		_, err = p.Stdout.Write(cfg.YAML())
		return err
	})
	return cmd
}

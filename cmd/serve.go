package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/config"
)

// runner runs a server until ctx ends and everything is stopped and on the disk.
type runner func(ctx context.Context, cfg *config.Config, opts ServeOptions) error

// ServeOptions are the settings of a server that are not configuration.
type ServeOptions struct {
	Log *slog.Logger
	// Level is that of Log. Load reads the configuration again, at each value of Hangups
	// and at POST /v1/reload; nil: it cannot be reloaded.
	Level   *slog.LevelVar
	Load    func() (*config.Config, error)
	Hangups <-chan os.Signal
	// Ready is called once every listener is up, with the addresses that were
	// bound; "" is one that is off.
	Ready func(mqtt, http string)
}

func (p *program) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the broker", GroupID: groupServer,
		Long: `Runs the broker until it is interrupted (SIGINT, SIGTERM).

With --dev everything is on one machine and for one run: loopback addresses, clients are
not authenticated, simulators stand in for Apple, Google and the browsers' push services,
the web terminal is on, and the data is deleted at the end, which is also the end of its
terminal (SIGHUP). A flag of this command still wins over what --dev chooses; file and
environment do not.`,
		Example: `  heartline serve --dev
  heartline serve --config /etc/heartline.yaml`,
		Args: cobra.NoArgs,
	}
	src := p.configSource(cmd)
	dev := cmd.Flags().Bool("dev", false, "for trying out: loopback, no authentication, simulators for the notification servers, throw-away data")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		if *dev {
			return p.serveDev(ctx, src)
		}
		cfg, err := src.loadChecked()
		if err != nil {
			return err
		}
		return p.runServer(ctx, cfg, src.reload, func(string, string) {})
	})
	return cmd
}

func (p *program) runServer(ctx context.Context, cfg *config.Config, load func() (*config.Config, error), ready func(mqtt, http string)) error {
	out := newLogWriter(p.Stderr, p.logPatience, func(w io.Writer) slog.Handler { return logHandler(w, cfg.Log, nil) })
	defer out.close()
	log, level := newLogger(out, cfg.Log)
	ctx, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	limitMemory(ctx, log)
	defer heapFloor()()
	background.Go(func() { new(trimmer).run(ctx) })
	var hangups <-chan os.Signal
	switch {
	case p.Reload == nil:
	case load != nil:
		hangups = p.Reload()
	case !signal.Ignored(syscall.SIGHUP): // its terminal is gone, and no nohup keeps it
		closed := p.Reload()
		background.Go(func() {
			select {
			case <-closed:
				stop()
			case <-ctx.Done():
			}
		})
	}
	tell := func(state string) {
		if err := p.notifySystemd(state); err != nil {
			log.Warn("service manager not notified, continuing", "state", state, "error", err)
		}
	}
	background.Go(func() { <-ctx.Done(); tell(notifyStopping) })
	var up atomic.Bool
	if p.getenv(notifySocket) != "" {
		served := make(chan struct{})
		defer close(served) // not ctx: it goes on while the server stops
		background.Go(func() {
			p.keepNotified(tell, func() bool { return up.Load() && ctx.Err() == nil }, ctx.Done(), served, cfg.Cluster.Drain+stopPatience)
		})
	}
	err := p.serve(ctx, cfg, ServeOptions{Log: log, Level: level, Load: load, Hangups: hangups, Ready: func(mqtt, http string) {
		ready(mqtt, http)
		up.Store(true)
		tell(notifyReady)
	}})
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: another process listens there; stop it, or choose another address with --mqtt-address, --mqtt-tls-address or --http-address", err)
	}
	return err
}

// newLogger makes the logger that log.level and log.format ask for.
func newLogger(w io.Writer, cfg config.Log) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level.Set(slog.LevelInfo) // not reached: the configuration has been checked
	}
	return slog.New(logHandler(w, cfg, level)), level
}

func logHandler(w io.Writer, cfg config.Log, level slog.Leveler) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == config.FormatJSON {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// devControl is where the simulator of --dev is scripted, if the port is free.
const devControl = "127.0.0.1:2198"

// serveDev runs a server whose data, and whose Apple, last as long as it does.
func (p *program) serveDev(ctx context.Context, src *configSource) (err error) {
	dir, err := os.MkdirTemp("", "heartline-dev-")
	if err != nil {
		return fmt.Errorf("make the throw-away data directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	sims, err := startSimulators(simulatorAddresses{control: devControl}, dir)
	if errors.Is(err, syscall.EADDRINUSE) {
		sims, err = startSimulators(simulatorAddresses{}, dir)
	}
	if err != nil {
		return fmt.Errorf("start the simulators: %w", err)
	}
	defer func() { err = errors.Join(err, sims.close()) }()

	values := map[string]string{
		"data_dir":     filepath.Join(dir, "data"),
		"mqtt.address": "127.0.0.1:1883", "mqtt.tls.address": "", "mqtt.tls.cert_file": "", "mqtt.tls.key_file": "", "mqtt.tls.client_ca_file": "", "mqtt.tls.crl_file": "",
		"http.address": "127.0.0.1:8080", "http.tls.cert_file": "", "http.tls.key_file": "", "http.web_terminal": "true",
		"mqtt.proxy_protocol": "false", "http.proxy_protocol": "false", "http.internal.address": "",
		"auth.mode": config.AuthNone,
		// Nothing of a server that the file is for: its database, its nodes, its backends, its XMPP server.
		"store.engine": config.EnginePebble, "store.postgres.url": "", "store.postgres.url_file": "",
		"cluster.address": "", "cluster.advertise": "", "cluster.tls.cert_file": "", "cluster.tls.key_file": "", "cluster.tls.ca_file": "",
		"receipts.webhooks": "[]", "xmpp.components": "[]", "xmpp.registration_key_file": "",
		// What another source may say of the notification servers does not count.
		"fallback.apns.key": "", "fallback.apns.certificate_file": "", "fallback.apns.certificate_password_file": "", "fallback.apns.certificate_password": "",
		"fallback.apns.environment": config.EnvironmentProduction, "fallback.apns.apps": "[]",
		"fallback.fcm.service_account": "", "fallback.fcm.apps": "[]",
		"fallback.webpush.key": "", "fallback.webpush.allow": "[]", "fallback.webpush.apps": "[]",
	}
	maps.Copy(values, sims.settings())
	cfg, err := src.load(devFlags(values)...)
	if err != nil {
		return err
	}
	return p.runServer(ctx, cfg, nil, func(mqtt, http string) { p.printDev(cfg, mqtt, http, sims) })
}

func devFlags(values map[string]string) []config.Flag {
	var flags []config.Flag
	for key, value := range values { // no key twice, so that the order is of no matter
		flags = append(flags, config.Flag{Key: key, Name: "--dev", Value: value})
	}
	return flags
}

// printDev tells whoever tries Heartline out where everything is and what to do
// next.
func (p *program) printDev(cfg *config.Config, mqtt, http string, sims *simulators) {
	fmt.Fprintln(p.Stdout, "Heartline runs for development: its data ends with it.")
	fmt.Fprintln(p.Stdout)
	rows := [][]string{}
	if mqtt != "" {
		rows = append(rows, []string{"  MQTT", mqtt})
	}
	if http != "" {
		rows = append(rows, []string{"  HTTP API", "http://" + http + "  (described at /openapi.json)"})
		if cfg.HTTP.WebTerminal {
			rows = append(rows, []string{"  Web terminal", "http://" + http + "/terminal/"})
		}
	}
	rows = append(rows,
		[]string{"  APNs simulator", sims.apns.URL() + "  (scripted at http://" + sims.address + "/apns/)"},
		[]string{"  FCM simulator", sims.fcm.URL() + "  (/fcm/)"},
		[]string{"  Web Push simulator", sims.webpush.URL() + "  (/webpush/)"})
	p.table(rows)
	if mqtt == "" || http == "" {
		return
	}
	where := ""
	if "mqtt://"+mqtt != defaultBroker {
		where = " --server mqtt://" + mqtt
	}
	if cfg.MQTT.TopicPrefix != config.Default().MQTT.TopicPrefix {
		where += " --topic-prefix " + cfg.MQTT.TopicPrefix
	}
	// The program itself is the device, so that nothing else is needed to try it out.
	fmt.Fprintf(p.Stdout, `
A device, in a second terminal:

  %s terminal%s --account alice --device phone

A notification for it, in a third:

  %s send%s --account alice --title Hello --body "It works" --wait

`, p.name(), where, p.name(), serverFlag(http))
}

func serverFlag(http string) string {
	if "http://"+http == defaultServer {
		return ""
	}
	return " --server http://" + http
}

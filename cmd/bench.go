package cmd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/heartline-mqtt/heartline/bench"
)

func (p *program) benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Put a broker under load and account for every message", GroupID: groupClient,
		Long: `Connects devices and publishers to a broker, has the publishers send, and accounts
for every message: how fast, how late, lost, duplicated, out of order.

--mode is the kind of traffic: notifications, to Heartline over MQTT; the same by http, a
call for each, or as lines of one batch a publisher; or topics, ordinary MQTT
messages at QoS 1 to a topic of each device, to any broker.

With --rate each message has a time at which it is due, and its latency counts from
then, whether or not it could be sent at that time: a server that stands still
cannot hide that. Without, messages are sent as fast as the broker takes them with
--inflight of each publisher under way, and latencies are those under full load.

With --server-pid, the CPU time and the memory of a broker on this machine are told
beside the generator's own.`,
		Example: `  heartline bench --duration 10s
  heartline bench --rate 2000 --duration 30s --devices 5000 --offline 0.3 --return
  heartline bench --mode topics --server mqtt://127.0.0.1:1884 --count 100000 --json
  heartline bench --devices 15000 --publishers 0 --duration 30s --server-pid $(pidof heartline)`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	o := bench.Defaults()
	server := f.String("server", defaultBroker, "`URL` of the broker: mqtt:// or mqtts://")
	caFile := f.String("ca-file", "", "`file` with the CA (PEM) of the broker's certificate, in addition to the system's")
	api := f.String("http", defaultServer, "`URL` of the HTTP API, with --mode http and batch")
	tokenFile := f.String("token-file", "", "`file` with the bearer token for it")
	version := f.String("mqtt-version", "5", "3.1.1 or 5")
	f.StringVar(&o.Mode, "mode", o.Mode, "kind of `traffic`: notifications, topics, http or batch")
	f.StringVar(&o.TopicPrefix, "topic-prefix", o.TopicPrefix, "the broker's mqtt.topic_prefix")
	f.StringVar(&o.Prefix, "prefix", o.Prefix, "what the clients' identifiers begin with")
	f.StringVar(&o.Username, "username", "", "of the devices, and their account; otherwise each is an account of its own")
	passwordFile := f.String("password-file", "", "`file` with the devices' password, or JWT")
	f.StringVar(&o.PublisherUsername, "publisher-username", "", "of the publishers; that of the devices if absent")
	publisherPasswordFile := f.String("publisher-password-file", "", "`file` with the publishers' password, or JWT")
	f.DurationVar(&o.Keepalive, "keepalive", o.Keepalive, "of every connection")
	f.IntVar(&o.Devices, "devices", o.Devices, "how many")
	f.Float64Var(&o.Offline, "offline", 0, "`share` of the devices that are offline, 0 to 1")
	f.Float64Var(&o.Silent, "silent", 0, "`share` of the devices online that never acknowledge")
	f.IntVar(&o.Publishers, "publishers", o.Publishers, "how many; 0: the devices are connected, and idle")
	f.IntVar(&o.Inflight, "inflight", o.Inflight, "messages of each publisher that may be under way; calls with --mode http")
	f.StringVar(&o.Window, "window", o.Window, "until when a message is under way: accepted (the publisher has its answer) or delivered (the device has it, too)")
	f.Float64Var(&o.Rate, "rate", 0, "messages a `second` in all; 0: as fast as it goes")
	f.IntVar(&o.Payload, "payload", o.Payload, "`bytes` of each message")
	f.IntVar(&o.Count, "count", 0, "messages in all")
	f.DurationVar(&o.Duration, "duration", 0, "how long to measure, after the warm-up; 10s without --count")
	f.DurationVar(&o.Warmup, "warmup", o.Warmup, "how long to send before measuring, with --duration")
	f.DurationVar(&o.Idle, "idle", 0, "how long to leave the devices connected before anything is sent")
	f.DurationVar(&o.Storm, "storm", 0, "have all devices reconnect at once, this often")
	f.BoolVar(&o.Return, "return", false, "at the end the devices that were offline come back, all at once")
	f.DurationVar(&o.Patience, "patience", o.Patience, "how long nothing may happen before missing messages count as lost")
	f.IntVar(&o.Dialers, "dialers", o.Dialers, "connections made at a time at the start")
	f.IntVar(&o.ServerPID, "server-pid", 0, "process `ID` of a broker on this machine, to watch its CPU time and memory")
	asJSON := f.Bool("json", false, "the result as JSON, times in milliseconds")
	cmd.RunE = p.action(func(ctx context.Context, _ []string) error {
		if o.Count == 0 && o.Duration == 0 {
			o.Duration = 10 * time.Second
		}
		switch *version {
		case "5":
			o.Version = 5
		case "3.1.1":
			o.Version = 4
		default:
			return usagef("--mqtt-version: must be 3.1.1 or 5, got %q", *version)
		}
		if err := benchServers(&o, *server, *api, *caFile); err != nil {
			return usageError{err}
		}
		o.PublisherUsername = cmp.Or(o.PublisherUsername, o.Username)
		for _, secret := range []struct {
			flag, file string
			to         *[]byte
		}{
			{"--password-file", *passwordFile, &o.Password},
			{"--publisher-password-file", cmp.Or(*publisherPasswordFile, *passwordFile), &o.PublisherPassword},
			{"--token-file", *tokenFile, &o.APIToken},
		} {
			if secret.file == "" {
				continue
			}
			text, err := os.ReadFile(secret.file)
			if err != nil {
				return usageError{fmt.Errorf("%s: %w", secret.flag, err)}
			}
			*secret.to = bytes.TrimRight(text, "\r\n")
		}
		if err := o.Validate(); err != nil {
			return usageError{err}
		}
		o.Progress = func(format string, args ...any) { p.say(fmt.Sprintf(format, args...)) }
		result, err := bench.Run(ctx, o)
		if err != nil {
			return err
		}
		if *asJSON {
			out := json.NewEncoder(p.Stdout)
			out.SetIndent("", "  ")
			return out.Encode(result)
		}
		result.Print(p.Stdout)
		return nil
	})
	return cmd
}

// benchServers reads --server and --http.
func benchServers(o *bench.Options, server, api, caFile string) error {
	trusted, err := trust(caFile)
	if err != nil {
		return err
	}
	if trusted == nil {
		trusted = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "mqtt" && u.Scheme != "mqtts" {
		return fmt.Errorf("--server: must be a URL that begins with mqtt:// or mqtts://, got %q", server)
	}
	o.Address = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), map[string]string{"mqtt": "1883", "mqtts": "8883"}[u.Scheme]))
	if u.Scheme == "mqtts" {
		o.TLS = trusted
	}
	o.API, err = url.Parse(api)
	if err != nil || o.API.Scheme != "http" && o.API.Scheme != "https" || o.API.Host == "" {
		return fmt.Errorf("--http: must be a URL that begins with http:// or https://, got %q", api)
	}
	o.APITLS = trusted
	return nil
}

// Command xmpp measures the notifications a second that an ejabberd and a Prosody of this
// machine let through, in one run: a bare loop on the component port, written by hand,
// which stores nothing (the server's own limit); Heartline over XMPP with its durable
// store; and the same over MQTT. Each has 64 devices with 16 notifications in flight, all
// in this process: with 256 in all the store's commit, which the bare loop lacks, would
// leave the server idle. A round trip ends with the device's answer.
//
//	make bench-xmpp
package main

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // XEP-0114 §3 asks for it
	"encoding/hex"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmppkit"
)

// devices is how many there are.
var devices = 64

const (
	inflight = 16 // of a device: delivery.max_inflight_per_device
	patience = 30 * time.Second
)

func main() {
	d := flag.Duration("for", 5*time.Second, "of a run")
	rounds := flag.Int("rounds", 3, "of the three runs")
	only := flag.String("server", "", "ejabberd or prosody; empty: both")
	profile := flag.String("cpuprofile", "", "file for a CPU profile of Heartline over XMPP, with the clients; of the last round")
	flag.IntVar(&devices, "devices", devices, "clients, each with 16 notifications in flight")
	flag.Parse()
	fmt.Fprintf(os.Stdout, "%d cores, %s, %s; %s a run, %d devices, %d in flight each\n\n%-9s %-6s %-10s %-10s %-10s %-14s %s\n", runtime.NumCPU(), runtime.Version(),
		time.Now().Format("2006-01-02"), *d, devices, inflight, "server", "round", "bare/s", "XMPP/s", "MQTT/s", "XMPP to bare", "XMPP to MQTT")
	for _, kind := range []string{xmppkit.Ejabberd, xmppkit.Prosody} {
		if err := xmppkit.Installed(kind); err != nil {
			fmt.Fprintln(os.Stdout, err)
			continue
		}
		if *only != "" && *only != kind {
			continue
		}
		if err := measure(kind, *d, *rounds, *profile); err != nil {
			fmt.Fprintf(os.Stderr, "xmpp: %s: %v\n", kind, err)
			os.Exit(1)
		}
	}
}

func user(i int) string { return fmt.Sprint("user", i) }

func measure(kind string, d time.Duration, rounds int, profile string) (err error) {
	dir, err := os.MkdirTemp("", "heartline-xmpp-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var users []string
	for i := range devices {
		users = append(users, user(i))
	}
	server, err := xmppkit.Start(context.Background(), kind, filepath.Join(dir, "server"), xmppkit.Options{Users: users})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	var ofBare, ofMQTT []float64
	for round := range rounds {
		var used cost
		used.begin(server)
		bare, err := loop(server, d)
		if err != nil {
			return err
		}
		ofLoop := used.each(bare, d)
		overXMPP, overMQTT, ofHeartline, err := heartline(server, filepath.Join(dir, fmt.Sprint("data", round)), d, profile)
		if err != nil {
			return err
		}
		ofBare, ofMQTT = append(ofBare, overXMPP/bare), append(ofMQTT, overXMPP/overMQTT)
		fmt.Fprintf(os.Stdout, "%-9s %-6d %-10.0f %-10.0f %-10.0f %-14.2f %.2f\n", kind, round+1, bare, overXMPP, overMQTT, overXMPP/bare, overXMPP/overMQTT)
		fmt.Fprintf(os.Stdout, "          CPU a notification: bare loop %s; Heartline over XMPP %s\n", ofLoop, ofHeartline)
	}
	slices.Sort(ofBare)
	slices.Sort(ofMQTT)
	fmt.Fprintf(os.Stdout, "%s, medians: over XMPP %.2f of the bare loop, %.2f of MQTT\n\n", kind, ofBare[rounds/2], ofMQTT[rounds/2])
	return nil
}

// cost is the processor time of a run: the server's, and this process's, in which the
// clients are.
type cost struct {
	server     *xmppkit.Server
	here, used time.Duration
}

func (c *cost) begin(s *xmppkit.Server) { c.server, c.here, c.used = s, ownCPU(), s.CPU() }

// each says what one notification took of each.
func (c *cost) each(perSecond float64, d time.Duration) string {
	n := time.Duration(max(1, perSecond*d.Seconds()))
	return fmt.Sprintf("%s server, %s here", ((c.server.CPU() - c.used) / n).Round(time.Microsecond), ((ownCPU() - c.here) / n).Round(time.Microsecond))
}

func ownCPU() time.Duration { return xmppkit.CPUOf(os.Getpid()) }

// clients logs the users in. Each answers every notification.
func clients(server *xmppkit.Server) (all []*xmppkit.Client, end func(), err error) {
	end = func() {
		for _, c := range all {
			c.Close()
			close(c.Received) // its reader has ended
		}
	}
	for i := range devices {
		c, err := xmppkit.Dial(context.Background(), server.Account(user(i), "phone"), false, nil)
		if err != nil {
			end()
			return nil, nil, err
		}
		all = append(all, c)
		go func() { // nobody looks at them
			for range c.Received {
			}
		}()
	}
	return all, end, nil
}

// loop is the bare one: an IQ out, its result in.
func loop(server *xmppkit.Server, d time.Duration) (perSecond float64, err error) {
	all, end, err := clients(server)
	if err != nil {
		return 0, err
	}
	defer end()
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(context.Background(), "tcp", server.ComponentAddress)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // the run is over
	if err := conn.SetDeadline(time.Now().Add(d + patience)); err != nil {
		return 0, err
	}
	dec := xml.NewDecoder(conn)
	next := func() (start xml.StartElement, err error) {
		for {
			t, err := dec.Token()
			if err != nil {
				return start, err
			}
			if start, ok := t.(xml.StartElement); ok {
				return start, nil
			}
		}
	}
	attr := func(e xml.StartElement, name string) string {
		for _, a := range e.Attr {
			if a.Name.Local == name {
				return a.Value
			}
		}
		return ""
	}
	if _, err := fmt.Fprintf(conn, "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='%s'>", server.Component); err != nil {
		return 0, err
	}
	header, err := next()
	if err != nil {
		return 0, err
	}
	sum := sha1.Sum([]byte(attr(header, "id") + server.Secret)) //nolint:gosec // XEP-0114 §3 asks for it
	if _, err := fmt.Fprintf(conn, "<handshake>%s</handshake>", hex.EncodeToString(sum[:])); err != nil {
		return 0, err
	}
	if e, err := next(); err != nil || e.Name.Local != "handshake" {
		return 0, fmt.Errorf("handshake: %s, %w", e.Name.Local, err)
	}
	n := 0
	request := func(b []byte, to string) []byte {
		n++
		return fmt.Appendf(b, `<iq type='set' from='%s' to='%s' id='n%d'><notification xmlns='urn:heartline:1'>{"id":"01a21730-e6a5-790c-ad86-69097d33743a","account":"%s","title":"Order 7","body":"is on its way","accepted_at":"2026-01-01T00:00:00.000Z","redelivery":false,"pushed":false,"has_message":false,"ack":"received"}</notification></iq>`,
			server.Component, to, n, to)
	}
	out, wrote := make(chan string, devices*inflight), make(chan error, 1)
	go func() {
		var b []byte
		for to := range out {
			b = request(b[:0], to)
			for more := true; more; { // what has gathered goes out in one write
				select {
				case to, ok := <-out:
					if more = ok; ok {
						b = request(b, to)
					}
				default:
					more = false
				}
			}
			if _, err := conn.Write(b); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	for range inflight {
		for _, c := range all {
			out <- c.Full
		}
	}
	start, answers := time.Now(), 0
	for time.Since(start) < d {
		e, err := next()
		if err != nil {
			return 0, err
		}
		if e.Name.Local != "iq" {
			continue
		}
		if attr(e, "type") != "result" {
			return 0, fmt.Errorf("%s was answered %s", attr(e, "from"), attr(e, "type"))
		}
		answers++
		out <- attr(e, "from")
	}
	took := time.Since(start)
	close(out)
	return float64(answers) / took.Seconds(), <-wrote
}

// heartline measures Heartline over XMPP, then over MQTT.
func heartline(server *xmppkit.Server, dir string, d time.Duration, profile string) (overXMPP, overMQTT float64, each string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, 0, "", err
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(server.Secret), 0o600); err != nil {
		return 0, 0, "", err
	}
	cfg := config.Default()
	cfg.DataDir, cfg.MQTT.Address, cfg.HTTP.Address = filepath.Join(dir, "data"), "127.0.0.1:0", ""
	cfg.Delivery.MaxInflightPerDevice = inflight
	cfg.XMPP.Components = []config.XMPPComponent{{Domain: server.Component, Address: server.ComponentAddress, SecretFile: secret, Hosts: []string{server.Host}}}
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, 0, "", err
	}
	if err := b.Start(); err != nil {
		return 0, 0, "", err
	}
	defer func() { err = errors.Join(err, b.Close(context.Background())) }()
	all, end, err := clients(server)
	if err != nil {
		return 0, 0, "", err
	}
	defer end()
	accounts := map[string]string{}
	for i, c := range all {
		if err := c.Announce(server.Component, "phone"); err != nil {
			return 0, 0, "", err
		}
		account := user(i) + "@" + server.Host
		accounts[xmpp.DeviceID(account, "phone")] = account
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return 0, 0, "", err
		}
		defer f.Close() //nolint:errcheck // pprof says what is wrong with it
		if err := pprof.StartCPUProfile(f); err != nil {
			return 0, 0, "", err
		}
	}
	var used cost
	used.begin(server)
	if overXMPP, err = rate(b, accounts, d); err != nil {
		return 0, 0, "", fmt.Errorf("over XMPP: %w", err)
	}
	each = used.each(overXMPP, d)
	if profile != "" {
		pprof.StopCPUProfile()
	}
	accounts = map[string]string{}
	for i := range devices {
		id := fmt.Sprint("m", i)
		c, err := rawmqtt.Dial(b.MQTTAddr(), 5)
		if err != nil {
			return 0, 0, "", err
		}
		defer c.Close()
		if _, err := c.Connect(rawmqtt.Connect{ID: id, Username: id, Keepalive: 60, Clean: true}); err != nil {
			return 0, 0, "", err
		}
		if _, err := c.Subscribe(1, 1, "heartline/devices/"+id+"/notifications"); err != nil {
			return 0, 0, "", err
		}
		go func() {
			for {
				pk, err := c.Read(patience)
				if err != nil {
					return
				}
				if pk.FixedHeader.Type == packets.Publish && c.Puback(pk.PacketID) != nil {
					return
				}
			}
		}()
		accounts[id] = id
	}
	if overMQTT, err = rate(b, accounts, d); err != nil {
		return 0, 0, "", fmt.Errorf("over MQTT: %w", err)
	}
	return overXMPP, overMQTT, each, nil
}

// rate keeps inflight notifications of each device going, and counts acks.
func rate(b *broker.Broker, accounts map[string]string, d time.Duration) (perSecond float64, err error) {
	for device, account := range accounts {
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			if v, err := b.Core().Device(account, device); err == nil && v.Up {
				break
			}
			if time.Now().After(deadline) {
				return 0, fmt.Errorf("device %s did not come up", device)
			}
		}
	}
	events := b.Core().Subscribe(1 << 20)
	defer events.Close()
	failed := make(chan error, 1)
	post := func(account string) {
		b.Core().AcceptAsync(delivery.Request{Account: account, Title: "Order 7", Body: "is on its way"}, func(_ delivery.Receipt, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	start, acks := time.Now(), 0
	for _, account := range accounts {
		for range inflight {
			post(account)
		}
	}
	end := time.After(d)
	var other bytes.Buffer
	for {
		select {
		case e := <-events.C:
			account := accounts[e.Device]
			switch {
			case account == "":
			case e.Kind == delivery.EventReceived:
				acks++
				post(account)
			case e.Kind == delivery.EventAckTimeout, e.Kind == delivery.EventNacked:
				fmt.Fprintf(&other, "%s %s; ", e.Kind, e.Detail)
			}
		case err := <-failed:
			return 0, err
		case <-end:
			took := time.Since(start)
			// The rest is acked before the next run begins.
			for device, account := range accounts {
				for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
					if v, err := b.Core().Device(account, device); err == nil && v.Outstanding == 0 {
						break
					}
					if time.Now().After(deadline) {
						return 0, fmt.Errorf("device %s has notifications outstanding", device)
					}
				}
			}
			if other.Len() > 0 {
				fmt.Fprintf(os.Stdout, "not acked at once: %.500s\n", other.String())
			}
			return float64(acks) / took.Seconds(), nil
		}
	}
}

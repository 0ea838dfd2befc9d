package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// certificate is a server's certificate for 127.0.0.1, which is its own CA, and its key: P-256.
type certificate struct{ dir, cert, key string }

func newCertificate() (_ certificate, err error) {
	c := certificate{}
	if c.dir, err = os.MkdirTemp("", "heartline-compare-tls-"); err != nil {
		return c, err
	}
	c.cert, c.key = filepath.Join(c.dir, "cert.pem"), filepath.Join(c.dir, "key.pem")
	defer func() {
		if err != nil {
			c.remove()
		}
	}()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return c, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return c, err
	}
	return c, errors.Join(
		os.WriteFile(c.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(c.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
}

func (c certificate) remove() { _ = os.RemoveAll(c.dir) }

// twoWithTLS are our binaries and plain mochi, each with a plain and a TLS listener.
func (p *program) twoWithTLS() []contestant {
	all := p.two()
	for i := range all {
		all[i].env = append(all[i].env[:len(all[i].env):len(all[i].env)],
			"HEARTLINE_MQTT_TLS_ADDRESS=127.0.0.1:0", "HEARTLINE_MQTT_TLS_CERT_FILE="+p.cert.cert, "HEARTLINE_MQTT_TLS_KEY_FILE="+p.cert.key,
			mochiCert+"="+p.cert.cert, mochiKey+"="+p.cert.key)
	}
	return all
}

// overTLS are the flags that make `heartline bench` connect over TLS.
func (p *program) overTLS(s *server) []string {
	return []string{"--server", "mqtts://" + s.tls, "--ca-file", p.cert.cert}
}

// tls is what an idle device costs that has connected over TLS.
func (p *program) tls(ctx context.Context) error {
	return p.idleDevices(ctx, "tls", p.twoWithTLS(), "TLS", aim{"memory of an idle device over TLS ÷ plain mochi", "0.5", "0.35", ""})
}

const (
	stormConnections = 5_000
	stormBeside      = 10_000
	stormRate        = 200 // messages a second, meanwhile
)

// handshakes has many devices connect over TLS at once, first alone, then while others, over
// TCP, get messages.
func (p *program) handshakes(ctx context.Context) error {
	all := p.twoWithTLS()
	late, each := map[string][]float64{}, map[string][]float64{}
	runs := map[string][]*result{}
	took := map[string][]float64{}
	for round := range p.rounds {
		for _, c := range all {
			s, err := c.start(ctx)
			if err != nil {
				return err
			}
			calm, storm, cost, err := p.handshakesOf(ctx, s)
			if err = errors.Join(err, s.stop()); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			late[c.name], each[c.name] = append(late[c.name], calm.Delivery.P99), append(each[c.name], cost)
			runs[c.name], took[c.name] = append(runs[c.name], calm), append(took[c.name], storm.Connect/1000)
			p.report.progress("round %d  %-34s p99 %.1f ms, %d connected after %.2f s, server %.0f µs each  %s", round+1, c.name, calm.Delivery.P99, stormConnections, storm.Connect/1000, cost, faults([]*result{calm, storm}))
		}
	}
	p.others = nil // each of two loads counts the other one
	t := table{head: []string{"broker", "p99 of a message meanwhile", "÷ plain mochi", "all connected after", "server CPU a connection", "÷ plain mochi", "faults"}}
	var aims []aim
	for _, c := range all {
		var lateness, cost []float64
		for i := range late[c.name] {
			lateness = append(lateness, late[c.name][i]/late[p.plain.name][i])
			cost = append(cost, each[c.name][i]/each[p.plain.name][i])
		}
		t.add(c.name, ms(median(late[c.name])), fmt.Sprintf("%.2f", median(lateness)), fmt.Sprintf("%.2f s", median(took[c.name])),
			fmt.Sprintf("%.0f µs", median(each[c.name])), fmt.Sprintf("%.2f", median(cost)), faults(runs[c.name]))
		if c.name != p.plain.name {
			aims = append(aims, aim{c.name + ": p99 of a message in a storm of TLS connections ÷ plain mochi", "0.7", "0.3", fmt.Sprintf("%.2f", median(lateness))},
				aim{c.name + ": server CPU a TLS connection ÷ plain mochi", "1.0", "0.9", fmt.Sprintf("%.2f", median(cost))})
		}
	}
	text := fmt.Sprintf("%d devices connect over TLS at once (TLS 1.3, P-256) and subscribe, while %d others are connected over TCP and get %d messages a second; the CPU time is that of the same devices "+
		"without the others, from the first connection to the last one's end; medians of %d rounds.", stormConnections, stormBeside, stormRate, p.rounds)
	return p.report.section("handshakes", text, t, aims)
}

// handshakesOf is the result of those who get messages during a storm, that of the
// storm, and the server's CPU time for each connection in µs, of a storm without the others.
func (p *program) handshakesOf(ctx context.Context, s *server) (calm, storm *result, cost float64, err error) {
	flags := append(p.overTLS(s), "--prefix", "storm", "--devices", fmt.Sprint(stormConnections), "--dialers", fmt.Sprint(stormConnections), "--publishers", "0", "--duration", "1s")
	before := processBusy(s.cmd.Process.Pid)
	if _, err := p.load(ctx, s, flags...); err != nil {
		return nil, nil, 0, err
	}
	cost = float64((processBusy(s.cmd.Process.Pid) - before).Microseconds()) / stormConnections

	var storming sync.WaitGroup
	var failed error
	calm, err = p.loadAnd(ctx, s, func() {
		storming.Go(func() { storm, failed = p.load(ctx, s, flags...) })
	}, "--devices", fmt.Sprint(stormBeside), "--publishers", "1", "--inflight", "1000", "--rate", fmt.Sprint(stormRate), "--warmup", "0s", "--duration", "6s")
	storming.Wait()
	if err = errors.Join(err, failed); err == nil && storm == nil {
		err = errors.New("the load has sent nothing")
	}
	return calm, storm, cost, err
}

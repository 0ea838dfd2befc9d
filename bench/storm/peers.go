package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// simulator is what the process of that role says of itself when it is ready.
type simulator struct {
	URL string
	CA  []byte
	Key apnssim.Key
}

// startPeer starts this program in another role and waits until it is ready. A
// peer ends with its standard input.
func startPeer(ready any, role string, args ...string) (end func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.Background(), self, append([]string{"-role", role}, args...)...) //nolint:gosec // this program itself
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() { _ = in.Close(); _ = cmd.Wait() }
	if err := json.NewDecoder(out).Decode(ready); err != nil {
		end()
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	return end, nil
}

// attend says that a peer is ready and returns when it is no longer needed.
func attend(ready any) error {
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func simulate() error {
	sim, err := apnssim.Start(apnssim.Options{MaxReceived: 1000, Topics: []string{topic}})
	if err != nil {
		return err
	}
	if err := attend(simulator{URL: sim.URL(), CA: sim.CAPEM(), Key: sim.Key()}); err != nil {
		return err
	}
	return sim.Close()
}

func (s *simulator) config(dir string) (*config.Config, error) {
	ca := filepath.Join(dir, "apns-ca.pem")
	if err := os.WriteFile(ca, s.CA, 0o600); err != nil {
		return nil, err
	}
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", ""
	apns := &cfg.Fallback.APNs
	apns.Enabled, apns.Key, apns.KeyID, apns.TeamID = true, config.Secret(s.Key.PEM), s.Key.KeyID, s.Key.TeamID
	apns.Topic, apns.Endpoint, apns.CAFile, apns.MaxConcurrent = topic, s.URL, ca, concurrency
	return cfg, nil
}

// beDevices plays the devices that are online: they acknowledge.
func beDevices(address string) error {
	for i := range onlineDevices {
		c, err := rawmqtt.Dial(address, 5)
		if err != nil {
			return err
		}
		if _, err := c.Connect(rawmqtt.Connect{ID: online(i), Username: online(i), Keepalive: 300}); err != nil {
			return err
		}
		if _, err := c.Subscribe(1, 1, "heartline/devices/"+online(i)+"/notifications"); err != nil {
			return err
		}
		go func() {
			for {
				pk, err := c.Read(0)
				if err != nil {
					return
				}
				if pk.FixedHeader.Type == packets.Publish && c.Puback(pk.PacketID) != nil {
					return
				}
			}
		}()
	}
	return attend(struct{}{})
}

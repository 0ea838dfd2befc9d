// Command plainmochi is a mochi server as its README shows it, with nothing of
// Heartline: the tests of mochi's faults show with it that they would see them. It
// prints its address and serves until it is killed.
package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook lets everyone in and keeps everyone from writing below heartline/.
type hook struct{ mqtt.HookBase }

func (*hook) ID() string { return "plain" }

func (*hook) Provides(b byte) bool {
	return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck || b == mqtt.OnUnsubscribed
}

func (*hook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (*hook) OnACLCheck(_ *mqtt.Client, topic string, write bool) bool {
	return !write || !strings.HasPrefix(topic, "heartline/")
}

// OnUnsubscribed takes as long as a storage hook that syncs.
func (*hook) OnUnsubscribed(*mqtt.Client, packets.Packet) { time.Sleep(50 * time.Millisecond) }

func main() {
	fmt.Fprintln(os.Stderr, "plainmochi:", serve())
	os.Exit(1)
}

// serve returns why it does not serve.
func serve() error {
	s := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	l := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := s.AddHook(new(hook), nil); err != nil {
		return err
	}
	if err := s.AddListener(l); err != nil {
		return err
	}
	if err := s.Serve(); err != nil {
		return err
	}
	fmt.Println(l.Address()) //nolint:forbidigo // what it is asked for
	select {}
}

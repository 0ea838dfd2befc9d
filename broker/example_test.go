package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
)

// The plugin: Heartline on a mochi server of one's own. The account's device is
// offline and has no push token here, so that the notification waits for it.
func ExampleAttach() {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	must(server.AddHook(new(auth.AllowHook), nil))
	must(server.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})))

	heartline, err := broker.Attach(server, broker.Options{
		Store: config.Store{Engine: config.EngineMemory}, // a trial; on the disk otherwise, in DataDir
		// Who may notify over MQTT: nobody becomes a service by being let in.
		Services: func(cl *mqtt.Client) bool { return string(cl.Properties.Username) == "backend" },
	})
	must(err)
	must(server.Serve())

	ctx := context.Background()
	events := heartline.Subscribe(16)
	must(heartline.PutDevice(ctx, "alice", "phone", nil)) // or it connects and subscribes
	_, err = heartline.Notify(ctx, delivery.Request{Account: "alice", ID: "order-7", Title: "Order 7"})
	must(err)
	for range 2 {
		e := <-events.C
		fmt.Println(e.ID, e.Kind)
	}

	must(heartline.Close(ctx)) // before or after the server
	must(server.Close())
	// Output:
	// order-7 accepted
	// order-7 waiting
}

// attached is a server with Heartline, for the examples below.
func attached() (*mqtt.Server, *broker.Heartline) {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler), InlineClient: true})
	must(server.AddHook(new(auth.AllowHook), nil))
	heartline, err := broker.Attach(server, broker.Options{Store: config.Store{Engine: config.EngineMemory}})
	must(err)
	return server, heartline
}

// The registry: a device is registered with its APNs token, and its user leaves.
func ExampleHeartline_PutDevice() {
	_, heartline := attached()
	ctx := context.Background()
	must(heartline.PutDevice(ctx, "alice", "alice-phone", &delivery.Registration{
		Server: delivery.ServerAPNs, Kind: delivery.KindAlert, Token: "00fc13adff785122", App: "com.example.app", Environment: "production",
	}))
	device, err := heartline.Core().Device("alice", "alice-phone")
	must(err)
	fmt.Println(device.ID, device.Registrations[0].Server)

	must(heartline.ForgetDevice(ctx, "alice", "alice-phone")) // its connection and session end, too
	_, err = heartline.Core().Device("alice", "alice-phone")
	fmt.Println(errors.Is(err, delivery.ErrUnknownDevice))
	must(heartline.Close(ctx))
	// Output:
	// alice-phone apns
	// true
}

// The HTTP API and the metrics, in an http.Server of one's own and behind one's own
// authentication.
func ExampleHeartline_APIHandler() {
	_, heartline := attached()
	ctx := context.Background()
	must(heartline.PutDevice(ctx, "alice", "phone", nil))

	mux := http.NewServeMux()
	mux.Handle("/", heartline.APIHandler(func(r *http.Request) error {
		if r.Header.Get("X-Api-Key") != "secret" {
			return errors.New("send your key as X-Api-Key")
		}
		return nil
	}))
	mux.Handle("/metrics", heartline.MetricsHandler())
	web := httptest.NewServer(mux)
	defer web.Close()

	for _, key := range []string{"", "secret"} {
		r, err := http.NewRequest("POST", web.URL+"/v1/notifications", strings.NewReader(`{"account":"alice","title":"Order 7"}`))
		must(err)
		r.Header.Set("X-Api-Key", key)
		answer, err := http.DefaultClient.Do(r)
		must(err)
		fmt.Println(answer.StatusCode)
		must(answer.Body.Close())
	}
	answer, err := http.Get(web.URL + "/metrics")
	must(err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(err)
	fmt.Println(strings.Contains(string(text), `heartline_events_total{event="accepted"} 1`))
	must(heartline.Close(ctx))
	// Output:
	// 401
	// 202
	// true
}

// A service ends the connection of a device, which keeps its session and its registrations.
func ExampleHeartline_DisconnectDevice() {
	server, heartline := attached()
	must(server.Serve())
	fmt.Println(heartline.DisconnectDevice("alice-phone")) // it is not connected
	must(heartline.Close(context.Background()))
	must(server.Close())
	// Output:
	// false
}

// Heartline's own listener in place of mochi's.
func ExampleHeartline_NewListener() {
	server, heartline := attached()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	must(server.AddListener(heartline.NewListener("tcp", socket, nil)))
	must(server.Serve())
	conn, err := net.Dial("tcp", socket.Addr().String())
	must(err)
	must(conn.Close())
	must(server.Close()) // does not wait for connections without a CONNECT
	must(heartline.Close(context.Background()))
	// Output:
}

// The server's own Publish to an account's notifications topic is a notification.
func ExampleHeartline_Subscribe() {
	server, heartline := attached()
	ctx := context.Background()
	must(server.Serve())
	must(heartline.PutDevice(ctx, "alice", "phone", nil))
	events := heartline.Subscribe(16)
	defer events.Close()
	must(server.Publish("heartline/accounts/alice/notifications", []byte(`{"title":"Door open","id":"door-1"}`), false, 1))
	e := <-events.C
	fmt.Println(e.ID, e.Account, e.Kind)
	must(heartline.Close(ctx))
	must(server.Close())
	// Output:
	// door-1 alice accepted
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

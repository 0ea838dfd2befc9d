package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// events reads a stream of server-sent events until ctx ends or the server ends it. It
// returns the ID of the last event, or last.
func (l *load) events(ctx context.Context, path, last string, take func(name string, data []byte)) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.world.server.http+path, nil)
	if err != nil {
		return last, err
	}
	req.Header.Set("Authorization", "Bearer "+l.world.token)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := (&http.Client{Transport: l.world.server.client.Transport}).Do(req)
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body) // what came is all there is to tell
		return last, fmt.Errorf("%s: %s %s", path, resp.Status, text)
	}
	var name, id string
	in := bufio.NewReader(resp.Body)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return last, err // a cut in the middle of a line: the event comes again
		}
		switch key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); key {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			// Here the event is whole: its data is one line, and comes last.
			take(name, []byte(value))
			if id != "" {
				last = id
			}
		}
	}
}

// readLedger follows all events for the ledger, over connections that are cut again and
// again, until ctx ends.
func (l *load) readLedger(ctx context.Context) {
	last := ""
	for ctx.Err() == nil {
		life, cancel := context.WithTimeout(ctx, 4*l.timing.other)
		var err error
		last, err = l.events(life, "/v1/events", last, func(name string, data []byte) {
			var e wire.StreamEvent
			if name == "lagged" {
				l.done.count("stream of all events: lagged")
				return
			}
			if err := json.Unmarshal(data, &e); err != nil {
				l.unexpected.countWith("event", err.Error())
				return
			}
			l.done.count("event: " + e.Event)
			l.ledger.ended(e.ID, e.Device, e.Event)
		})
		if life.Err() == nil {
			l.done.countWith("stream of all events: ended by the server", fmt.Sprint(err))
		}
		l.done.count("stream of all events: cut and resumed")
		cancel()
	}
}

// readers follow parts of the events and the overview, and are cut.
func (l *load) readers(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range 12 {
		path := []string{"/v1/events?account=" + l.world.account(i*7), fmt.Sprintf("/v1/events?device=device-%05d", i), "/v1/events", "/v1/overview/stream"}[i%4]
		wg.Go(func() {
			last := ""
			for ctx.Err() == nil {
				life, cancel := context.WithTimeout(ctx, about(l.timing.other)+time.Second)
				var err error
				last, err = l.events(life, path, last, func(string, []byte) {})
				if life.Err() == nil && err != nil {
					l.unexpected.countWith("event stream", err.Error())
					rest(ctx, time.Second)
				}
				cancel()
				if strings.Contains(path, "overview") || chance(0.3) {
					last = "" // begins with the next event
				}
				l.done.count("event stream: cut")
			}
		})
	}
	wg.Go(func() { l.deafReader(ctx) })
	wg.Go(func() { l.mqttReader(ctx) })
	wg.Wait()
}

// deafReader opens streams of all events and reads nothing.
func (l *load) deafReader(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := l.world.dialHTTP(ctx)
		if err == nil {
			_, _ = fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer %s\r\n\r\n", l.world.token) // the server reads it or has gone
			l.done.count("event stream: not read")
			rest(ctx, 2*l.timing.other)
			_ = conn.Close() // nobody reads
			continue
		}
		rest(ctx, time.Second)
	}
}

// mqttReader follows the events of every account over MQTT.
func (l *load) mqttReader(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := l.world.dial(ctx, overTCP, "")
		if err != nil {
			rest(ctx, time.Second)
			continue
		}
		life, cancel := context.WithTimeout(ctx, 2*l.timing.other)
		stop := context.AfterFunc(life, func() { _ = conn.Close() })
		c := rawmqtt.New(conn, 5)
		if err = enter(c, "auditor"); err == nil {
			_, err = c.Subscribe(1, 0, "heartline/accounts/+/events")
		}
		for err == nil {
			var pk packets.Packet
			if pk, err = c.Read(0); err == nil && pk.FixedHeader.Type == packets.Publish {
				l.done.count("event over MQTT")
			}
		}
		if life.Err() == nil {
			l.unexpected.countWith("events over MQTT", err.Error())
			rest(ctx, time.Second)
		}
		stop()
		cancel()
		c.Close()
	}
}

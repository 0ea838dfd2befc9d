package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// attack lays a siege, and returns when it stands. It is kept up until the context
// ends; the sockets are closed after that.
type attack func(context.Context, *besiegers) error

// besiegers are all that an attack has opened.
type besiegers struct {
	server  *server
	devices *served
	running sync.WaitGroup

	mu   sync.Mutex
	held []net.Conn
}

// hold keeps a socket that nobody uses any more.
func (b *besiegers) hold(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = append(b.held, c)
}

// wait closes everything when every goroutine has ended.
func (b *besiegers) wait() {
	b.running.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.held {
		_ = c.Close()
	}
}

// silent opens n sockets and says nothing.
func silent(n int) attack {
	return func(ctx context.Context, b *besiegers) error {
		for range n {
			c, err := dial(ctx, b.server.mqtt)
			if err != nil {
				return err
			}
			b.hold(c)
		}
		return nil
	}
}

// slowloris has n clients send a CONNECT of 60 KiB, every other one of 1,000 bytes, a
// byte a second, and begin again when they are cut.
func slowloris(n int) attack {
	return func(ctx context.Context, b *besiegers) error {
		// CONNECT, its length, MQTT 5, and a client identifier that does not end.
		long := []byte{0x10, 0x80, 0xE0, 0x03, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 0, 0xEF, 0xF3}
		short := []byte{0x10, 0xE8, 0x07, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 0, 0x03, 0xDB}
		standing := make(chan struct{}, n)
		for i := range n {
			begin := [][]byte{long, short}[i%2]
			b.running.Go(func() {
				first := true
				for ctx.Err() == nil {
					c, err := dial(ctx, b.server.mqtt)
					if first {
						first = false
						standing <- struct{}{}
					}
					if err != nil {
						continue // the context has ended, or the server has no room
					}
					for i := 0; ctx.Err() == nil; i++ {
						p := []byte{'x'}
						if i < len(begin) {
							p[0] = begin[i]
						}
						if _, err := c.Write(p); err != nil {
							break // cut
						}
						rest(ctx, time.Second)
					}
					_ = c.Close()
				}
			})
		}
		for range n {
			select {
			case <-standing:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
}

// headers has n clients announce a packet of 256 MiB and send some of it, every
// other after a CONNECT that is in order, and do it again once they are cut.
func headers(n int) attack {
	return func(ctx context.Context, b *besiegers) error {
		for i := range n {
			b.running.Go(func() {
				for ctx.Err() == nil {
					announce(ctx, b.server.mqtt, i%2 == 1)
					rest(ctx, time.Second)
				}
			})
		}
		return nil
	}
}

func announce(ctx context.Context, address string, letIn bool) {
	c, err := dial(ctx, address)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }() // gone is gone
	_ = c.SetDeadline(time.Now().Add(patience))
	first := byte(0x10)
	if letIn {
		first = 0x30
		if _, err := rawmqtt.New(c, 5).Connect(rawmqtt.Connect{ID: "big-" + suffix(), Keepalive: 60, Clean: true}); err != nil {
			return
		}
	}
	_, _ = c.Write(append([]byte{first, 0xFF, 0xFF, 0xFF, 0x7F, 0, 4, 'M', 'Q', 'T', 'T', 5}, make([]byte, 1000)...))
	_, _ = io.Copy(io.Discard, c) // until it is cut
}

// flood publishes n messages of 64 KiB to the devices that do not read, at QoS 1.
// It is slower than it would be if they did not hold it up: each publish has to be
// acknowledged before the next.
func flood(n int) attack {
	return func(ctx context.Context, b *besiegers) error {
		c, err := rawmqtt.Dial(b.server.mqtt, 5)
		if err != nil {
			return err
		}
		b.hold(c.Conn)
		if _, err := c.Connect(rawmqtt.Connect{ID: "flood", Keepalive: 300, Clean: true}); err != nil {
			return err
		}
		payload := make([]byte, 64<<10)
		for i := range n {
			if err := c.Publish(uint16(i+1), 1, "flood", payload); err != nil {
				return err
			}
			if _, err := c.Read(patience); err != nil {
				return errors.Join(errors.New("a publisher waits for devices that do not read"), err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	}
}

// dial opens a socket. The queue of those that the server has not accepted yet may
// be full for a while, as may be that of our own ports.
func dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	for {
		c, err := d.DialContext(ctx, "tcp", address)
		if err == nil || ctx.Err() != nil || !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.ECONNREFUSED) {
			return c, err
		}
		rest(ctx, 100*time.Millisecond)
	}
}

// rest waits, no longer than the context.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

const letters = "abcdefghijklmnopqrstuvwxyz"

func suffix() string {
	b := make([]byte, 12)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b)
}

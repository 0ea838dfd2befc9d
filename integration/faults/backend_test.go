package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// Backend asks for notifications, many at a time, over one link after another: what
// a broken link has left unanswered is asked for again, under the same ID.
type Backend struct {
	Name     string
	Program  *Program
	Accounts []string
	Total    int // how many; 0: until Stop
	InFlight int
	HTTP     bool // POST /v1/notifications/batch, otherwise MQTT 5
	// Prefix begins the IDs; Name if empty.
	Prefix string
	// More is put into the nth request: `,"ttl":"1s"`. Nil: nothing.
	More        More
	Acceptances *Acceptances

	Refused atomic.Int64 // answers that said: not now

	stop  atomic.Bool
	next  int
	retry []item
	links int
}

// More returns the members of the nth request of a backend after account and title.
type More func(id string, n int) string

// always is the same for each.
func always(more string) More { return func(string, int) string { return more } }

type item struct {
	id, account string
	more        string
	again       bool
}

// Stop makes it end once everything that it has asked for is answered.
func (b *Backend) Stop() { b.stop.Store(true) }

// Run returns when all is accepted, or ctx ends.
func (b *Backend) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if _, ok := b.peek(); !ok {
			return nil
		} else if err := b.link(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond): // the program is dying, or said: not now
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (b *Backend) peek() (item, bool) {
	if len(b.retry) > 0 {
		return b.retry[0], true
	}
	if b.stop.Load() || b.Total > 0 && b.next >= b.Total {
		return item{}, false
	}
	prefix := b.Prefix
	if prefix == "" {
		prefix = b.Name
	}
	// One of two that ask for the same may come first each time.
	it := item{id: fmt.Sprintf("%s-%07d", prefix, b.next), account: b.Accounts[b.next%len(b.Accounts)], again: prefix != b.Name}
	if b.More != nil {
		it.more = b.More(it.id, b.next)
	}
	return it, true
}

func (b *Backend) take() {
	if len(b.retry) > 0 {
		b.retry = b.retry[1:]
		return
	}
	b.next++
}

// link is one connection's life.
func (b *Backend) link(ctx context.Context) error {
	var l link
	var err error
	b.links++
	name := fmt.Sprintf("%s/%d", b.Name, b.links)
	if b.HTTP {
		l, err = dialBatch(ctx, b.Program)
	} else {
		l, err = dialMQTT(ctx, b.Program, b.Name)
	}
	if err != nil {
		return nil // it is down: again
	}
	defer l.close()
	sent := make(chan item, b.InFlight)
	broken := make(chan struct{})
	var left []item // sent, and not accepted
	var wrong error
	var reading sync.WaitGroup
	reading.Go(func() {
		dead := false
		place := 0
		for it := range sent {
			place++
			var a answer
			var err error
			if !dead {
				if a, err = l.result(it.id); err != nil {
					dead = true
					if errors.Is(err, errProtocol) {
						wrong = err
					}
					close(broken)
					l.close()
				}
			}
			switch {
			case dead:
				it.again = true
				left = append(left, it)
			case a.status == http.StatusOK || a.status == http.StatusAccepted:
				b.Acceptances.add(Acceptance{
					ID: it.id, Account: it.account, Link: name, Place: place, Again: it.again || a.status == http.StatusOK,
					Status: a.status, AcceptedAt: a.acceptedAt,
				})
			case a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable:
				b.Refused.Add(1)
				it.again = true // its order with what was sent behind it is gone
				left = append(left, it)
			default:
				wrong = fmt.Errorf("%s: answered with %d", it.id, a.status)
			}
		}
	})
	refused := b.Refused.Load()
write:
	for {
		it, ok := b.peek()
		if !ok || ctx.Err() != nil || b.Refused.Load() != refused {
			break // done for now; what was refused is asked for again after a pause
		}
		select {
		case sent <- it:
		case <-broken:
			break write
		}
		b.take()
		if err := l.send(it); err != nil {
			break
		}
	}
	l.end()
	close(sent)
	reading.Wait()
	b.retry = append(left, b.retry...)
	return wrong
}

// errProtocol is an answer that no server may give: not a fault of the network.
var errProtocol = errors.New("answered against the protocol")

// link is a way to ask. send and result are called by two goroutines.
type link interface {
	send(item) error
	result(id string) (answer, error) // of the next in order
	end()                             // nothing more will be sent
	close()
}

type answer struct {
	status     int
	acceptedAt string // over HTTP
}

// body is a request; over MQTT the topic says the account.
func (it *item) body(withAccount bool) []byte {
	account := ""
	if withAccount {
		account = fmt.Sprintf(`"account":%q,`, it.account)
	}
	return fmt.Appendf(nil, `{"id":%q,%s"title":"n"%s}`, it.id, account, it.more)
}

// batchLink is one POST /v1/notifications/batch that goes on and on.
type batchLink struct {
	body    *io.PipeWriter
	cancel  context.CancelFunc
	once    sync.Once
	head    chan struct{} // closed when there is a response, or none will come
	resp    *http.Response
	err     error
	results *bufio.Scanner
}

func dialBatch(ctx context.Context, p *Program) (link, error) {
	_, base, err := p.Up(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	out, in := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/notifications/batch", out)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	l := &batchLink{body: in, cancel: cancel, head: make(chan struct{})}
	go func() {
		defer close(l.head)
		t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			return &watchedConn{c, func(err error) { _ = out.CloseWithError(err) }}, err
		}}
		l.resp, l.err = t.RoundTrip(req) // it is read, and closed, by the link
		if l.err != nil {
			_ = out.CloseWithError(l.err) // never fails
		}
	}()
	return l, nil
}

// watchedConn tells when its connection has ended. RoundTrip waits for the body then, which waits for
// RoundTrip.
type watchedConn struct {
	net.Conn
	ended func(error)
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.ended(err)
	}
	return n, err
}

func (l *batchLink) send(it item) error {
	_, err := l.body.Write(append(it.body(true), '\n'))
	return err
}

func (l *batchLink) result(id string) (answer, error) {
	<-l.head
	if l.err != nil {
		return answer{}, l.err
	}
	if l.results == nil {
		if l.resp.StatusCode != http.StatusOK {
			return answer{}, errors.New(l.resp.Status)
		}
		l.results = bufio.NewScanner(l.resp.Body)
	}
	if !l.results.Scan() {
		return answer{}, errors.Join(l.results.Err(), io.ErrUnexpectedEOF)
	}
	var r wire.BatchResult
	if err := json.Unmarshal(l.results.Bytes(), &r); err != nil {
		return answer{}, err
	}
	if r.ID != id {
		return answer{}, fmt.Errorf("%w: the result of %s came for %s: %s", errProtocol, r.ID, id, l.results.Text())
	}
	return answer{r.Status, r.AcceptedAt}, nil
}

func (l *batchLink) end() { _ = l.body.Close() } // never fails

func (l *batchLink) close() {
	l.once.Do(func() {
		l.cancel()
		_ = l.body.CloseWithError(context.Canceled) // never fails
		<-l.head
		if l.resp != nil {
			_ = l.resp.Body.Close() // read as far as it was wanted
		}
	})
}

// mqttLink is one connection of a backend.
type mqttLink struct {
	c      *rawmqtt.Client
	slots  chan struct{} // of the server's Receive Maximum
	closed chan struct{}
	once   sync.Once
	sent   int
	read   int
}

func dialMQTT(ctx context.Context, p *Program, name string) (*mqttLink, error) {
	address, err := p.MQTT(ctx)
	if err != nil {
		return nil, err
	}
	c, err := rawmqtt.Dial(address, 5)
	if err != nil {
		return nil, err
	}
	ack, err := c.Connect(rawmqtt.Connect{ID: name, Username: "backend", Keepalive: 60, Clean: true})
	if err != nil || ack.ReasonCode != 0 {
		c.Close()
		return nil, errors.Join(err, errRefused)
	}
	most := int(ack.Properties.ReceiveMaximum)
	if most == 0 {
		most = 65535
	}
	return &mqttLink{c: c, slots: make(chan struct{}, most), closed: make(chan struct{})}, nil
}

// packetID counts through fewer than there are: those in flight are not met again.
func packetID(n int) uint16 { return uint16(n%65000 + 1) }

func (l *mqttLink) send(it item) error {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return io.ErrClosedPipe
	}
	id := packetID(l.sent)
	l.sent++
	return l.c.Publish(id, 1, "heartline/accounts/"+it.account+"/notifications", it.body(false))
}

func (l *mqttLink) result(string) (answer, error) {
	code, err := l.puback()
	switch {
	case err != nil:
		return answer{}, err
	case code < 0x80:
		return answer{status: http.StatusAccepted}, nil
	case code == 0x97 || code == 0x83: // too much outstanding; the store does not take any now
		return answer{status: http.StatusServiceUnavailable}, nil
	}
	return answer{status: int(code)}, nil
}

// puback returns the reason code of the next one.
func (l *mqttLink) puback() (byte, error) {
	for {
		pk, err := l.c.Read(patience)
		if err != nil {
			return 0, err
		}
		switch pk.FixedHeader.Type {
		case packets.Puback:
		case packets.Disconnect:
			return 0, fmt.Errorf("disconnected with 0x%02x", pk.ReasonCode)
		default:
			continue
		}
		// [MQTT-4.6.0-2]: in the order of the publishes.
		if want := packetID(l.read); pk.PacketID != want {
			return 0, fmt.Errorf("%w: a PUBACK of %d where %d was next", errProtocol, pk.PacketID, want)
		}
		l.read++
		<-l.slots
		return pk.ReasonCode, nil
	}
}

func (l *mqttLink) end() {}

func (l *mqttLink) close() {
	l.once.Do(func() {
		close(l.closed)
		l.c.Close()
	})
}

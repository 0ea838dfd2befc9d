package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// publisher sends a lane's messages over one MQTT connection. The window's
// identifiers are its packet identifiers.
type publisher struct {
	link
	*window
}

func (r *run) newPublisher(i int) *publisher {
	p := &publisher{window: newWindow(r.account, r.account.lanes[i], r.o.Inflight)}
	p.link = link{r: r, address: cmp.Or(r.o.PublisherAddress, r.o.Address), name: fmt.Sprintf("publisher %d", i), id: fmt.Sprintf("%s-publisher-%d", r.o.Prefix, i)}
	return p
}

func (p *publisher) connect(ctx context.Context) error {
	o := p.r.o
	return p.dial(ctx, connect{version: o.Version, clientID: p.id, username: o.PublisherUsername, password: o.PublisherPassword, keepalive: o.keepalive(), clean: true})
}

// sender sends a lane's messages over a connection of its own.
type sender interface {
	connect(ctx context.Context) error
	// receive reads the broker's answers until the connection ends.
	receive()
	// send sends until the lane's share is sent, stop comes, or the connection fails.
	send(stop <-chan struct{}) error
	underWay() int
	// broken is why its connection has ended, if it has.
	broken() error
	ping()
	leave()
}

// send sends until the lane's share is sent, stop comes, or the connection fails. The
// messages that are due go out in one write.
func (p *publisher) send(stop <-chan struct{}) error {
	var buf, payload []byte
	var ids []uint16
	var due []int64
	pace := p.r.newPace(p.lane)
	defer pace.close()
	for {
		want := pace.wait(stop)
		if want == 0 {
			return nil
		}
		if ids = p.reserve(ids[:0], want, stop); len(ids) == 0 {
			return p.broken()
		}
		buf, due = buf[:0], due[:0]
		for _, id := range ids {
			m := p.open(id, pace.due())
			d := p.r.devices[p.lane.device(m.seq)]
			payload = p.r.appendPayload(payload[:0], d, m)
			buf = append(appendPublishHead(buf, p.r.o.Version, id, d.target, len(payload)), payload...)
			due = append(due, m.intended)
		}
		p.account.wrote(p.lane, due, p.account.now())
		if _, err := p.conn.Write(buf); err != nil {
			<-p.failed // who reads knows more about why
			return p.broken()
		}
	}
}

// receive reads the broker's answers until the connection ends.
func (p *publisher) receive() {
	var answers []answer
	defer close(p.failed)
	for {
		if p.err = p.fill(); p.err != nil {
			p.err = fmt.Errorf("%s: the connection to %s has ended: %w", p.name, p.address, p.err)
			return
		}
		at := p.account.now()
		answers = answers[:0]
		p.window.mu.Lock()
		answers, p.err = p.parse(answers)
		p.window.mu.Unlock()
		p.account.answered(p.lane, answers, at)
		if p.err != nil {
			p.err = fmt.Errorf("%s: %w", p.name, p.err)
			return
		}
		p.lane.signal()
	}
}

func (p *publisher) parse(answers []answer) ([]answer, error) {
	for {
		pk, ok, err := p.buffered()
		if err != nil || !ok {
			return answers, err
		}
		switch pk.kind() {
		case typePuback:
			id, reason, err := parsePuback(pk)
			if err != nil {
				return answers, err
			}
			answer, ok := p.close(id, reason < 0x80)
			if !ok {
				return answers, fmt.Errorf("the broker acknowledges packet %d, which is not under way", id)
			}
			if reason >= 0x80 {
				p.r.refused(reasonText(version5, reason))
			}
			answers = append(answers, answer)
		case typeDisconnect:
			if len(pk.body) > 0 {
				return answers, fmt.Errorf("the broker disconnects it: %s", reasonText(version5, pk.body[0]))
			}
			return answers, errors.New("the broker disconnects it")
		case typePingresp:
		default:
			return answers, fmt.Errorf("%w: of type %d, which a publisher is not sent", errMalformed, pk.kind())
		}
	}
}

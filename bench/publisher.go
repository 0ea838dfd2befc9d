package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// publisher sends a lane's messages over one MQTT connection.
type publisher struct {
	link
	lane *lane

	mu    sync.Mutex
	slots []slot   // by packet identifier, which is the index plus one
	free  []uint16 // packet identifiers, a ring: the longest free is taken first
	taken int      // where in the ring the next is taken
	count int      // free ones

	failed chan struct{} // closed when the connection has ended
	err    error         // why, once it is closed
}

// slot is a message that the broker has not answered.
type slot struct {
	seq uint64
	due int64
	out bool
}

func (r *run) newPublisher(i int, l *lane) *publisher {
	p := &publisher{lane: l, slots: make([]slot, r.o.Inflight), free: make([]uint16, r.o.Inflight), count: r.o.Inflight, failed: make(chan struct{})}
	p.link = link{r: r, name: fmt.Sprintf("publisher %d", i), id: fmt.Sprintf("%s-publisher-%d", r.o.Prefix, i)}
	for i := range p.free {
		p.free[i] = uint16(i + 1)
	}
	return p
}

func (p *publisher) connect(ctx context.Context) error {
	o := p.r.o
	return p.dial(ctx, connect{version: o.Version, clientID: p.id, username: o.PublisherUsername, password: o.PublisherPassword, keepalive: o.keepalive(), clean: true})
}

// reserve takes up to want packet identifiers off the ring. It waits until it has
// one, or stop or the connection's end comes first: then it has none.
func (p *publisher) reserve(ids []uint16, want int, stop <-chan struct{}) []uint16 {
	for {
		p.mu.Lock()
		n := min(want, p.count)
		if p.r.account.closeLoop {
			n = min(n, p.r.o.Inflight-int(p.lane.sent-p.lane.delivered.Load()))
		}
		for range n {
			ids = append(ids, p.free[p.taken])
			p.taken = (p.taken + 1) % len(p.free)
			p.count--
		}
		p.mu.Unlock()
		if n > 0 {
			return ids
		}
		select {
		case <-p.lane.wake:
		case <-stop:
			return nil
		case <-p.failed:
			return nil
		}
	}
}

// send sends until the lane's share is sent, stop comes, or the connection fails. The
// messages that are due go out in one write.
func (p *publisher) send(stop <-chan struct{}) error {
	var buf, payload []byte
	var ids []uint16
	var due []int64
	pace := p.r.newPace(p.lane)
	for {
		want := pace.wait(stop)
		if want == 0 {
			return nil
		}
		if ids = p.reserve(ids[:0], want, stop); len(ids) == 0 {
			return p.broken()
		}
		buf, due = buf[:0], due[:0]
		p.mu.Lock()
		for _, id := range ids {
			t, seq := pace.due(), p.lane.next()
			p.slots[id-1] = slot{seq: seq, due: t, out: true}
			d := p.r.devices[p.lane.device(seq)]
			payload = p.r.appendPayload(payload[:0], d, stamp{p.r.account.run, uint32(p.lane.index), seq, t})
			buf = append(appendPublishHead(buf, p.r.o.Version, id, d.target, len(payload)), payload...)
			due = append(due, t)
		}
		p.mu.Unlock()
		p.r.account.wrote(p.lane, due, p.r.account.now())
		if _, err := p.conn.Write(buf); err != nil {
			<-p.failed // who reads knows more about why
			return p.broken()
		}
	}
}

// broken is why the connection has ended, if it has.
func (p *publisher) broken() error {
	select {
	case <-p.failed:
		return p.err
	default:
		return nil
	}
}

// receive reads the broker's answers until the connection ends.
func (p *publisher) receive() {
	var answers []answer
	defer close(p.failed)
	for {
		if p.err = p.fill(); p.err != nil {
			p.err = fmt.Errorf("%s: the connection to %s has ended: %w", p.name, p.r.o.Address, p.err)
			return
		}
		at := p.r.account.now()
		answers = answers[:0]
		p.mu.Lock()
		answers, p.err = p.parse(answers)
		p.mu.Unlock()
		p.r.account.answered(p.lane, answers, at)
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
			if id == 0 || int(id) > len(p.slots) || !p.slots[id-1].out {
				return answers, fmt.Errorf("the broker acknowledges packet %d, which is not under way", id)
			}
			s := &p.slots[id-1]
			s.out = false
			p.free[(p.taken+p.count)%len(p.free)] = id
			p.count++
			if reason >= 0x80 {
				p.r.refused(reasonText(version5, reason))
			}
			answers = append(answers, answer{s.seq, s.due, reason < 0x80})
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

// underWay is how many messages the broker has not answered.
func (p *publisher) underWay() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free) - p.count
}

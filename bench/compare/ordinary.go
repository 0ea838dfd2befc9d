package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	retainedTopics  = 20_000
	retainedPayload = 300
	fanSubscribers  = 10_000
	fanMessages     = 20
)

// plainBrokers are the contestants as brokers of ordinary MQTT: ours, and those that they
// are compared with.
func (p *program) plainBrokers() (ours, others []contestant) {
	for _, c := range p.ours {
		memory, persistent := heartline(c.name+", in memory", c.binary, "topics"), heartline(c.name+", mqtt.persistence", c.binary, "topics")
		memory.env = []string{"HEARTLINE_STORE_ENGINE=memory", "HEARTLINE_MQTT_PERSISTENCE=false"}
		ours = append(ours, memory, persistent)
	}
	others = []contestant{p.plain}
	for _, c := range p.beside {
		if c.name == badgerHook {
			others = append(others, c)
		}
	}
	return ours, others
}

// one is a measurement of one server in one round.
type one struct {
	took      float64 // seconds
	each      float64 // µs of the server's CPU a message
	delivered int
}

// ordinary compares the brokers at what a notification has no part in: the work of the
// rate section as ordinary messages, at QoS 1 and 0, the replay of retained messages to one
// client, and one topic with many subscribers.
func (p *program) ordinary(ctx context.Context) error {
	ours, others := p.plainBrokers()
	brokers := append(slices.Clone(ours), others...)
	rates, zeros, replays, fans := map[string][]*result{}, map[string][]one{}, map[string][]one{}, map[string][]one{}
	for round := range p.rounds {
		for _, c := range brokers {
			r, err := p.once(ctx, c, append(work, "--duration", p.duration.String(), "--warmup", "1s")...)
			if err != nil {
				return err
			}
			rates[c.name] = append(rates[c.name], r)
			p.report.progress("round %d  %-40s QoS 1 %8.0f/s  server %5.1f µs  %s", round+1, c.name, r.Throughput, r.Server.Each, faults([]*result{r}))
			for _, part := range []struct {
				what string
				runs map[string][]one
				run  func(address string, begin func()) (int, error)
			}{
				{"at QoS 0", zeros, func(address string, begin func()) (int, error) { return atMostOnce(address, p.duration, begin) }},
				{"retained messages replayed", replays, replay},
				{"to subscribers of one topic", fans, fan},
			} {
				if c.name == badgerHook && part.what != "at QoS 0" {
					continue // a write for each of 10,000 subscribers takes minutes
				}
				o, err := p.measure(ctx, c, part.run)
				if err != nil {
					return fmt.Errorf("%s: %w", part.what, err)
				}
				part.runs[c.name] = append(part.runs[c.name], o)
				p.report.progress("round %d  %-40s %d %s in %.2f s, server %.1f µs each", round+1, c.name, o.delivered, part.what, o.took, o.each)
			}
		}
	}
	t := table{head: []string{
		"broker", "QoS 1 messages/s", "÷ plain mochi", "server CPU a message", "÷ plain mochi", "QoS 0 messages/s", "÷ plain mochi", "server CPU a message", "÷ plain mochi",
		"retained messages that came", "in", "server CPU each", "÷ plain mochi", "to subscribers", "in", "server CPU each", "÷ plain mochi", "faults",
	}}
	plain, plainZero, plainReplay, plainFan := rates[p.plain.name], zeros[p.plain.name], replays[p.plain.name], fans[p.plain.name]
	for _, c := range brokers {
		t.add(c.name, fmt.Sprintf("%.0f", medianOf(rates[c.name], throughput)), fmt.Sprintf("%.2f", ratio(rates[c.name], plain, throughput)),
			fmt.Sprintf("%.1f µs", medianOf(rates[c.name], cpu)), fmt.Sprintf("%.2f", ratio(rates[c.name], plain, cpu)),
			fmt.Sprintf("%.0f", figure(zeros[c.name], one.rate)), ratioOf(zeros[c.name], plainZero, one.rate), micros(zeros[c.name]), ratioOf(zeros[c.name], plainZero, one.cpu),
			arrived(replays[c.name], retainedTopics), seconds(replays[c.name]), micros(replays[c.name]), ratioOf(replays[c.name], plainReplay, one.cpu),
			arrived(fans[c.name], fanSubscribers*fanMessages), seconds(fans[c.name]), micros(fans[c.name]), ratioOf(fans[c.name], plainFan, one.cpu), faults(rates[c.name]))
	}
	var aims []aim
	for _, c := range ours {
		for _, a := range []struct{ what, reached string }{
			{"ordinary messages/s at QoS 1", fmt.Sprintf("%.2f", ratio(rates[c.name], plain, throughput))},
			{"server CPU an ordinary message at QoS 1", fmt.Sprintf("%.2f", ratio(rates[c.name], plain, cpu))},
			{"ordinary messages/s at QoS 0", ratioOf(zeros[c.name], plainZero, one.rate)},
			{"server CPU an ordinary message at QoS 0", ratioOf(zeros[c.name], plainZero, one.cpu)},
			{"server CPU a retained message", ratioOf(replays[c.name], plainReplay, one.cpu)},
			{"server CPU a message to one of many", ratioOf(fans[c.name], plainFan, one.cpu)},
		} {
			aims = append(aims, aim{c.name + ": " + a.what + " ÷ plain mochi", "1.0", "1.0", a.reached})
		}
		if badger := rates[badgerHook]; badger != nil {
			aims = append(aims, aim{c.name + ": ordinary messages/s at QoS 1 ÷ mochi with its badger hook", "1.0", "1.0", fmt.Sprintf("%.2f", ratio(rates[c.name], badger, throughput))})
		}
	}
	text := fmt.Sprintf("Heartline as a plain broker, without notifications. The work of the first table, as ordinary messages; the same at QoS 0, where a message counts as under way until its device has it; then %d retained messages of %d bytes to one new subscription at QoS 1; then %d messages at QoS 1, one after the other, to %d subscribers of one topic. Medians of %d rounds, the brokers in turn; ratios are medians of the ratios of a round.",
		retainedTopics, retainedPayload, fanMessages, fanSubscribers, p.rounds)
	return p.report.section("ordinary", text, t, aims)
}

func (o one) rate() float64 { return float64(o.delivered) / o.took }
func (o one) cpu() float64  { return o.each }

func figure(runs []one, of func(one) float64) float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, of(r))
	}
	return median(all)
}

func seconds(runs []one) string {
	if len(runs) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f s", figure(runs, func(r one) float64 { return r.took }))
}

func micros(runs []one) string {
	if len(runs) == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f µs", figure(runs, func(r one) float64 { return r.each }))
}

func arrived(runs []one, of int) string {
	if len(runs) == 0 {
		return ""
	}
	n := int(figure(runs, func(r one) float64 { return float64(r.delivered) }))
	if n == of {
		return fmt.Sprint("all ", n)
	}
	return fmt.Sprintf("%d of %d", n, of)
}

// ratioOf is the median of a figure ÷ that of the other's, round by round.
func ratioOf(ours, theirs []one, of func(one) float64) string {
	if len(ours) == 0 {
		return ""
	}
	var all []float64
	for i := range min(len(ours), len(theirs)) {
		all = append(all, of(ours[i])/of(theirs[i]))
	}
	return fmt.Sprintf("%.2f", median(all))
}

// measure starts a broker and runs a part against it, which returns how many messages
// came and counts CPU time and seconds from when it calls begin.
func (p *program) measure(ctx context.Context, c contestant, part func(address string, begin func()) (int, error)) (one, error) {
	s, err := c.start(ctx)
	if err != nil {
		return one{}, err
	}
	var begun time.Time
	var busy time.Duration
	n, err := part(s.mqtt, func() { begun, busy = time.Now(), processBusy(s.cmd.Process.Pid) })
	took := time.Since(begun)
	busy = processBusy(s.cmd.Process.Pid) - busy
	if err = errors.Join(err, s.stop()); err != nil {
		return one{}, fmt.Errorf("%s: %w", c.name, err)
	}
	if n < 0 { // it ended by waiting for more
		n, took = -n, took-silence
	}
	return one{took.Seconds(), float64(busy.Microseconds()) / float64(max(1, n)), n}, nil
}

// After silence without a message the missing ones count as dropped.
const silence = 3 * time.Second

// peer is a client of MQTT 3.1.1. It acknowledges each message that it reads.
type peer struct {
	conn net.Conn
	in   *bufio.Reader
}

func join(address, id string, buffer int) (*peer, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	p := &peer{conn, bufio.NewReaderSize(conn, buffer)}
	b := append([]byte{0x10, byte(12 + len(id))}, "\x00\x04MQTT\x04\x02\x01\x2c\x00"...)
	b = append(append(b, byte(len(id))), id...)
	if _, err = conn.Write(b); err == nil {
		_, _, err = p.next(10 * time.Second)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return p, nil
}

// next reads a packet; body is valid until the next call.
func (p *peer) next(patience time.Duration) (first byte, body []byte, err error) {
	if p.in.Buffered() == 0 {
		_ = p.conn.SetReadDeadline(time.Now().Add(patience)) // an error shows in the read
	}
	if first, err = p.in.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(p.in)
	if err != nil {
		return 0, nil, err
	}
	if body, err = p.in.Peek(int(n)); err == nil {
		_, err = p.in.Discard(int(n))
	}
	return first, body, err
}

func (p *peer) subscribe(filter string, qos byte) error {
	b := append([]byte{0x82, byte(5 + len(filter)), 0, 1, 0, byte(len(filter))}, filter...)
	_, err := p.conn.Write(append(b, qos))
	return err
}

// subscribed subscribes and waits for the SUBACK.
func (p *peer) subscribed(filter string, qos byte) error {
	err := p.subscribe(filter, qos)
	if err == nil {
		_, _, err = p.next(10 * time.Second)
	}
	return err
}

func publishPacket(b []byte, topicName string, id uint16, payload []byte, retain byte) []byte {
	b = append(b, 0x32|retain)
	b = binary.AppendUvarint(b, uint64(4+len(topicName)+len(payload)))
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(topicName))), topicName...)
	return append(binary.BigEndian.AppendUint16(b, id), payload...)
}

// messages reads and acknowledges PUBLISHes of QoS 1 until want have come, or none came
// for the time of silence. It calls seen for each.
func (p *peer) messages(want int, seen func()) (n int, err error) {
	var acks []byte
	for n < want {
		first, body, err := p.next(silence)
		if nerr := net.Error(nil); errors.As(err, &nerr) && nerr.Timeout() {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if first>>4 == 3 {
			at := 2 + int(binary.BigEndian.Uint16(body))
			acks = append(acks, 0x40, 2, body[at], body[at+1])
			n++
			seen()
		}
		if p.in.Buffered() == 0 || len(acks) > 4000 || n == want {
			if _, err := p.conn.Write(acks); err != nil {
				return n, err
			}
			acks = acks[:0]
		}
	}
	return n, nil
}

// replay retains messages, and counts those that a new subscription gets.
func replay(address string, begin func()) (int, error) {
	publisher, err := join(address, "publisher", 4096)
	if err != nil {
		return 0, err
	}
	defer publisher.conn.Close()
	payload := make([]byte, retainedPayload)
	for i := 0; i < retainedTopics; {
		var b []byte
		window := min(64, retainedTopics-i)
		for range window {
			i++
			b = publishPacket(b, fmt.Sprintf("retained/%d/%d", i%100, i), uint16(i%60000+1), payload, 1)
		}
		if _, err := publisher.conn.Write(b); err != nil {
			return 0, err
		}
		for range window {
			if _, _, err := publisher.next(10 * time.Second); err != nil {
				return 0, err
			}
		}
	}
	reader, err := join(address, "reader", 1<<16)
	if err != nil {
		return 0, err
	}
	defer reader.conn.Close()
	begin()
	if err := reader.subscribe("retained/#", 1); err != nil {
		return 0, err
	}
	n, err := reader.messages(retainedTopics, func() {})
	if n < retainedTopics {
		n = -n
	}
	return n, err
}

// fan publishes to a topic that many have subscribed to, each message once all have had
// the one before.
func fan(address string, begin func()) (int, error) {
	peers := make([]*peer, fanSubscribers)
	defer func() {
		for _, p := range peers {
			if p != nil {
				_ = p.conn.Close()
			}
		}
	}()
	for i := range peers {
		p, err := join(address, fmt.Sprint("subscriber-", i), 512)
		if err != nil {
			return 0, err
		}
		peers[i] = p
		if err := p.subscribed("fan", 1); err != nil {
			return 0, err
		}
	}
	publisher, err := join(address, "publisher", 4096)
	if err != nil {
		return 0, err
	}
	defer publisher.conn.Close()
	var count atomic.Int64
	all := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			_, err := p.messages(fanMessages, func() {
				if count.Add(1)%fanSubscribers == 0 {
					all <- struct{}{}
				}
			})
			_ = err // what did not come is missing in the count
		})
	}
	begin()
	payload := make([]byte, 256)
	for i := range fanMessages {
		if _, err := publisher.conn.Write(publishPacket(nil, "fan", uint16(i+1), payload, 0)); err != nil {
			return 0, err
		}
		if _, _, err := publisher.next(10 * time.Second); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		select {
		case <-all:
		case <-time.After(silence):
		}
	}
	n := int(count.Load())
	if n < fanSubscribers*fanMessages {
		wg.Wait()
		return -n, nil
	}
	return n, nil
}

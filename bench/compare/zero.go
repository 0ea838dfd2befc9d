package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The rate section's work, at QoS 0.
const (
	zeroDevices    = 200
	zeroPublishers = 8
	zeroUnderWay   = 64 // of each publisher
	zeroPayload    = 256
)

// atMostOnce publishes at QoS 0 for a while, as fast as the messages arrive: nothing else
// says how many the broker can take. A message that does not arrive within the time of
// silence counts as dropped, and its publisher goes on without it.
func atMostOnce(address string, d time.Duration, begin func()) (int, error) {
	var peers []*peer
	var readers sync.WaitGroup
	defer func() {
		for _, p := range peers {
			_ = p.conn.Close()
		}
		readers.Wait()
	}()
	connect := func(id string) (*peer, error) {
		p, err := join(address, id, 16<<10)
		if err == nil {
			peers = append(peers, p)
		}
		return p, err
	}
	var slots [zeroPublishers]chan struct{}
	for i := range slots {
		slots[i] = make(chan struct{}, zeroUnderWay)
	}
	var arrived atomic.Int64
	for i := range zeroDevices {
		p, err := connect(fmt.Sprint("device-", i))
		if err != nil {
			return 0, err
		}
		if err := p.subscribed(fmt.Sprint("device/", i), 0); err != nil {
			return 0, err
		}
		readers.Go(func() {
			for {
				first, body, err := p.next(time.Hour)
				if err != nil {
					return // its connection is closed at the end
				}
				if first>>4 != 3 {
					continue
				}
				arrived.Add(1)
				from := body[2+int(binary.BigEndian.Uint16(body))]
				select {
				case <-slots[from]:
				default: // given up, and late
				}
			}
		})
	}
	var publishers [zeroPublishers]*peer
	for i := range publishers {
		p, err := connect(fmt.Sprint("publisher-", i))
		if err != nil {
			return 0, err
		}
		publishers[i] = p
	}
	var sent atomic.Int64
	var writers sync.WaitGroup
	failed := make([]error, zeroPublishers)
	begin()
	end := time.Now().Add(d)
	for i, p := range publishers {
		writers.Go(func() { failed[i] = publishAtMostOnce(p.conn, byte(i), slots[i], end, &sent) })
	}
	writers.Wait()
	if err := errors.Join(failed...); err != nil {
		return 0, err
	}
	for last, since := arrived.Load(), time.Now(); last < sent.Load(); time.Sleep(time.Millisecond) {
		if n := arrived.Load(); n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > silence {
			return -int(n), nil
		}
	}
	return int(arrived.Load()), nil
}

// publishAtMostOnce is one publisher: it takes a slot for each message.
func publishAtMostOnce(conn net.Conn, self byte, slots chan struct{}, end time.Time, sent *atomic.Int64) error {
	payload := make([]byte, zeroPayload)
	payload[0] = self
	var b []byte
	write := func() error {
		_, err := conn.Write(b)
		b = b[:0]
		return err
	}
	for device := int(self); time.Now().Before(end); device += zeroPublishers + 1 {
		select {
		case slots <- struct{}{}:
		default:
			if err := write(); err != nil {
				return err
			}
			select {
			case slots <- struct{}{}:
			case <-time.After(silence):
				for range zeroUnderWay { // they are lost
					select {
					case <-slots:
					default:
					}
				}
				continue
			}
		}
		topicName := fmt.Sprint("device/", device%zeroDevices)
		b = append(b, 0x30)
		b = binary.AppendUvarint(b, uint64(2+len(topicName)+len(payload)))
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(topicName))), topicName...)
		b = append(b, payload...)
		sent.Add(1)
	}
	return write()
}

package broker_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestAllocations holds the budget of a notification from a backend's PUBLISH over
// the disk to the device's PUBACK: allocations and bytes of the whole program, garbage for
// the collector. The clients of this test make none.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates, too: .ci/run repeats it without")
	}
	const budget, byteBudget = 20, 3000
	allocations, size := journey(t, 2000, 5000)
	t.Logf("%.1f allocations a notification, %.0f B", allocations, size)
	if allocations > budget || size > byteBudget {
		t.Errorf("%.1f allocations a notification, %.0f B; the budget is %d, %d B", allocations, size, budget, byteBudget)
	}
}

// BenchmarkJourney is one backend with 64 notifications in flight to one device.
func BenchmarkJourney(b *testing.B) {
	b.ReportAllocs()
	journey(b, 1000, b.N)
}

// journey has n notifications taken to a device after some to warm up.
func journey(tb testing.TB, warm, n int) (allocations, size float64) {
	cfg := config.Default()
	cfg.DataDir = tb.TempDir()
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", ""
	br, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	if err := br.Start(); err != nil {
		tb.Fatal(err)
	}
	defer br.Close(tb.Context())

	connect := func(id string) (net.Conn, *bufio.Reader) {
		c, err := rawmqtt.Dial(br.MQTTAddr(), 5)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := c.Connect(rawmqtt.Connect{ID: id, Username: id, Keepalive: 60}); err != nil {
			tb.Fatal(err)
		}
		if id == "phone" {
			if _, err := c.Subscribe(1, 1, "heartline/devices/phone/notifications"); err != nil {
				tb.Fatal(err)
			}
		}
		return c.Conn, bufio.NewReaderSize(c.Conn, 64<<10)
	}
	phone, fromServer := connect("phone")
	defer phone.Close()
	backend, answers := connect("backend")
	defer backend.Close()

	acked := make(chan error, 1)
	go func() {
		ack := []byte{packets.Puback << 4, 2, 0, 0}
		for {
			id, err := readPacketID(fromServer)
			if err != nil {
				acked <- err
				return
			}
			binary.BigEndian.PutUint16(ack[2:], id)
			if _, err := phone.Write(ack); err != nil {
				acked <- err
				return
			}
		}
	}()
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, ProtocolVersion: 5, PacketID: 1,
		TopicName: "heartline/accounts/phone/notifications", Payload: []byte(`{"title":"Anna","body":"Dinner at eight?"}`),
	}
	publish := encode(tb, &pk)
	at := len(publish) - len(pk.Payload) - 3 // the packet identifier; after it an empty property length
	run := func(n int) {
		const window = 64
		for sent, answered := 0, 0; answered < n; {
			for ; sent < n && sent-answered < window; sent++ {
				binary.BigEndian.PutUint16(publish[at:], uint16(sent%window+1))
				if _, err := backend.Write(publish); err != nil {
					tb.Fatal(err)
				}
			}
			if _, err := readPacketID(answers); err != nil {
				tb.Fatal(err)
			}
			answered++
		}
		if err := br.Core().Flush(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
	run(warm)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if b, ok := tb.(*testing.B); ok {
		b.ResetTimer()
	}
	run(n)
	runtime.ReadMemStats(&after)
	select {
	case err := <-acked:
		tb.Fatal(err)
	default:
	}
	return float64(after.Mallocs-before.Mallocs) / float64(n), float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
}

// readPacketID reads a PUBLISH or a PUBACK and returns its packet identifier.
func readPacketID(r *bufio.Reader) (uint16, error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	remaining, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, err
	}
	b, err := r.Peek(int(remaining))
	if err != nil {
		return 0, err
	}
	at := 0
	if first>>4 == packets.Publish {
		at = 2 + int(binary.BigEndian.Uint16(b))
	}
	if at+2 > len(b) {
		return 0, io.ErrUnexpectedEOF
	}
	id := binary.BigEndian.Uint16(b[at:])
	_, err = r.Discard(len(b))
	return id, err
}

func encode(tb testing.TB, pk *packets.Packet) []byte {
	tb.Helper()
	var buf bytes.Buffer
	if err := pk.PublishEncode(&buf); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

package bench

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// decode is what mochi, which nobody here wrote, makes of a packet of ours.
func decode(t *testing.T, version byte, b []byte) packets.Packet {
	t.Helper()
	in := bytes.NewReader(b[1:])
	pk := packets.Packet{ProtocolVersion: version}
	if err := pk.FixedHeader.Decode(b[0]); err != nil {
		t.Fatal(err)
	}
	remaining, _, err := packets.DecodeLength(in)
	if err != nil {
		t.Fatal(err)
	}
	if remaining != in.Len() {
		t.Fatalf("the packet says that %d bytes follow, and %d do", remaining, in.Len())
	}
	pk.FixedHeader.Remaining = remaining
	body := b[len(b)-in.Len():]
	err = map[byte]func([]byte) error{
		packets.Connect: pk.ConnectDecode, packets.Publish: pk.PublishDecode, packets.Puback: pk.PubackDecode, packets.Subscribe: pk.SubscribeDecode,
	}[pk.FixedHeader.Type](body)
	if err != nil {
		t.Fatal(err)
	}
	return pk
}

func TestPacketsAsMochiReadsThem(t *testing.T) {
	for _, version := range []byte{version311, version5} {
		c := connect{version: version, clientID: "phone", username: "alice", password: []byte("secret"), keepalive: 60, clean: true, sessionExpiry: 3600}
		pk := decode(t, version, appendConnect(nil, c))
		got := pk.Connect
		if pk.ProtocolVersion != version || got.ClientIdentifier != "phone" || string(got.Username) != "alice" || string(got.Password) != "secret" || got.Keepalive != 60 || !got.Clean {
			t.Errorf("CONNECT: got version %d and %+v", pk.ProtocolVersion, got)
		}
		if want := uint32(3600); version == version5 && pk.Properties.SessionExpiryInterval != want {
			t.Errorf("session expiry: got %d, want %d", pk.Properties.SessionExpiryInterval, want)
		}
		got = decode(t, version, appendConnect(nil, connect{version: version, clientID: "x"})).Connect
		if got.ClientIdentifier != "x" || got.UsernameFlag || got.PasswordFlag || got.Clean {
			t.Errorf("a bare CONNECT: got %+v", got)
		}

		pk = decode(t, version, appendSubscribe(nil, version, 7, "a/b"))
		if pk.PacketID != 7 || len(pk.Filters) != 1 || pk.Filters[0].Filter != "a/b" || pk.Filters[0].Qos != 1 {
			t.Errorf("SUBSCRIBE: got %+v", pk)
		}

		for _, size := range []int{0, 1, 113, 114, 16_300, 70_000} { // around where the length takes a byte more
			payload := bytes.Repeat([]byte("p"), size)
			pk = decode(t, version, append(appendPublishHead(nil, version, 513, "t/1", size), payload...))
			if pk.PacketID != 513 || pk.TopicName != "t/1" || pk.FixedHeader.Qos != 1 || !bytes.Equal(pk.Payload, payload) {
				t.Errorf("PUBLISH of %d bytes: got %d, %q, QoS %d, %d bytes", size, pk.PacketID, pk.TopicName, pk.FixedHeader.Qos, len(pk.Payload))
			}
		}
		if pk = decode(t, version, appendPuback(nil, 40_000)); pk.PacketID != 40_000 || pk.ReasonCode != 0 {
			t.Errorf("PUBACK: got %+v", pk)
		}
	}
}

// encode is a packet as mochi writes it.
func encode(t *testing.T, pk packets.Packet) []byte {
	t.Helper()
	var b bytes.Buffer
	err := map[byte]func(*bytes.Buffer) error{
		packets.Connack: pk.ConnackEncode, packets.Publish: pk.PublishEncode, packets.Puback: pk.PubackEncode, packets.Suback: pk.SubackEncode,
	}[pk.FixedHeader.Type](&b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPacketsAsMochiWritesThem(t *testing.T) {
	for _, version := range []byte{version311, version5} {
		packetOf := func(kind, qos byte, reason byte, with func(*packets.Packet)) packet {
			pk := packets.Packet{ProtocolVersion: version, FixedHeader: packets.FixedHeader{Type: kind, Qos: qos}, ReasonCode: reason, PacketID: 300}
			pk.Properties.User = []packets.UserProperty{{Key: "a", Val: strings.Repeat("b", 200)}} // properties whose length takes two bytes
			with(&pk)
			b := encode(t, pk)
			p, size, err := split(b)
			if err != nil || size != len(b) {
				t.Fatalf("split: %d of %d, %v", size, len(b), err)
			}
			return p
		}
		nothing := func(*packets.Packet) {}
		if reason, err := parseConnack(packetOf(packets.Connack, 0, 0x05, nothing)); err != nil || reason != 0x05 {
			t.Errorf("CONNACK: 0x%02x, %v", reason, err)
		}
		suback := packetOf(packets.Suback, 0, 0, func(pk *packets.Packet) { pk.ReasonCodes = []byte{1} })
		if code, err := parseSuback(suback, version); err != nil || code != 1 {
			t.Errorf("SUBACK: 0x%02x, %v", code, err)
		}
		id, reason, err := parsePuback(packetOf(packets.Puback, 0, 0x97, nothing))
		if want := map[byte]byte{version311: 0, version5: 0x97}[version]; err != nil || id != 300 || reason != want {
			t.Errorf("PUBACK: %d, 0x%02x, %v", id, reason, err)
		}
		for qos, want := range []uint16{0, 300, 300} {
			p := packetOf(packets.Publish, byte(qos), 0, func(pk *packets.Packet) { pk.TopicName, pk.Payload = "a/b", []byte("hello") })
			if id, payload, err := parsePublish(p, version); err != nil || id != want || string(payload) != "hello" {
				t.Errorf("PUBLISH at QoS %d: %d, %q, %v", qos, id, payload, err)
			}
		}
	}
}

func TestPacketsThatAreNone(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"a length without an end", []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}},
		{"too large", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}},
	} {
		if _, _, err := split(tt.b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	for _, b := range []string{"", "\x00", "\x00\x05abc", "\x00\x01a", "\x00\x01a\x00", "\x00\x01a\x00\x00", "\x00\x01a\x00\x01", "\x00\x01a\x00\x01\x05", "\x00\x01a\x00\x01\xff\xff\xff\xff\x7f"} {
		if _, _, err := parsePublish(packet{0x32, []byte(b)}, version5); !errors.Is(err, errMalformed) {
			t.Errorf("PUBLISH %q: got %v", b, err)
		}
	}
}

// FuzzSplit: packets are split the same however the stream is cut, and never past its end.
func FuzzSplit(f *testing.F) {
	f.Add(append(appendPuback(nil, 5), appendPublishHead(nil, version5, 1, "a", 0)...), 3)
	f.Add([]byte{0x30, 0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		p, size, err := split(b)
		if size < 0 || size > len(b) || err != nil && size != 0 {
			t.Fatalf("size %d of %d, %v", size, len(b), err)
		}
		for _, version := range []byte{version311, version5} {
			if _, payload, err := parsePublish(p, version); err == nil && len(payload) > len(p.body) {
				t.Fatal("a payload longer than its packet")
			}
			_, _ = parseSuback(p, version)
		}
		_, _, _ = parsePuback(p)
		_, _ = parseConnack(p)
		if size == 0 {
			return
		}
		if cut = max(0, cut) % size; err == nil {
			if _, n, err := split(b[:cut]); n != 0 || err != nil {
				t.Fatalf("the first %d of %d bytes: %d, %v", cut, size, n, err)
			}
			if _, n, _ := split(b[:size]); n != size {
				t.Fatalf("alone it is %d bytes and not %d", n, size)
			}
		}
	})
}

// FuzzStamp: a stamp is found in whatever is around it.
func FuzzStamp(f *testing.F) {
	f.Add("{\"body\":\"", "xxx\"}", uint32(1), uint64(2), int64(3))
	f.Fuzz(func(t *testing.T, before, after string, lane uint32, seq uint64, intended int64) {
		want := stamp{run: 7, lane: lane, seq: seq, intended: intended}
		b := append(appendStamp([]byte(before), want), after...)
		got, ok := findStamp(b)
		if !strings.Contains(before, stampMark) && !strings.HasSuffix(before, "~") && (!ok || got != want) {
			t.Errorf("got %+v, %v", got, ok)
		}
		_, _ = findStamp([]byte(before + stampMark + after))
	})
}

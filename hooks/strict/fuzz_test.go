package strict

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// FuzzReader sends any bytes, in any pieces, into any buffers. It shows what the
// package comment promises.
func FuzzReader(f *testing.F) {
	seeds := [][]byte{
		pk(f, "10", connect4), pk(f, "10", connect5),
		pk(f, "10", "'MQTT' 05 ce 003c 05 11 00000001 'id' 02 01 01 't' 'm' 'u' 'p'"),
		{0x10, 0xff, 0xff, 0xff, 0x7f},
	}
	for _, s := range []struct{ first, body string }{
		{"30", "'a/b' 01"}, {"32", "'a' 0001 03 23 0001 01"}, {"30", "'a' 00"}, {"30", "'a' 02 01 01 c3a4"},
		{"40", "0001"}, {"62", "0001 00 00"}, {"82", "0001 'a' 01"}, {"82", "0001 00 'a/b' 01"}, {"82", "0001 00 'a/b'"},
		{"a2", "0001 00 '$share/g/#'"}, {"c0", ""}, {"e0", "04"}, {"e0", "00 05 11 00000001"}, {"f0", "18 04 15 'm'"},
	} {
		for _, c := range []string{connect4, connect5} {
			seeds = append(seeds, append(pk(f, "10", c), pk(f, s.first, s.body)...))
		}
	}
	for i, s := range seeds {
		f.Add(s, uint64(i))
	}
	f.Fuzz(func(t *testing.T, in []byte, cuts uint64) {
		o := &Options{MaxPacketSize: 1 << 16, MaxConnectSize: 1 << 12, ExtendedAuth: cuts%2 == 0}
		whole, wholeErr := readAll(NewReader(bytes.NewReader(in), o), func() int { return 1 << 20 })

		rnd := rand.New(rand.NewPCG(cuts, 1))
		r := NewReader(&pieces{in, rnd}, o)
		if cuts%3 == 0 {
			_ = r.ReadConnect(func(int) bool { return true })
		}
		cut, cutErr := readAll(r, func() int { return 1 + rnd.IntN(40) })

		a, b := decode(t, whole), decode(t, cut)
		if !bytes.Equal(whole[:a], cut[:b]) {
			t.Fatalf("whole packets differ:\n%x\n%x", whole[:a], cut[:b])
		}
		var v1, v2 *Violation
		if errors.As(wholeErr, &v1) != errors.As(cutErr, &v2) {
			t.Fatalf("errors differ: %v, %v", wholeErr, cutErr)
		}
		if v1 != nil && *v1 != *v2 {
			t.Fatalf("violations differ: %v, %v", v1, v2)
		}
		if v1 == nil && !bytes.Equal(whole, cut) {
			t.Fatalf("bytes differ:\n%x\n%x", whole, cut)
		}
		if v1 != nil {
			_ = r.Answer(v1)
		}
		_, _ = r.Outbound(in)
		_, _ = Shed(in, 5)
	})
}

// pieces reads some bytes at a time.
type pieces struct {
	b   []byte
	rnd *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(len(p.b), 1+p.rnd.IntN(9))])
	p.b = p.b[n:]
	return n, nil
}

func readAll(r io.Reader, size func() int) (out []byte, err error) {
	for {
		b := make([]byte, size())
		n, err := r.Read(b)
		out = append(out, b[:n]...)
		if err != nil {
			return out, err
		}
	}
}

// decode runs mochi's decoder over the bytes that passed, as its server does. It
// returns the length of the whole packets.
func decode(t *testing.T, b []byte) (whole int) {
	var version byte
	for len(b) > whole {
		rest := bytes.NewReader(b[whole+1:])
		var h packets.FixedHeader
		if err := h.Decode(b[whole]); err != nil {
			t.Fatalf("a header passed that mochi refuses: %v: %x", err, b[whole:])
		}
		size, n, err := packets.DecodeLength(rest)
		if err != nil || len(b) < whole+1+n+size {
			return whole
		}
		h.Remaining = size
		body := bytes.Clone(b[whole+1+n : whole+1+n+size])
		p := packets.Packet{FixedHeader: h, ProtocolVersion: version}
		var code packets.Code
		switch h.Type {
		case packets.Connect:
			if err = p.ConnectDecode(body); err == nil {
				version = p.ProtocolVersion
			}
			p.ConnectValidate()
		case packets.Publish:
			err = p.PublishDecode(body)
			code = p.PublishValidate(0xFFFF)
		case packets.Puback:
			err = p.PubackDecode(body)
		case packets.Pubrec:
			err = p.PubrecDecode(body)
		case packets.Pubrel:
			err = p.PubrelDecode(body)
		case packets.Pubcomp:
			err = p.PubcompDecode(body)
		case packets.Subscribe:
			err = p.SubscribeDecode(body)
			code = p.SubscribeValidate()
		case packets.Unsubscribe:
			err = p.UnsubscribeDecode(body)
			code = p.UnsubscribeValidate()
		case packets.Disconnect:
			err = p.DisconnectDecode(body)
		case packets.Auth:
			err = p.AuthDecode(body)
			code = p.AuthValidate()
		}
		if err != nil || code.Code != 0 {
			t.Fatalf("a packet passed that mochi refuses: %v, %v: %x", err, code, b[whole:])
		}
		whole += 1 + n + size
	}
	return whole
}

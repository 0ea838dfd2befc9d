package strict

import (
	"io"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Reader passes on the well-formed packets of a client, and ends with a
// *Violation at the first that is not. See the package comment for what holds.
type Reader struct {
	src io.Reader
	stream

	held []byte // beginning of a packet that is not complete
	out  []byte // checked and not yet handed on
	err  error  // what comes after out
}

// NewReader makes a Reader of src. o must not change while it is in use; it can
// be shared by any number of Readers.
func NewReader(src io.Reader, o *Options) *Reader {
	r := new(Reader)
	r.Init(src, o)
	return r
}

// Init makes r, which must be zero, a Reader of src, as NewReader does.
func (r *Reader) Init(src io.Reader, o *Options) {
	r.src = src
	r.options = o
}

// SetSource has r read on from src. A src that has nothing at the moment may return
// 0 and no error; Read then does, too.
func (r *Reader) SetSource(src io.Reader) { r.src = src }

// Pending reports whether Read has something to return without reading src: bytes, or
// the end.
func (r *Reader) Pending() bool { return len(r.out) > 0 || r.err != nil }

// Missing is how many bytes of the packet under way are still to come, as far as can be told.
func (r *Reader) Missing() int { return max(r.payload, r.need-len(r.held)) }

// Read implements io.Reader. Bytes that come with a read error of src are
// checked and passed on before the error.
func (r *Reader) Read(p []byte) (int, error) {
	for {
		if len(r.out) > 0 {
			n := copy(p, r.out)
			if r.out = r.out[n:]; len(r.out) == 0 {
				r.out = nil // it may have been large
			}
			return n, nil
		}
		if r.err != nil {
			return 0, r.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		if before := len(r.held); before >= len(p) {
			if r.fill(r.need); r.err == nil && len(r.out) == 0 && len(r.held) == before {
				return 0, nil
			}
			continue
		}
		// The usual way: straight into the caller's buffer, behind the held bytes.
		n := copy(p, r.held)
		m, err := r.src.Read(p[n:])
		if m == 0 && err == nil {
			return 0, nil
		}
		r.err = err
		b := p[:n+m]
		pass := r.check(b)
		r.hold(b[pass:])
		if pass > 0 {
			return pass, nil
		}
	}
}

// check scans b, and notes how the stream ends if it does.
func (r *Reader) check(b []byte) (pass int) {
	pass, v := r.scan(b)
	switch {
	case v != nil:
		r.err = v
	case r.ended:
		if r.expand {
			// mochi reads the reason code of a DISCONNECT only where a property
			// length follows it.
			r.out = []byte{packets.Disconnect << 4, 2, r.code, 0}
		}
		r.err = io.EOF
	}
	return pass
}

// hold keeps the beginning of a packet, unless nothing can follow.
func (r *Reader) hold(b []byte) {
	switch {
	case r.err != nil, len(b) == 0 && cap(r.held) > 4096:
		r.held = nil
	default:
		r.held = append(r.held[:0], b...)
	}
}

// fill reads once more, up to limit bytes of the packet that is held, into a
// buffer of its own.
func (r *Reader) fill(limit int) {
	b := r.held
	limit = max(limit, len(b)+1)
	if len(b) == cap(b) {
		// As much again as has come, and not what a header promises: a length
		// costs a client nothing.
		b = append(make([]byte, 0, min(limit, max(128, 4*len(b)))), b...)
	}
	n, err := r.src.Read(b[len(b):min(cap(b), limit)])
	r.err = err
	b = b[:len(b)+n]
	pass := r.check(b)
	if r.out = append(b[:pass:pass], r.out...); len(r.out) == 0 {
		r.out = nil
	}
	switch {
	case r.err != nil || pass == len(b):
		r.held = nil
	case pass > 0:
		r.held = append([]byte(nil), b[pass:]...)
	default:
		r.held = b
	}
}

// minConnect is the size of the shortest CONNECT there is: two bytes of fixed
// header, ten of variable header, and an empty client identifier.
const minConnect = 14

// ReadConnect reads the first packet and not a byte more, so that it keeps
// only that packet of a socket's data before authentication. The
// next calls of Read return it. A *Violation says that it is no CONNECT, or none
// to be accepted.
//
// admit is asked once, when the size of the packet is known from its header and
// is more than a few hundred bytes, whether the server has room for it.
func (r *Reader) ReadConnect(admit func(size int) bool) error {
	const small = 512
	asked := false
	for !r.connected && r.err == nil {
		if r.need > small && !asked {
			asked = true
			if !admit(r.need) {
				r.connect.version = guessVersion(r.held)
				r.err = ruleBusy.in(packets.Connect)
				break
			}
		}
		r.fill(max(r.need, minConnect))
	}
	if r.connected {
		return nil
	}
	return r.err
}

// guessVersion reads the protocol version of a CONNECT that is not all there.
func guessVersion(b []byte) byte {
	for i := 1; i+7 < len(b) && i < 6; i++ {
		if string(b[i:i+6]) == "\x00\x04MQTT" {
			return b[i+6]
		}
	}
	return 0
}

// Version is the client's protocol version: 3, 4 or 5, and 0 before its CONNECT.
func (r *Reader) Version() byte { return r.connect.version }

// Bridge reports whether the client is a bridge, by the top bit of its protocol level.
func (r *Reader) Bridge() bool { return r.connect.bridge }

// LastPacket is the type of the packet looked at last.
func (r *Reader) LastPacket() byte { return r.last }

// Outbound looks at whole packets that are about to be sent to the client, and
// returns the packets to send: all but a DISCONNECT to a client older than
// MQTT 5, which is not to get one. final says that nothing may be sent after it.
// It may be called while another goroutine reads, and not before the CONNECT has
// been read.
func (r *Reader) Outbound(b []byte) (out []byte, final bool) { return r.outbound(b) }

// Answer is the packet that reports a violation to the client: a CONNACK while its CONNECT
// has not passed, then in MQTT 5 a DISCONNECT; nil where the standard has the
// connection closed without a word.
func (r *Reader) Answer(v *Violation) []byte {
	if !r.connected {
		return r.connect.refusal(v, !r.options.NoReasonString)
	}
	if v.silent {
		return nil
	}
	return r.Disconnect(v.Code, v.Detail)
}

// Disconnect is a DISCONNECT with this reason for this client: nil where it is
// older than MQTT 5 (3.14 of 3.1.1), or would not take a packet of the size.
func (r *Reader) Disconnect(code byte, reason string) []byte {
	if r.connect.version < 5 {
		return nil
	}
	return r.connect.respond(packets.Disconnect<<4, []byte{code}, reason, !r.options.NoReasonString)
}

// Refuse is a CONNACK that refuses a CONNECT which has passed, with the reason
// code or what 3.1.1 has for it; nil before there was one.
func (r *Reader) Refuse(code byte, reason string) []byte {
	switch {
	case !r.connected:
		return nil
	case r.connect.version == 5:
		return r.connect.respond(packets.Connack<<4, []byte{0, code}, reason, !r.options.NoReasonString)
	}
	return []byte{packets.Connack << 4, 2, 0, returnCode(code)}
}

// returnCode is the 3.1.1 return code (table 3.1 there) nearest to a reason code.
func returnCode(code byte) byte {
	switch code {
	case codeUnsupportedVersion:
		return 1
	case codeClientID:
		return 2
	case 0x86: // bad user name or password
		return 4
	case 0x87, 0x8A, 0x8C: // not authorized, banned, bad authentication method
		return 5
	}
	return 3 // server unavailable
}

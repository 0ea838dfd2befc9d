package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Sessions brings connections to a mochi server without mochi's reading loop: that
// would need a goroutine for each of them. It does what mochi's Server.attachClient
// does, in the same order, out of mochi's exported parts. The server's routing must be
// its hooks' own: nobody runs Client.WriteLoop, and mochi hands no session on.
type Sessions struct {
	server   *mqtt.Server
	hooks    *mqtt.Hooks
	prompter Prompter // nil: there is none
}

// A Prompter is a hook that handles some packets without waiting for anything, so that the
// goroutine that watches all sockets may call it.
type Prompter interface {
	// Prompt returns a function for a client that is established; nil: there is none. It
	// handles a whole packet, of which it keeps nothing, or returns false and has done
	// nothing with it.
	Prompt(cl *mqtt.Client) func(packet []byte) (handled bool)
}

// NewSessions returns the Sessions of a server that has these hooks, in this order. A
// single hook that is a Prompter is used as one: with more, each has to see every packet.
func NewSessions(server *mqtt.Server, hooks ...mqtt.Hook) (*Sessions, error) {
	s := &Sessions{server: server, hooks: &mqtt.Hooks{Log: server.Log}}
	if len(hooks) == 1 {
		s.prompter, _ = hooks[0].(Prompter)
	}
	for _, h := range hooks {
		if err := s.hooks.Add(initialized{h}, nil); err != nil {
			return nil, fmt.Errorf("hook %s: %w", h.ID(), err)
		}
	}
	return s, nil
}

// initialized is a hook that the server has initialized.
type initialized struct{ mqtt.Hook }

func (initialized) Init(any) error { return nil }

// session is one client on its connection.
type session struct {
	*Sessions
	client  *mqtt.Client
	counted bool                               // among the connected clients
	up      bool                               // established
	prompt  func(packet []byte) (handled bool) // see Prompter; nil: a worker handles every packet
}

// begin takes a CONNECT. With an error the connection is over; the client has its
// answer. end must be called in any case.
func (s *session) begin(c *Conn, connect []byte) error {
	server := s.server
	server.Listeners.ClientsWg.Add(1)
	s.client = server.NewClient(c, c.front.ID(), "", false)
	pk, err := s.decode(connect)
	if err != nil {
		return err
	}
	cl := s.client
	cl.ParseConnect(c.front.ID(), pk)
	if code := s.validate(&pk); code != packets.CodeSuccess {
		_ = server.SendConnack(cl, code, false, nil)
		return code // [MQTT-3.2.2-7]
	}
	if err := s.hooks.OnConnect(cl, pk); err != nil {
		return err
	}
	if !s.hooks.OnConnectAuthenticate(cl, pk) {
		_ = server.SendConnack(cl, packets.ErrBadUsernameOrPassword, false, nil)
		return packets.ErrBadUsernameOrPassword
	}
	s.counted = true
	atomic.AddInt64(&server.Info.ClientsConnected, 1)
	s.hooks.OnSessionEstablish(cl, pk)
	old, ok := server.Clients.Get(cl.ID)
	if cl.Closed() { // the other one has taken over
		return packets.ErrSessionTakenOver
	}
	if ok && old != cl {
		_ = server.DisconnectClient(old, packets.ErrSessionTakenOver) // [MQTT-3.1.4-3]
	}
	raise(&server.Info.ClientsMaximum, atomic.LoadInt64(&server.Info.ClientsConnected))
	server.Clients.Add(cl) // [MQTT-4.1.0-1]
	if err := server.SendConnack(cl, packets.CodeSuccess, false, nil); err != nil {
		return fmt.Errorf("write the CONNACK: %w", err)
	}
	s.up = true
	s.hooks.OnSessionEstablished(cl, pk)
	if s.prompter != nil {
		s.prompt = s.prompter.Prompt(cl)
	}
	return nil
}

// validate is mochi's Server.validateConnect.
func (s *session) validate(pk *packets.Packet) packets.Code {
	p, can := &s.client.Properties, s.server.Options.Capabilities
	switch code := pk.ConnectValidate(); { // [MQTT-3.1.4-1]
	case code != packets.CodeSuccess:
		return code
	case p.ProtocolVersion < 5 && !pk.Connect.Clean && pk.Connect.ClientIdentifier == "":
		return packets.ErrUnspecifiedError
	case p.ProtocolVersion < can.MinimumProtocolVersion:
		return packets.ErrUnsupportedProtocolVersion // [MQTT-3.1.2-2]
	case p.Will.Qos > can.MaximumQos:
		return packets.ErrQosNotSupported // [MQTT-3.2.2-12]
	case p.Will.Retain && can.RetainAvailable == 0:
		return packets.ErrRetainNotSupported // [MQTT-3.2.2-13]
	}
	return packets.CodeSuccess
}

func raise(to *int64, n int64) {
	for {
		if old := atomic.LoadInt64(to); old >= n || atomic.CompareAndSwapInt64(to, old, n) {
			return
		}
	}
}

// keepalive is how long the client may be silent; 0: for ever.
func (s *session) keepalive() time.Duration {
	k := time.Duration(s.client.State.Keepalive) * time.Second
	return k + k/2 // [MQTT-3.1.2-22]
}

// packet handles one whole packet.
func (s *session) packet(b []byte) error {
	pk, err := s.decode(b)
	if err != nil {
		return err
	}
	if pk.FixedHeader.Type == packets.Puback && pk.PacketID == 0 {
		return nil // the hook has dealt with the packet
	}
	// InjectPacket counts the packet again.
	atomic.AddInt64(&s.server.Info.PacketsReceived, -1)
	if pk.FixedHeader.Type == packets.Publish {
		atomic.AddInt64(&s.server.Info.MessagesReceived, -1)
	}
	if err := s.server.InjectPacket(s.client, pk); err != nil {
		if code, ok := errors.AsType[packets.Code](err); ok && s.client.Properties.ProtocolVersion == 5 && code.Code >= packets.ErrUnspecifiedError.Code {
			_ = s.server.DisconnectClient(s.client, code)
		}
		return err
	}
	return nil
}

// received counts packets that mochi does not see.
func (s *session) received(packets, publishes, bytes int64) {
	info := s.server.Info
	atomic.AddInt64(&info.PacketsReceived, packets)
	atomic.AddInt64(&info.BytesReceived, bytes)
	if publishes > 0 {
		atomic.AddInt64(&info.MessagesReceived, publishes)
	}
}

// decode is mochi's Client.ReadPacket.
func (s *session) decode(b []byte) (pk packets.Packet, err error) {
	info := s.server.Info
	atomic.AddInt64(&info.PacketsReceived, 1)
	atomic.AddInt64(&info.BytesReceived, int64(len(b)))
	pk.ProtocolVersion = s.client.Properties.ProtocolVersion
	if err := pk.FixedHeader.Decode(b[0]); err != nil {
		return pk, err
	}
	size, n := binary.Uvarint(b[1:])
	pk.FixedHeader.Remaining = int(size)
	body := append([]byte(nil), b[1+n:]...) // the packet keeps it
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	case packets.Publish:
		if err = pk.PublishDecode(body); err == nil {
			atomic.AddInt64(&info.MessagesReceived, 1)
		}
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Pubrec:
		err = pk.PubrecDecode(body)
	case packets.Pubrel:
		err = pk.PubrelDecode(body)
	case packets.Pubcomp:
		err = pk.PubcompDecode(body)
	case packets.Subscribe:
		err = pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		err = pk.UnsubscribeDecode(body)
	case packets.Pingreq:
	case packets.Auth:
		err = pk.AuthDecode(body)
	default:
		err = fmt.Errorf("%w: packet type %d", errNotFromClient, pk.FixedHeader.Type)
	}
	if err != nil {
		return pk, err
	}
	return s.hooks.OnPacketRead(s.client, pk)
}

var errNotFromClient = errors.New("not a packet that a client sends")

// end is the end of the client's connection; err: why, nil where the client has said
// DISCONNECT.
func (s *session) end(err error) {
	server, cl := s.server, s.client
	if cl == nil {
		return // it has not begun
	}
	defer server.Listeners.ClientsWg.Done()
	cl.Stop(err)
	if s.counted {
		atomic.AddInt64(&server.Info.ClientsConnected, -1)
	}
	if s.up {
		p := &cl.Properties
		expire := p.ProtocolVersion == 5 && p.Props.SessionExpiryInterval == 0 || p.ProtocolVersion < 5 && p.Clean
		s.hooks.OnDisconnect(cl, err, expire)
	}
	if same, ok := server.Clients.Get(cl.ID); ok && same == cl {
		server.Clients.Delete(cl.ID)
	}
}

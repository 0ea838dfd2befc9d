package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Topics is what a Mesh tells of ordinary MQTT at other nodes. All methods are safe for
// concurrent use, and all but OnTakeSession return at once.
type Topics interface {
	// Joined says that a Session has begun with a node that shares the topics. It has ended
	// when Session.Ended is closed, which may be so already.
	Joined(s *Session)
	// OnFilters and OnMessage are what that node has sent by Filters and Message.
	OnFilters(s *Session, f *Filters)
	OnMessage(s *Session, m *Message)
	// OnTakeSession is what that node asks by TakeSession. Everything that it sent before has
	// been handled.
	OnTakeSession(s *Session, client, account string, at time.Time, clean bool) *SessionState
}

// Filters are changes of the filters that clients of a node are subscribed to.
type Filters struct {
	Wanted []string `cbor:"1,keyasint,omitempty"`
	Gone   []string `cbor:"2,keyasint,omitempty"`
}

// Message is an ordinary message that was published at the node that sends it.
type Message struct {
	TopicName        string      `cbor:"1,keyasint"`
	Payload          []byte      `cbor:"2,keyasint,omitempty"`
	QoS              byte        `cbor:"3,keyasint,omitempty"`
	Retain           bool        `cbor:"4,keyasint,omitempty"`
	Origin           string      `cbor:"5,keyasint,omitempty"` // client identifier of the publisher
	Account          string      `cbor:"6,keyasint,omitempty"`
	Created          int64       `cbor:"7,keyasint,omitempty"` // Unix seconds
	Expiry           int64       `cbor:"8,keyasint,omitempty"`
	Stamp            int64       `cbor:"9,keyasint,omitempty"`
	PayloadFormat    byte        `cbor:"10,keyasint,omitempty"`
	HasPayloadFormat bool        `cbor:"11,keyasint,omitempty"`
	ContentType      string      `cbor:"12,keyasint,omitempty"`
	ResponseTopic    string      `cbor:"13,keyasint,omitempty"`
	CorrelationData  []byte      `cbor:"14,keyasint,omitempty"`
	User             [][2]string `cbor:"15,keyasint,omitempty"` // properties, names and values
	// Known is of a retained message that was published before the Session began, and of the
	// removal of one that no client hears of.
	Known bool `cbor:"16,keyasint,omitempty"`
}

// SessionState is the session of a client that moves to another node.
type SessionState struct {
	Service       bool           `cbor:"1,keyasint,omitempty"`
	Version       byte           `cbor:"2,keyasint,omitempty"` // of MQTT
	Expiry        uint32         `cbor:"3,keyasint,omitempty"` // seconds
	Gone          int64          `cbor:"4,keyasint,omitempty"` // Unix seconds
	Subscriptions []Subscription `cbor:"5,keyasint,omitempty"`
	Outgoing      []Outgoing     `cbor:"6,keyasint,omitempty"` // in their order
	Incoming      []uint16       `cbor:"7,keyasint,omitempty"`
	Replays       []Replay       `cbor:"8,keyasint,omitempty"` // of retained messages, that are not over
}

// Replay is how far the retained messages for a subscription have come.
type Replay struct {
	Filter string `cbor:"1,keyasint"`
	After  []byte `cbor:"2,keyasint,omitempty"` // place in the order of topics
}

// Subscription is one of a SessionState.
type Subscription struct {
	Filter            string `cbor:"1,keyasint"`
	QoS               byte   `cbor:"2,keyasint,omitempty"`
	NoLocal           bool   `cbor:"3,keyasint,omitempty"`
	RetainAsPublished bool   `cbor:"4,keyasint,omitempty"`
	RetainHandling    byte   `cbor:"5,keyasint,omitempty"`
	Identifier        int    `cbor:"6,keyasint,omitempty"`
}

// Outgoing is a message that the client of a SessionState has not acknowledged.
type Outgoing struct {
	PacketID    uint16   `cbor:"1,keyasint"`
	QoS         byte     `cbor:"2,keyasint,omitempty"`
	Retain      bool     `cbor:"3,keyasint,omitempty"`
	Sent        bool     `cbor:"4,keyasint,omitempty"`
	Identifiers []int    `cbor:"5,keyasint,omitempty"`
	Message     *Message `cbor:"6,keyasint,omitempty"` // nil: a PUBREL is to be acknowledged
	Share       string   `cbor:"7,keyasint,omitempty"` // the shared subscription that it was dealt to
}

// Encode returns the message as Session.Message sends it.
func (m *Message) Encode() []byte { return encode(m) }

// shares reports whether the other node shares the topics of ordinary MQTT.
func (s *Session) shares() bool { return s.m.opts.Topics != nil && s.version.Load() >= versionTopics }

// Ended is closed when the Session ends.
func (s *Session) Ended() <-chan struct{} { return s.ctx.Done() }

// TooLarge reports whether an encoded message is more than a Session ever takes.
func TooLarge(encoded []byte) bool { return headSize+len(encoded) > maxQueued }

// Filters sends changes. The error says that too much waits to be sent.
func (s *Session) Filters(f *Filters) error { return s.send(kindFilters, f, maxQueued) }

// Message sends a message that Message.Encode has encoded. The error says that too much waits
// to be sent.
func (s *Session) Message(encoded []byte) error {
	return s.sendFrame(newFrame(kindMessage, encoded), maxQueued)
}

// TakeSession asks for the session of a client that connected at this node at a time, as the
// account of its connection. The other node ends the connection that the client has there, unless
// it began some seconds later. clean: the client does not continue the session. A nil state: there is
// no session to be continued.
func (s *Session) TakeSession(ctx context.Context, client, account string, at time.Time, clean bool) (state *SessionState, err error) {
	if !s.shares() || !s.Streaming() {
		return nil, nil
	}
	a, err := s.ask(ctx, &call{Op: opTakeSession, arguments: arguments{Account: account, Device: client, At: at.UnixNano(), Clean: clean}})
	if err != nil {
		return nil, err
	}
	return a.State, nil
}

// onTopics takes a frame about ordinary MQTT.
func (s *Session) onTopics(f frame) error {
	topics := s.m.opts.Topics
	if topics == nil {
		return fmt.Errorf("%w: this node does not share topics", errDamaged)
	}
	if f.kind == kindFilters {
		x := new(Filters)
		if err := decode(f.body, x); err != nil {
			return err
		}
		topics.OnFilters(s, x)
		return nil
	}
	m := new(Message)
	if err := decode(f.body, m); err != nil {
		return err
	}
	topics.OnMessage(s, m)
	return nil
}

// onTakeSession answers opTakeSession.
func (s *Session) onTakeSession(c *call) {
	s.later(c, func(context.Context, Owner) (results, error) {
		if s.m.opts.Topics == nil {
			return results{}, fmt.Errorf("%w: this node does not share topics", delivery.ErrUnavailable)
		}
		return results{State: s.m.opts.Topics.OnTakeSession(s, c.Device, c.Account, time.Unix(0, c.At), c.Clean)}, nil
	}, nil)
}

package ordinary

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The words of the models: topics and filters of few letters, so that they meet.
var (
	topicNames = rapid.Custom(func(t *rapid.T) string {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "$x"}), 1, 4).Draw(t, "levels")
		if name := strings.Join(levels, "/"); name != "" {
			return name
		}
		return "a"
	})
	filters = rapid.Custom(func(t *rapid.T) string {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "+", "$x"}), 1, 4).Draw(t, "levels")
		if rapid.Bool().Draw(t, "all below") {
			levels = append(levels[:len(levels)-1], "#")
		}
		if f := strings.Join(levels, "/"); f != "" {
			return f
		}
		return "#"
	})
)

// matches is §4.7 of MQTT 5, level by level.
func matches(filter, topicName string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(topicName, "/")
	if strings.HasPrefix(n[0], "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		switch {
		case level == "#":
			return true // also with i == len(n): the parent level
		case i >= len(n), level != "+" && level != n[i]:
			return false
		}
	}
	return len(f) == len(n)
}

func TestMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, n := filters.Draw(t, "filter"), topicNames.Draw(t, "topic")
		if got := Matches(f, n); got != matches(f, n) {
			t.Fatalf("%q matches %q: %v", f, n, got)
		}
	})
}

func innerOf(filter string) string {
	_, inner := SplitShare(filter)
	return inner
}

// TestIndexAgainstModel: an index with subscriptions coming and going finds what a list
// of them does, and is empty at the end.
func TestIndexAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		sessions := []*Session{newSession(nil, "0", ""), newSession(nil, "1", ""), newSession(nil, "2", "")}
		type key struct {
			filter  string
			session int
		}
		model := map[key]byte{}
		prefixes := rapid.SampledFrom([]string{"", "", "", "$share/g/", "$share/h/"})
		t.Repeat(map[string]func(*rapid.T){
			"subscribe": func(t *rapid.T) {
				k := key{prefixes.Draw(t, "share") + filters.Draw(t, "filter"), rapid.IntRange(0, 2).Draw(t, "session")}
				qos := byte(rapid.IntRange(0, 2).Draw(t, "qos"))
				_, had := model[k]
				alone := !x.has(innerOf(k.filter))
				isNew, first := x.add(k.filter, sessions[k.session], Subscription{QoS: qos})
				if isNew == had || first != alone {
					t.Fatalf("add %v: new %v, the first %v", k, isNew, first)
				}
				model[k] = qos
			},
			"unsubscribe": func(t *rapid.T) {
				k := key{prefixes.Draw(t, "share") + filters.Draw(t, "filter"), rapid.IntRange(0, 2).Draw(t, "session")}
				if len(model) > 0 && rapid.Bool().Draw(t, "one that is there") {
					keys := slices.SortedFunc(maps.Keys(model), func(a, b key) int { return cmp.Or(cmp.Compare(a.filter, b.filter), a.session-b.session) })
					k = rapid.SampledFrom(keys).Draw(t, "key")
				}
				_, had := model[k]
				was, last := x.remove(k.filter, sessions[k.session])
				if was != had || last != (had && !x.has(innerOf(k.filter))) {
					t.Fatalf("remove %v: %v, the last %v", k, was, last)
				}
				delete(model, k)
			},
			"": func(t *rapid.T) {
				m := &Message{TopicName: topicNames.Draw(t, "topic"), QoS: 2}
				want := map[int]byte{}       // by session, the QoS of its copy for all subscriptions of its own
				shares := map[string][]int{} // members that can have the message, by group and filter
				for k, qos := range model {
					group, inner := SplitShare(k.filter)
					if !matches(inner, m.TopicName) {
						continue
					}
					if group == "" {
						want[k.session] = max(want[k.session], qos)
					} else if qos > 0 { // the sessions are away
						shares[k.filter] = append(shares[k.filter], k.session)
					}
				}
				got := map[int][]byte{}
				merge := map[*Session]int{}
				var targets []target
				for _, l := range x.match(nil, m.TopicName) {
					targets = l.collect(targets, m, merge, func(*Session) bool { return true })
				}
				if len(targets) != len(want)+len(shares) { // a copy for each group: MQTT 5 §4.8.2
					t.Fatalf("%d copies of %q, want %d and one for each of %v", len(targets), m.TopicName, len(want), shares)
				}
				for _, target := range targets {
					at := slices.Index(sessions, target.session)
					got[at] = append(got[at], target.qos)
				}
				for at, qos := range want {
					if !slices.Contains(got[at], qos) {
						t.Fatalf("session %d gets %q at QoS %v, want %d", at, m.TopicName, got[at], qos)
					}
				}
				for at, copies := range got {
					most := 0
					if _, direct := want[at]; direct {
						most++
					}
					for _, members := range shares {
						if slices.Contains(members, at) {
							most++
						}
					}
					if len(copies) > most {
						t.Fatalf("session %d gets %q %d times, want %d at most", at, m.TopicName, len(copies), most)
					}
				}
			},
		})
		for k := range model {
			x.remove(k.filter, sessions[k.session])
		}
		if len(x.root.children) != 0 {
			t.Fatalf("left in the index: %v", x.root.children)
		}
	})
}

// TestNamesAgainstModel: the ordered names return what a filter matches, all of it and in
// order, however they were put in.
func TestNamesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var n names
		model := map[string]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "names") {
			name := topicNames.Draw(t, "name")
			if rapid.IntRange(0, 3).Draw(t, "act") == 0 {
				n.remove(keyOf(name))
				delete(model, keyOf(name))
			} else {
				n.add(keyOf(name))
				model[keyOf(name)] = true
			}
		}
		f := filters.Draw(t, "filter")
		var want, got []string
		for _, key := range slices.Sorted(maps.Keys(model)) {
			if matches(f, nameOf(key)) {
				want = append(want, key)
			}
		}
		looks := func() *int { n := rapid.IntRange(1, 4).Draw(t, "looks"); return &n }
		for key, found := n.next(strings.Split(f, "/"), "", looks()); key != ""; key, found = n.next(strings.Split(f, "/"), key, looks()) {
			if found {
				got = append(got, key)
			}
		}
		if !slices.Equal(got, want) || n.len != len(model) {
			t.Fatalf("%q: got %q, want %q", f, got, want)
		}
	})
}

// TestManyNames goes over many chunks.
func TestManyNames(t *testing.T) {
	var n names
	const many = 5000
	for i := range many {
		n.add(keyOf(fmt.Sprintf("t/%d/%d", i*7919%many, i%3)))
	}
	count := 0
	looks := 3 * many
	for key, ok := n.next([]string{"t", "+", "1"}, "", &looks); ok; key, ok = n.next([]string{"t", "+", "1"}, key, &looks) {
		count++
	}
	if count != (many+1)/3 || n.len != many {
		t.Errorf("%d of %d", count, n.len)
	}
	for i := range many {
		n.remove(keyOf(fmt.Sprintf("t/%d/%d", i*7919%many, i%3)))
	}
	if n.len != 0 || len(n.chunks) != 0 {
		t.Errorf("%d left", n.len)
	}
}

// client plays one, over one connection after another: it reads the packets that its
// session fills in, and checks them.
type client struct {
	t        *rapid.T
	hub      *Hub
	session  *Session
	link     *testLink
	version  byte
	maximum  int
	open     []sentPacket        // PUBLISHes and PUBRELs that it has not answered
	got      map[string][]uint64 // numbers by topic, as they came first
	received map[uint16]uint64   // QoS 2 by packet identifier, until its PUBREL
	last     map[string]uint64   // the newest number by topic
	aliases  map[uint16]string
}

type sentPacket struct {
	id     uint16
	pubrel bool
	qos    byte
}

type testLink struct{ closed bool }

func (*testLink) Wake()    {}
func (l *testLink) Close() { l.closed = true }

func (c *client) connect(clean bool) {
	c.link, c.open, c.aliases = &testLink{}, nil, map[uint16]string{}
	s, present := c.hub.Connect(Arrival{
		ID: "c", Clean: clean, Kept: true, Expiry: 1000, Link: c.link,
		Peer: Peer{Version: c.version, ReceiveMaximum: c.maximum, TopicAliasMaximum: 2},
	})
	if c.session = s; !present {
		c.received = map[uint16]uint64{}
	}
}

func (c *client) subscribe(filter string, sub Subscription) {
	if _, ok := c.hub.Subscribe(c.session, c.link, []Ask{{Filter: filter, Subscription: sub}}, false); !ok {
		c.t.Fatal("not subscribed")
	}
	c.session.Resume(c.link, nil)
}

// read takes everything that comes now, some of it at a time.
func (c *client) read(limit int) {
	b, _ := c.session.Fill(c.link, nil, limit)
	if len(b) == 0 && c.session.Feed(c.link) {
		b, _ = c.session.Fill(c.link, nil, limit)
	}
	for len(b) > 0 {
		first := b[0]
		n, size := binary.Uvarint(b[1:])
		body := b[1+size : 1+size+int(n)]
		b = b[1+size+int(n):]
		if first>>4 == 6 {
			id := binary.BigEndian.Uint16(body)
			c.open = append(c.open, sentPacket{id: id, pubrel: true})
			delete(c.received, id)
			continue
		}
		c.publish(first, body)
	}
}

func (c *client) publish(first byte, body []byte) {
	qos, dup := first>>1&3, first&8 != 0
	at := 2 + int(binary.BigEndian.Uint16(body))
	topicName := string(body[2:at])
	var id uint16
	if qos > 0 {
		id = binary.BigEndian.Uint16(body[at:])
		at += 2
	}
	if c.version == 5 {
		properties := int(body[at])
		p := body[at+1 : at+1+properties]
		at += 1 + properties
		if len(p) == 3 && p[0] == 0x23 {
			alias := binary.BigEndian.Uint16(p[1:])
			if topicName == "" {
				topicName = c.aliases[alias]
			}
			c.aliases[alias] = topicName
		}
	}
	number := binary.BigEndian.Uint64(body[at:])
	if qos > 0 {
		for _, o := range c.open {
			if o.id == id {
				c.t.Fatalf("packet identifier %d twice", id)
			}
		}
		c.open = append(c.open, sentPacket{id: id, qos: qos})
		inFlight := 0
		for _, o := range c.open {
			if !o.pubrel {
				inFlight++
			}
		}
		if inFlight > c.maximum {
			c.t.Fatalf("%d messages are open of %d", inFlight, c.maximum)
		}
	}
	if qos == 2 {
		if known, again := c.received[id]; again {
			if known != number || !dup {
				c.t.Fatalf("QoS 2 packet %d: message %d after %d, DUP %v", id, number, known, dup)
			}
			return
		}
		c.received[id] = number
	}
	if dup {
		return // it has come before, or an older connection lost it: see missing
	}
	if newest := c.last[topicName]; number < newest {
		c.t.Fatalf("%s: message %d after %d", topicName, number, newest)
	}
	c.last[topicName] = number
	c.got[topicName] = append(c.got[topicName], number)
}

// answer acknowledges the oldest packet.
func (c *client) answer() {
	if len(c.open) == 0 {
		return
	}
	o := c.open[0]
	c.open = c.open[1:]
	switch {
	case o.pubrel, o.qos == 1:
		c.session.Acknowledge(c.link, o.id)
	case o.qos == 2:
		c.session.Received(c.link, o.id)
		c.session.Answer(c.link, typePubrel, 2, byte(o.id>>8), byte(o.id))
	}
}

// TestSessionAgainstModel: whatever is published, acknowledged, cut off and taken over,
// no message of a topic comes after a newer one of it, live or retained; every message
// of QoS 1 and 2 that a subscription has matched comes; no more than the Receive Maximum
// are open; QoS 2 comes once; and in the end the client has the last value of each topic.
func TestSessionAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := New(Options{CacheBytes: 1})
		c := &client{
			t: t, hub: h, version: byte(rapid.IntRange(4, 5).Draw(t, "version")), maximum: rapid.IntRange(1, 4).Draw(t, "maximum"),
			got: map[string][]uint64{}, last: map[string]uint64{}, received: map[uint16]uint64{},
		}
		c.connect(true)
		qos := byte(rapid.IntRange(1, 2).Draw(t, "qos"))
		subscribed := false
		var number uint64
		retained := map[string]uint64{}
		wanted := map[string][]uint64{}
		topics := []string{"a", "a/b", "a/c", "b", "b/c"}
		publish := func(t *rapid.T, retain bool) {
			number++
			topicName := rapid.SampledFrom(topics).Draw(t, "topic")
			m := &Message{TopicName: topicName, QoS: 2, Retain: retain, Payload: binary.BigEndian.AppendUint64(nil, number), Origin: "p"}
			if _, err := h.Publish(m); err != nil {
				t.Fatal(err)
			}
			if retain {
				retained[topicName] = number
			}
			if subscribed {
				wanted[topicName] = append(wanted[topicName], number)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) { publish(t, false) },
			"retain":  func(t *rapid.T) { publish(t, true) },
			"subscribe": func(t *rapid.T) {
				if !subscribed {
					c.subscribe("#", Subscription{QoS: qos})
					subscribed = true
				}
			},
			"read":   func(t *rapid.T) { c.read(rapid.IntRange(1, 60).Draw(t, "bytes")) },
			"answer": func(*rapid.T) { c.answer() },
			"cut": func(t *rapid.T) {
				h.Disconnect(c.session, c.link, Bye{Kept: true, Expiry: 1000})
				c.open = nil
				for range rapid.IntRange(0, 3).Draw(t, "meanwhile") {
					publish(t, rapid.Bool().Draw(t, "retain"))
				}
				c.connect(false)
			},
			"take over": func(*rapid.T) {
				old := c.link
				c.connect(false)
				if !old.closed {
					t.Fatal("the earlier connection is open")
				}
			},
			"move": func(*rapid.T) { // to another server, as one value
				if len(c.session.replays) > 0 {
					return
				}
				h.Disconnect(c.session, c.link, Bye{Kept: true, Expiry: 1000})
				st, ok := h.Export("c")
				if !ok {
					t.Fatal("no session")
				}
				h.End("c")
				h.Import(st)
				c.connect(false)
			},
		})
		for idle := 0; idle < 3; { // read and answer all that there is
			if c.read(1 << 20); len(c.open) == 0 {
				idle++
				continue
			}
			c.answer()
			idle = 0
		}
		if !subscribed {
			return
		}
		for topicName, want := range wanted {
			for _, n := range want {
				if !slices.Contains(c.got[topicName], n) {
					t.Fatalf("%s: message %d never came; got %v", topicName, n, c.got[topicName])
				}
			}
		}
		for topicName, n := range retained {
			if c.last[topicName] < n {
				t.Fatalf("%s ends with %d, want %d", topicName, c.last[topicName], n)
			}
		}
		if st := h.Stats(); st.Inflight != 0 || c.session.bytes != 0 || c.session.waiting != 0 || c.session.used != 0 {
			t.Fatalf("left: %+v, %d bytes, %d waiting, %d places", st, c.session.bytes, c.session.waiting, c.session.used)
		}
	})
}

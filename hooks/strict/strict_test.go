package strict

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mochi-mqtt/server/v2/packets"
)

// The packets below are written as hex with spaces and 'text' in quotes; vN is a
// variable byte integer, sN a two-byte number. A packet's remaining length is
// put in by pk.

func wire(t testing.TB, s string) []byte {
	t.Helper()
	var b []byte
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if s[0] == '\'' {
			text, rest, ok := strings.Cut(s[1:], "'")
			if !ok {
				t.Fatalf("open quote in %q", s)
			}
			// A string with its length in front.
			b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
			b = append(b, text...)
			s = rest
			continue
		}
		word, rest, _ := strings.Cut(s, " ")
		h, err := hex.DecodeString(word)
		if err != nil {
			t.Fatalf("%q: %v", word, err)
		}
		b = append(b, h...)
		s = rest
	}
	return b
}

// pk is a packet: its first byte in hex, then its body.
func pk(t testing.TB, first, body string) []byte {
	t.Helper()
	b := wire(t, body)
	return append(append(wire(t, first), length(len(b))...), b...)
}

func length(n int) (b []byte) {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

const (
	connect4 = "'MQTT' 04 02 003c 'id'"
	connect5 = "'MQTT' 05 02 003c 00 'id'"
)

// run sends CONNECT and then b through a Reader and returns what passed after the
// CONNECT, and the error that came after it.
func run(t testing.TB, version byte, b []byte, o Options) ([]byte, *Reader, error) {
	t.Helper()
	body := connect4
	if version == 5 {
		body = connect5
	}
	c := pk(t, "10", body)
	r := NewReader(bytes.NewReader(append(c, b...)), &o)
	out, err := io.ReadAll(r)
	if !bytes.HasPrefix(out, c) {
		t.Fatalf("the CONNECT did not pass: %x, %v", out, err)
	}
	return out[len(c):], r, err
}

func TestPacketsThatPass(t *testing.T) {
	for name, c := range map[string]struct {
		version byte
		first   string
		body    string
	}{
		"publish qos 0":           {4, "30", "'a/b' 01 02 00 ff"},
		"publish empty payload":   {4, "31", "'a/b'"},
		"publish qos 1":           {4, "32", "'a/b' 0001 01"},
		"publish dup":             {4, "3a", "'a/b' 0001 01"},
		"publish qos 2":           {5, "34", "'a/b' 0001 00 01"},
		"publish properties":      {5, "32", "'a/b' 0001 16 01 01 02 00000001 03 'x' 08 'r' 09 'c' 23 0001 01"},
		"publish user properties": {5, "30", "'a' 0e 26 'k' 'v' 26 'k' 'v' 00"},
		"publish unicode":         {5, "30", "0006 c3a4f09f9880 00"},
		"puback":                  {4, "40", "0001"},
		"puback reason":           {5, "40", "0001 10"},
		"puback refusal":          {5, "40", "0001 97 00"},
		"pubrec with a string":    {5, "50", "0001 80 04 1f 'x'"},
		"pubrel":                  {4, "62", "0001"},
		"pubcomp not found":       {5, "70", "0001 92"},
		"subscribe":               {4, "82", "0001 'a/#' 01 '+/b' 00"},
		"subscribe options":       {5, "82", "0001 00 'a' 2e"},
		"subscribe id":            {5, "82", "0001 05 0b ffffff7f 'a' 00"},
		"subscribe shared":        {5, "82", "0001 00 '$share/g/a/#' 01"},
		"unsubscribe":             {5, "a2", "0001 00 'a' '#'"},
		"pingreq":                 {4, "c0", ""},
		"disconnect":              {4, "e0", ""},
		"disconnect 5":            {5, "e0", "00 05 11 00000000"},
		"disconnect with will":    {5, "e0", "04 00"},
	} {
		t.Run(name, func(t *testing.T) {
			in := pk(t, c.first, c.body)
			out, _, err := run(t, c.version, in, Options{})
			if err != nil || !bytes.Equal(out, in) {
				t.Errorf("in  %x\nout %x, %v", in, out, err)
			}
		})
	}
}

func TestPacketsThatDoNotPass(t *testing.T) {
	for name, c := range map[string]struct {
		version byte
		first   string
		body    string
		rule    *rule
	}{
		"reserved type":         {5, "00", "", &ruleType},
		"connack":               {5, "20", "00 00 00", &ruleType},
		"suback":                {4, "90", "0001 00", &ruleType},
		"pingresp":              {4, "d0", "", &ruleType},
		"auth in 3.1.1":         {4, "f0", "", &ruleType},
		"auth without method":   {5, "f0", "18 00", &ruleAuthPacket},
		"second connect":        {5, "10", connect5, &ruleSecond},
		"puback flags":          {4, "41", "0001", &ruleFlags},
		"pubrel flags":          {4, "60", "0001", &ruleFlags},
		"subscribe flags":       {5, "80", "0001 00 'a' 00", &ruleFlags},
		"ping flags":            {5, "c1", "", &ruleFlags},
		"ping body":             {4, "c0", "00", &ruleTrailing},
		"publish qos 3":         {5, "36", "'a' 0001 00", &ruleQoS},
		"publish dup qos 0":     {5, "38", "'a' 00", &ruleDup},
		"publish id 0":          {5, "32", "'a' 0000 00", &rulePublishID},
		"publish no id":         {4, "32", "'a'", &ruleTruncated},
		"publish no topic":      {4, "30", "00", &ruleTruncated},
		"publish short topic":   {4, "30", "0005 61", &ruleTruncated},
		"publish empty topic":   {4, "30", "0000 01", &ruleTopicEmpty},
		"publish empty topic 5": {5, "30", "0000 00", &ruleTopicEmpty},
		"publish alias unknown": {5, "30", "0000 03 23 0001", &ruleAliasUnknown},
		"publish alias 0":       {5, "30", "'a' 03 23 0000", &ruleTopicAlias},
		"publish wildcard":      {4, "30", "'a/+'", &ruleTopicWildcard},
		"publish nul":           {4, "30", "0003 610062", &ruleTopicText},
		"publish surrogate":     {4, "30", "0003 eda080", &ruleTopicText},
		"publish control":       {4, "30", "0001 1f", &ruleTopicControl},
		"publish c1 control":    {4, "30", "0002 c285", &ruleTopicControl},
		"publish non-character": {4, "30", "0003 efbfbf", &ruleTopicControl},
		"publish no properties": {5, "30", "'a'", &rulePropertyLength},
		"publish props beyond":  {5, "30", "'a' 05 01 01", &rulePropertyLength},
		"publish property cut":  {5, "30", "'a' 01 01", &rulePropertyLength},
		"publish format twice":  {5, "30", "'a' 04 01 01 01 01", &rulePropertyTwice},
		"publish format 2":      {5, "30", "'a' 02 01 02", &rulePropertyValue},
		"publish sub id":        {5, "30", "'a' 02 0b 01", &ruleSubIDFromClient},
		"publish forbidden":     {5, "30", "'a' 03 21 0001", &rulePropertyForbidden},
		"publish unknown":       {5, "30", "'a' 02 04 01", &rulePropertyUnknown},
		"publish long id":       {5, "30", "'a' 03 8001 01", &rulePropertyUnknown},
		"publish response #":    {5, "30", "'a' 06 08 'r/#'", &ruleResponseTopic},
		"publish response none": {5, "30", "'a' 03 08 0000", &ruleResponseTopic},
		"publish payload":       {5, "30", "'a' 02 01 01 ff", &rulePayloadFormat},
		"publish payload cut":   {5, "30", "'a' 02 01 01 c3", &rulePayloadFormat},
		"puback short":          {4, "40", "01", &ruleTruncated},
		"puback long in 3.1.1":  {4, "40", "0001 00", &ruleTrailing},
		"puback id 0":           {5, "40", "0000", &rulePacketID},
		"puback code":           {5, "40", "0001 92", &ruleReasonCode},
		"pubrel code":           {5, "62", "0001 10", &ruleReasonCode},
		"pubcomp property":      {5, "70", "0001 00 02 01 01", &rulePropertyForbidden},
		"pubcomp trailing":      {5, "70", "0001 00 00 00", &ruleTrailing},
		"subscribe short":       {5, "82", "0001", &rulePropertyLength},
		"subscribe no filters":  {5, "82", "0001 00", &ruleNoFilters},
		"subscribe none 3.1.1":  {4, "82", "0001", &ruleNoFilters},
		"subscribe id 0":        {4, "82", "0000 'a' 00", &rulePacketID},
		"subscribe no options":  {5, "82", "0001 00 'a/b'", &ruleTruncated},
		"subscribe no qos":      {4, "82", "0001 'a/b'", &ruleTruncated},
		"subscribe empty":       {4, "82", "0001 'a' 00 0000 00", &ruleFilterEmpty},
		"subscribe qos 3":       {5, "82", "0001 00 'a' 03", &ruleSubscribeQoS},
		"subscribe qos 3 3.1.1": {4, "82", "0001 'a' 03", &ruleOptionBits},
		"subscribe retain 3":    {5, "82", "0001 00 'a' 30", &ruleRetainHandling},
		"subscribe reserved":    {5, "82", "0001 00 'a' 40", &ruleOptionBits},
		"subscribe a#":          {4, "82", "0001 'a#' 00", &ruleFilterWildcard},
		"subscribe #/a":         {4, "82", "0001 '#/a' 00", &ruleFilterWildcard},
		"subscribe a/+b":        {4, "82", "0001 'a/+b' 00", &ruleFilterWildcard},
		"subscribe utf-8":       {4, "82", "0001 0001 ff 00", &ruleTopicText},
		"subscribe share local": {5, "82", "0001 00 '$share/g/a' 04", &ruleShareNoLocal},
		"subscribe share none":  {5, "82", "0001 00 '$share/g' 00", &ruleFilterShare},
		"subscribe share name":  {5, "82", "0001 00 '$share//a' 00", &ruleFilterShare},
		"subscribe share wild":  {5, "82", "0001 00 '$share/+/a' 00", &ruleFilterShare},
		"subscribe id twice":    {5, "82", "0001 04 0b 01 0b 01 'a' 00", &rulePropertyTwice},
		"subscribe sub id 0":    {5, "82", "0001 02 0b 00 'a' 00", &rulePropertyValue},
		"subscribe sub id long": {5, "82", "0001 03 0b 8000 'a' 00", &rulePropertyLength},
		"unsubscribe none":      {5, "a2", "0001 00", &ruleNoFilters},
		"unsubscribe empty":     {5, "a2", "0001 00 0000", &ruleFilterEmpty},
		"unsubscribe cut":       {4, "a2", "0001 0002 61", &ruleTruncated},
		"unsubscribe property":  {5, "a2", "0001 02 0b 01 'a'", &rulePropertyForbidden},
		"disconnect body":       {4, "e0", "00", &ruleTrailing},
		"disconnect code":       {5, "e0", "8e", &ruleReasonCode},
		"disconnect expiry":     {5, "e0", "00 05 11 00000001", &ruleExpiryRaised},
		"disconnect property":   {5, "e0", "00 04 1c 'x'", &rulePropertyForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			before := pk(t, "c0", "")
			out, r, err := run(t, c.version, append(before, pk(t, c.first, c.body)...), Options{NoReasonString: true})
			v := new(Violation)
			if !errors.As(err, &v) || v.Rule != c.rule.name || v.Code != c.rule.code {
				t.Fatalf("error %v, want %s", err, c.rule.name)
			}
			if !bytes.Equal(out, before) && c.rule != &rulePayloadFormat {
				t.Errorf("%x passed, want the packet before it only", out)
			}
			want := []byte{0xE0, 1, c.rule.code}
			if c.version < 5 {
				want = nil
			}
			if got := r.Answer(v); !bytes.Equal(got, want) {
				t.Errorf("answer %x, want %x", got, want)
			}
			if _, again := r.Read(make([]byte, 8)); again != err {
				t.Errorf("the next read: %v", again)
			}
		})
	}
}

// TestBridge: the top bit of the protocol level is taken off, and told.
func TestBridge(t *testing.T) {
	in := pk(t, "10", "'MQTT' 84 02 003c 'id'")
	r := NewReader(bytes.NewReader(in), &Options{})
	out, err := io.ReadAll(r)
	if want := pk(t, "10", "'MQTT' 04 02 003c 'id'"); err != nil || !bytes.Equal(out, want) || !r.Bridge() || r.Version() != 4 {
		t.Errorf("%x passed, %v, bridge %v, version %d", out, err, r.Bridge(), r.Version())
	}
}

func TestConnect(t *testing.T) {
	const (
		silent = ""
		ok     = "ok"
	)
	for name, c := range map[string]struct {
		body string
		want string // the answer in hex, or ok
	}{
		"3.1.1":                   {connect4, ok},
		"5":                       {connect5, ok},
		"3.1":                     {"'MQIsdp' 03 02 003c 'id'", ok},
		"will":                    {"'MQTT' 04 06 003c 'id' 't' 'm'", ok},
		"will empty message":      {"'MQTT' 04 06 003c 'id' 't' 0000", ok},
		"will 5":                  {"'MQTT' 05 0e 003c 00 'id' 07 01 01 18 00000001 't' 'm'", ok},
		"user and password":       {"'MQTT' 04 c2 003c 'id' 'u' 'p'", ok},
		"password alone 5":        {"'MQTT' 05 42 003c 00 'id' 'p'", ok},
		"properties":              {"'MQTT' 05 02 003c 0f 11 00000001 21 0001 22 0000 17 01 19 00 'id'", ok},
		"empty id, clean":         {"'MQTT' 04 02 003c 0000", ok},
		"empty id 5":              {"'MQTT' 05 00 003c 00 0000", ok},
		"control character in id": {"'MQTT' 04 02 003c 0001 01", ok},
		"name":                    {"'MQTU' 04 02 003c 'id'", silent},
		"version 2":               {"'MQTT' 02 02 003c 'id'", "20 03 00 84 00"},
		"version 6":               {"'MQTT' 06 02 003c 'id'", "20 03 00 84 00"},
		"version 3 as MQTT":       {"'MQTT' 03 02 003c 'id'", "20 02 00 01"},
		"bridge of MQTT 5":        {"'MQTT' 85 02 003c 00 'id'", "20 03 00 84 00"},
		"reserved flag":           {"'MQTT' 04 03 003c 'id'", silent},
		"reserved flag 5":         {"'MQTT' 05 03 003c 00 'id'", "20 03 00 81 00"},
		"will qos, no will":       {"'MQTT' 04 0a 003c 'id'", silent},
		"will retain, no will":    {"'MQTT' 05 22 003c 00 'id'", "20 03 00 81 00"},
		"will qos 3":              {"'MQTT' 05 1e 003c 00 'id' 00 't' 'm'", "20 03 00 81 00"},
		"will missing":            {"'MQTT' 04 06 003c 'id'", silent},
		"will topic wildcard":     {"'MQTT' 05 06 003c 00 'id' 00 't/#' 'm'", "20 03 00 81 00"},
		"will payload":            {"'MQTT' 05 06 003c 00 'id' 02 01 01 't' 0001 ff", "20 03 00 99 00"},
		"password alone 3.1.1":    {"'MQTT' 04 42 003c 'id' 'p'", silent},
		"username missing":        {"'MQTT' 05 82 003c 00 'id'", "20 03 00 81 00"},
		"username utf-8":          {"'MQTT' 05 82 003c 00 'id' 0001 ff", "20 03 00 81 00"},
		"id utf-8":                {"'MQTT' 05 02 003c 00 0001 00", "20 03 00 85 00"},
		"empty id, not clean":     {"'MQTT' 04 00 003c 0000", "20 02 00 02"},
		"trailing":                {connect4 + " 00", silent},
		"trailing 5":              {connect5 + " 00", "20 03 00 81 00"},
		"receive maximum 0":       {"'MQTT' 05 02 003c 03 21 0000 'id'", "20 03 00 82 00"},
		"packet size 0":           {"'MQTT' 05 02 003c 05 27 00000000 'id'", "20 03 00 82 00"},
		"packet size 4":           {"'MQTT' 05 02 003c 08 27 00000004 21 0000 'id'", silent},
		"property twice":          {"'MQTT' 05 02 003c 06 22 0001 22 0001 'id'", "20 03 00 82 00"},
		"property of another":     {"'MQTT' 05 02 003c 02 01 01 'id'", "20 03 00 81 00"},
		"auth data alone":         {"'MQTT' 05 02 003c 04 16 'd' 'id'", "20 03 00 82 00"},
		"auth method":             {"'MQTT' 05 02 003c 04 15 'm' 'id'", "20 03 00 8c 00"},
	} {
		t.Run(name, func(t *testing.T) {
			in := pk(t, "10", c.body)
			r := NewReader(bytes.NewReader(in), &Options{NoReasonString: true})
			out, err := io.ReadAll(r)
			if c.want == ok {
				if err != nil || !bytes.Equal(out, in) {
					t.Fatalf("%x passed of %x, %v", out, in, err)
				}
				return
			}
			v := new(Violation)
			if !errors.As(err, &v) {
				t.Fatalf("error %v, want a violation", err)
			}
			if got := r.Answer(v); !bytes.Equal(got, wire(t, c.want)) {
				t.Errorf("answer %x to %v, want %s", got, v, c.want)
			}
		})
	}
}

func TestFirstPacketMustBeConnect(t *testing.T) {
	r := NewReader(bytes.NewReader([]byte{0xC0, 0}), &Options{})
	_, err := r.Read(make([]byte, 10))
	v := new(Violation)
	if !errors.As(err, &v) || v.Rule != ruleFirst.name || r.Answer(v) != nil {
		t.Errorf("%v, answer %x", err, r.Answer(v))
	}
}

func TestReasonString(t *testing.T) {
	for name, c := range map[string]struct {
		properties string
		want       string
	}{
		"given":                  {"00", "e0 20 82 1e 1f 001b" + hex.EncodeToString([]byte(ruleNoFilters.detail))},
		"no problem information": {"02 17 00", "e0 01 82"},
		"no room for it":         {"05 27 00000010", "e0 01 82"},
		"no room for anything":   {"05 27 00000002", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := append(pk(t, "10", "'MQTT' 05 02 003c "+c.properties+" 'id'"), pk(t, "82", "0001 00")...)
			r := NewReader(bytes.NewReader(in), &Options{})
			_, err := io.ReadAll(r)
			v := new(Violation)
			if !errors.As(err, &v) {
				t.Fatal(err)
			}
			want := wire(t, c.want)
			if len(want) > 3 {
				want = wire(t, "e0 "+hex.EncodeToString([]byte{byte(len(v.Detail) + 5), 0x82, byte(len(v.Detail) + 3), 0x1f, 0, byte(len(v.Detail))})+" "+hex.EncodeToString([]byte(v.Detail)))
			}
			if got := r.Answer(v); !bytes.Equal(got, want) {
				t.Errorf("answer %x, want %x", got, want)
			}
		})
	}
}

// What a length claims is refused from the header alone, and before anything is
// allocated for it.
func TestSize(t *testing.T) {
	o := Options{MaxPacketSize: 1000, MaxConnectSize: 100}
	refused := func(t *testing.T, in []byte) {
		t.Helper()
		r := NewReader(bytes.NewReader(in), &o)
		allocated := testing.AllocsPerRun(1, func() { _, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20)) })
		_, err := r.Read(make([]byte, 1))
		v := new(Violation)
		if !errors.As(err, &v) || v.Code != 0x95 && v.Code != 0x81 {
			t.Errorf("%v after %v allocations", err, allocated)
		}
	}
	t.Run("connect of 256 MiB", func(t *testing.T) { refused(t, []byte{0x10, 0xff, 0xff, 0xff, 0x7f}) })
	t.Run("connect over the limit", func(t *testing.T) { refused(t, []byte{0x10, 99}) })
	t.Run("publish", func(t *testing.T) {
		refused(t, append(pk(t, "10", connect4), append([]byte{0x30}, length(998)...)...))
	})
	t.Run("length of five bytes", func(t *testing.T) {
		refused(t, append(pk(t, "10", connect4), 0x30, 0x80, 0x80, 0x80, 0x80, 0x01))
	})
	out, _, err := run(t, 4, append([]byte{0x30}, append(length(997), append(wire(t, "'t'"), make([]byte, 994)...)...)...), o)
	if err != nil || len(out) != 1000 {
		t.Errorf("a packet of the limit: %d bytes, %v", len(out), err)
	}
}

func TestLengthLongerThanNeedBe(t *testing.T) {
	in := []byte{0xC0, 0x80, 0x00}
	if out, _, err := run(t, 4, in, Options{}); err != nil || !bytes.Equal(out, in) {
		t.Errorf("3.1.1: %x, %v", out, err)
	}
	if _, _, err := run(t, 5, in, Options{}); err == nil {
		t.Error("5.0: passed") // [MQTT-1.5.5-1]
	}
}

// mochi reads the reason code of a DISCONNECT only where more follows it: its will
// would be dropped although the client asked for it to be sent.
func TestDisconnectWithReasonOnly(t *testing.T) {
	decode := func(b []byte) byte {
		p := packets.Packet{ProtocolVersion: 5, FixedHeader: packets.FixedHeader{Type: packets.Disconnect, Remaining: int(b[1])}}
		if err := p.DisconnectDecode(b[2:]); err != nil {
			t.Fatal(err)
		}
		return p.ReasonCode
	}
	in := pk(t, "e0", "04")
	if decode(in) == 4 {
		t.Error("mochi reads it: the rewriting can go")
	}
	for _, behind := range []string{"", "c0 00"} {
		out, _, err := run(t, 5, append(in, wire(t, behind)...), Options{})
		if err != nil || decode(out) != 4 {
			t.Errorf("%x, %v", out, err)
		}
	}
}

func TestNothingPassesAfterDisconnect(t *testing.T) {
	out, _, err := run(t, 4, wire(t, "e000 c000 ffff"), Options{})
	if err != nil || !bytes.Equal(out, []byte{0xE0, 0}) {
		t.Errorf("%x, %v", out, err)
	}
}

func TestAckOfTheWrongKind(t *testing.T) {
	qos1, qos2, pubrel := wire(t, "32 05 'a' 0001"), wire(t, "34 05 'a' 0001"), wire(t, "62 02 0001")
	for name, c := range map[string]struct {
		sent [][]byte
		acks string
		ok   bool
	}{
		"puback":                  {[][]byte{qos1}, "40020001", true},
		"puback again":            {[][]byte{qos1}, "40020001 40020001", true},
		"of something else":       {[][]byte{qos1}, "50020002 70020003", true},
		"pubrec for QoS 1":        {[][]byte{qos1}, "50020001", false},
		"pubcomp for QoS 1":       {[][]byte{qos1}, "70020001", false},
		"pubrec":                  {[][]byte{qos2}, "50020001", true},
		"puback for QoS 2":        {[][]byte{qos2}, "40020001", false},
		"pubcomp before pubrel":   {[][]byte{qos2}, "70020001", false},
		"pubcomp":                 {[][]byte{qos2, pubrel}, "70020001", true},
		"pubrec after pubrel":     {[][]byte{qos2, pubrel}, "50020001", true},
		"puback after pubrel":     {[][]byte{qos2, pubrel}, "40020001", false},
		"in one write":            {[][]byte{append(bytes.Clone(qos1), pubrel...)}, "40020001", false},
		"identifier used anew":    {[][]byte{qos1, qos2}, "50020001", true},
		"publish of a session":    {nil, "50020001", true},
		"QoS 0 has no identifier": {[][]byte{wire(t, "30 05 'a' 0001")}, "50020001", true},
	} {
		t.Run(name, func(t *testing.T) {
			in := io.MultiReader(bytes.NewReader(pk(t, "10", connect4)), bytes.NewReader(wire(t, c.acks)))
			r := NewReader(in, &Options{})
			if _, err := r.Read(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			for _, b := range c.sent {
				if out, final := r.Outbound(b); !bytes.Equal(out, b) || final {
					t.Errorf("%x became %x", b, out)
				}
			}
			_, err := io.ReadAll(r)
			if (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestNoDisconnectFromServerBefore5(t *testing.T) {
	ping, disconnect := wire(t, "d000"), wire(t, "e0028e00")
	for version, want := range map[byte][]byte{4: ping, 5: append(bytes.Clone(ping), disconnect...)} {
		_, r, _ := run(t, version, nil, Options{})
		out, final := r.Outbound(append(bytes.Clone(ping), disconnect...))
		if !bytes.Equal(out, want) || !final {
			t.Errorf("version %d: %x, final %v", version, out, final)
		}
	}
}

func TestTopicAlias(t *testing.T) {
	in := append(pk(t, "30", "'a' 03 23 0041 01"), pk(t, "30", "0000 03 23 0041 02")...)
	if out, _, err := run(t, 5, in, Options{}); err != nil || !bytes.Equal(out, in) {
		t.Errorf("%x, %v", out, err)
	}
	if _, _, err := run(t, 5, append(in, pk(t, "30", "0000 03 23 0001 02")...), Options{}); err == nil {
		t.Error("an alias without a topic passed")
	}
}

func TestShed(t *testing.T) {
	for in, want := range map[string]map[byte]string{
		"30 05 'a' 00 01":                     {4: "", 5: ""},
		"c000 31 05 'a' 00 01 c000":           {4: "c000 c000", 5: "c000 c000"},
		"30 03 'a' 30 03 'b' 62 02 0001":      {4: "62 02 0001", 5: "30 03 'a' 30 03 'b' 62 02 0001"},
		"30 07 'a' 03 23 0001":                {4: "", 5: "30 07 'a' 03 23 0001"},
		"30 06 0000 03 23 0001":               {5: ""},
		"32 06 'a' 0001 00 34 06 'a' 0002 00": {5: "32 06 'a' 0001 00 34 06 'a' 0002 00"},
		"30 04 'a' 00 30 7f 'cut'":            {4: "30 7f 'cut'", 5: "30 7f 'cut'"},
	} {
		for version, want := range want {
			before := wire(t, in)
			kept, dropped := Shed(before, version)
			if !bytes.Equal(kept, wire(t, want)) || (dropped == 0) != (len(kept) == len(before)) {
				t.Errorf("%s in %d: %x, %d dropped", in, version, kept, dropped)
			}
			if !bytes.Equal(before, wire(t, in)) {
				t.Errorf("%s was changed", in)
			}
		}
	}
}

func TestReadConnectReadsNoMore(t *testing.T) {
	for _, body := range []string{connect4, "'MQTT' 04 02 003c 0000", connect5, "'MQTT' 04 c2 003c 'id' 'u' " + hexString(3000)} {
		in := pk(t, "10", body)
		src := bytes.NewReader(append(bytes.Clone(in), 0xC0, 0))
		for name, from := range map[string]io.Reader{"whole": src, "byte by byte": iotest.OneByteReader(src)} {
			src.Seek(0, io.SeekStart)
			r := NewReader(from, &Options{})
			asked := 0
			if err := r.ReadConnect(func(n int) bool { asked = n; return true }); err != nil {
				t.Fatal(name, err)
			}
			if src.Len() != 2 {
				t.Errorf("%s: %d bytes left, want the packet after it", name, src.Len())
			}
			if want := len(in); len(in) > 512 && asked != want {
				t.Errorf("%s: asked for %d bytes, want %d", name, asked, want)
			}
			out, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(out, append(bytes.Clone(in), 0xC0, 0)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestReadConnectRefusedForItsSize(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{"'MQTT' 04 c2 003c 'id' 'u' " + hexString(3000), "20 02 00 03"},
		{"'MQTT' 05 c2 003c 00 'id' 'u' " + hexString(3000), "20 03 00 89 00"},
	} {
		r := NewReader(bytes.NewReader(pk(t, "10", c.body)), &Options{NoReasonString: true})
		v := new(Violation)
		if err := r.ReadConnect(func(int) bool { return false }); !errors.As(err, &v) {
			t.Fatal(err)
		}
		if got := r.Answer(v); !bytes.Equal(got, wire(t, c.want)) {
			t.Errorf("answer %x, want %s", got, c.want)
		}
	}
}

func TestReadConnectEnd(t *testing.T) {
	r := NewReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(pk(t, "10", connect4)))), &Options{})
	if err := r.ReadConnect(nil); err != iotest.ErrTimeout {
		t.Error(err)
	}
}

// hexString is a string of n letters with its length.
func hexString(n int) string {
	return hex.EncodeToString(binary.BigEndian.AppendUint16(nil, uint16(n))) + " " + strings.Repeat("61", n)
}

func TestRulesAreDistinct(t *testing.T) {
	v := ruleNoFilters.in(packets.Subscribe)
	if got, want := v.Error(), "SUBSCRIBE: there is no topic filter (0x82)"; got != want {
		t.Errorf("%q", got)
	}
}

func BenchmarkPublish(b *testing.B) {
	for name, c := range map[string]struct {
		version byte
		p       []byte
	}{
		"3.1.1 QoS 0":    {4, pk(b, "30", "'heartline/devices/d1/acks' 7b7d")},
		"5.0 QoS 1":      {5, pk(b, "32", "'heartline/devices/d1/acks' 0001 00 7b7d")},
		"5.0 properties": {5, pk(b, "32", "'heartline/devices/d1/acks' 0001 12 01 01 02 00000001 26 'k' 'v' 03 'x' 7b7d")},
	} {
		b.Run(name, func(b *testing.B) {
			connect := connect4
			if c.version == 5 {
				connect = connect5
			}
			src := &loop{once: pk(b, "10", connect), again: bytes.Repeat(c.p, 2000/len(c.p))}
			r := NewReader(src, &Options{MaxPacketSize: 1 << 20})
			buf := make([]byte, 2048)
			if _, err := r.Read(buf); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; {
				k, err := r.Read(buf)
				if err != nil {
					b.Fatal(err)
				}
				n += k / len(c.p)
			}
		})
	}
}

// loop is a source that does not end.
type loop struct{ once, again []byte }

func (l *loop) Read(p []byte) (int, error) {
	if len(l.once) > 0 {
		n := copy(p, l.once)
		l.once = l.once[n:]
		return n, nil
	}
	return copy(p, l.again), nil
}

package xmpp

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/internal/text"
)

// Namespaces.
const (
	nsAccept    = "jabber:component:accept"
	nsStream    = "http://etherx.jabber.org/streams"
	nsStreams   = "urn:ietf:params:xml:ns:xmpp-streams"
	nsStanzas   = "urn:ietf:params:xml:ns:xmpp-stanzas"
	nsPubSub    = "http://jabber.org/protocol/pubsub"
	nsPush      = "urn:xmpp:push:0"
	nsCommands  = "http://jabber.org/protocol/commands"
	nsForm      = "jabber:x:data"
	nsInfo      = "http://jabber.org/protocol/disco#info"
	nsItems     = "http://jabber.org/protocol/disco#items"
	nsPing      = "urn:xmpp:ping"
	nsHeartline = "urn:heartline:1"
)

// maxDepth is how deep the elements of a stanza may nest. A publish of XEP-0357 has 8.
const maxDepth = 32

// element is one XML element.
type element struct {
	name     xml.Name
	attrs    []xml.Attr
	text     string // its character data, without that of its children
	children []*element
}

// attr returns an attribute without a namespace; "" where there is none.
func (e *element) attr(name string) string {
	for _, a := range e.attrs {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// child returns the first child of a name; nil where there is none, also of a nil e.
func (e *element) child(space, local string) *element {
	if e == nil {
		return nil
	}
	for _, c := range e.children {
		if c.name.Local == local && c.name.Space == space {
			return c
		}
	}
	return nil
}

// field returns the first value of a field of a data form (XEP-0004), "" for none. Its
// type does not matter: Prosody sends `form` where ejabberd sends `submit`.
func (e *element) field(name string) string {
	if e == nil {
		return ""
	}
	for _, f := range e.children {
		if f.name.Local == "field" && f.attr("var") == name {
			if v := f.child(nsForm, "value"); v != nil {
				return v.text
			}
		}
	}
	return ""
}

// condition returns the defined condition of an error stanza (RFC 6120 §8.3.3), "" for
// a stanza without error.
func (e *element) condition() string {
	for _, c := range e.children {
		if c.name.Local != "error" {
			continue
		}
		for _, x := range c.children {
			if x.name.Space == nsStanzas && x.name.Local != "text" {
				return x.name.Local
			}
		}
		return "undefined-condition"
	}
	return ""
}

// Faults of a stream. RFC 6120 §11.1 forbids what errRestricted names.
var (
	errTooLarge   = errors.New("a stanza is larger than xmpp.max_stanza_size")
	errTooDeep    = fmt.Errorf("a stanza nests deeper than %d elements", maxDepth)
	errRestricted = errors.New("a comment, a processing instruction or a DTD in the stream")
	errText       = errors.New("text between two stanzas")
	errEnded      = errors.New("the server closed the stream")
)

// bounded counts the bytes of a stanza. encoding/xml reads byte by byte from an
// io.ByteReader, so that the count is exact and nothing behind the stanza is taken.
type bounded struct {
	r    *bufio.Reader
	left int
}

func (b *bounded) ReadByte() (byte, error) {
	if b.left == 0 {
		return 0, errTooLarge
	}
	b.left--
	return b.r.ReadByte()
}

func (b *bounded) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c, err := b.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = c
	return 1, nil
}

// reader reads a stream: its header, then its stanzas.
type reader struct {
	src *bounded
	dec *xml.Decoder
	max int
}

func newReader(r io.Reader, maxStanza int) *reader {
	src := &bounded{r: bufio.NewReaderSize(r, 64<<10), left: maxStanza}
	return &reader{src: src, dec: xml.NewDecoder(src), max: maxStanza}
}

// header reads the stream's header and returns its id.
func (r *reader) header() (id string, err error) {
	for {
		t, err := r.dec.Token()
		if err != nil {
			return "", streamFault(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if t.Name.Local != "stream" || t.Name.Space != nsStream {
				return "", errors.New("the server does not speak XMPP here: no stream header")
			}
			e := element{attrs: t.Attr}
			if id = e.attr("id"); id == "" { // Prosody refuses an unknown component so
				if _, err := r.next(); err != nil {
					return "", err
				}
				return "", errors.New("the server's stream header has no id")
			}
			return id, nil
		case xml.CharData, xml.ProcInst: // the XML declaration
		default:
			return "", errRestricted
		}
	}
}

// next returns the next stanza, or the error that ends the stream.
func (r *reader) next() (*element, error) {
	for {
		r.src.left = r.max
		t, err := r.dec.Token()
		if err != nil {
			return nil, streamFault(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			e, err := r.element(t, 1)
			if err != nil {
				return nil, streamFault(err)
			}
			if e.name.Local == "error" && e.name.Space == nsStream {
				return nil, streamError(e)
			}
			return e, nil
		case xml.EndElement:
			return nil, errEnded
		case xml.CharData: // white space keeps connections alive
			if len(bytes.TrimSpace(t)) > 0 {
				return nil, errText
			}
		default:
			return nil, errRestricted
		}
	}
}

func (r *reader) element(start xml.StartElement, depth int) (*element, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	e := &element{name: start.Name, attrs: start.Attr}
	var content strings.Builder // text between many children must not be copied for each
	for {
		t, err := r.dec.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			c, err := r.element(t, depth+1)
			if err != nil {
				return nil, err
			}
			e.children = append(e.children, c)
		case xml.CharData:
			content.Write(t)
		case xml.EndElement:
			e.text = content.String()
			return e, nil
		default:
			return nil, errRestricted
		}
	}
}

// streamFault says that a stream broke off where the XML decoder says only that it is
// not well-formed.
func streamFault(err error) error {
	if syntax, ok := errors.AsType[*xml.SyntaxError](err); ok && syntax.Msg == "unexpected EOF" || errors.Is(err, io.EOF) {
		return errors.New("the server closed the connection")
	}
	return err
}

// StreamError is what a server says before it ends a stream (RFC 6120 §4.9).
type StreamError struct{ Condition, Text string }

func (e *StreamError) Error() string {
	if e.Text == "" {
		return "stream error " + e.Condition
	}
	return "stream error " + e.Condition + ": " + e.Text
}

func streamError(e *element) error {
	out := &StreamError{Condition: "undefined-condition"}
	for _, c := range e.children {
		switch {
		case c.name.Local == "text":
			out.Text = clip(c.text)
		case c.name.Space == nsStreams:
			out.Condition = clip(c.name.Local)
		}
	}
	return out
}

// appendText appends s as character data or as an attribute's value. What XML 1.0
// cannot carry becomes U+FFFD: one byte of bad XML ends the link of every device.
func appendText(b []byte, s string) []byte { return appendEscaped(b, s, "\uFFFD", "\uFFFD") }

// appendJSON appends a JSON text as character data. JSON escapes control characters
// itself; U+FFFE and U+FFFF, which XML 1.0 cannot carry, can only stand within a string.
func appendJSON(b, json []byte) []byte { return appendEscaped(b, string(json), `\ufffe`, `\uffff`) }

func appendEscaped(b []byte, s, fffe, ffff string) []byte {
	from := 0
	for i := 0; i < len(s); {
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		var as string
		switch {
		case r == '&':
			as = "&amp;"
		case r == '<':
			as = "&lt;"
		case r == '>':
			as = "&gt;"
		case r == '\'':
			as = "&#39;"
		case r == '"':
			as = "&#34;"
		case r == '\t':
			as = "&#9;"
		case r == '\n':
			as = "&#10;"
		case r == '\r':
			as = "&#13;"
		case r < 0x20, r == utf8.RuneError && size == 1:
			as = "\uFFFD"
		case r == 0xfffe:
			as = fffe
		case r == 0xffff:
			as = ffff
		default:
			i += size
			continue
		}
		b = append(append(b, s[from:i]...), as...)
		i += size
		from = i
	}
	return append(b, s[from:]...)
}

// appendAttr appends an attribute. Values are in single quotes.
func appendAttr(b []byte, name, value string) []byte {
	b = append(append(append(b, ' '), name...), `='`...)
	return append(appendText(b, value), '\'')
}

// appendIQ appends the start tag of an IQ, and its end where empty says so.
func appendIQ(b []byte, kind, from, to, id string, empty bool) []byte {
	b = append(b, "<iq"...)
	b = appendAttr(b, "type", kind)
	b = appendAttr(b, "from", from)
	b = appendAttr(b, "to", to)
	b = appendAttr(b, "id", id)
	if empty {
		return append(b, "/>"...)
	}
	return append(b, '>')
}

// appendCarrier appends an IQ `set` that carries a JSON text in an element of ours.
func appendCarrier(b []byte, from, to, id, name string, json []byte) []byte {
	b = appendIQ(b, "set", from, to, id, false)
	b = append(append(append(b, '<'), name...), " xmlns='"+nsHeartline+"'>"...)
	b = appendJSON(b, json)
	b = append(append(append(b, "</"...), name...), '>')
	return append(b, "</iq>"...)
}

// fault is an error stanza: a type of RFC 6120 §8.3.2 with a condition of §8.3.3.
// ejabberd deletes a push registration at any type but `wait`.
type fault struct {
	kind, condition string
	text            string // for people; ""
}

func appendFault(b []byte, from, to, id string, f fault) []byte {
	b = appendIQ(b, "error", from, to, id, false)
	return append(appendErrorElement(b, f), "</iq>"...)
}

func appendErrorElement(b []byte, f fault) []byte {
	b = append(append(append(b, "<error type='"...), f.kind...), "'><"...)
	b = append(append(b, f.condition...), " xmlns='"+nsStanzas+"'/>"...)
	if f.text != "" {
		b = append(b, "<text xmlns='"+nsStanzas+"'>"...)
		b = append(appendText(b, f.text), "</text>"...)
	}
	return append(b, "</error>"...)
}

// formField is a field of a data form.
type formField struct{ name, kind, value string }

func appendForm(b []byte, kind string, fields ...formField) []byte {
	b = append(append(append(b, "<x xmlns='"+nsForm+"' type='"...), kind...), "'>"...)
	for _, f := range fields {
		b = append(b, "<field"...)
		b = appendAttr(b, "var", f.name)
		if f.kind != "" {
			b = appendAttr(b, "type", f.kind)
		}
		b = append(b, "><value>"...)
		b = append(appendText(b, f.value), "</value></field>"...)
	}
	return append(b, "</x>"...)
}

// clip makes one short line of what a server or a stranger said.
func clip(s string) string { return text.OneLine(text.Clip(s, 200)) }

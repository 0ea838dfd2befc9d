package xmpp

import (
	"encoding/xml"
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

// element is one XML element.
type element struct {
	name     xml.Name
	attrs    []xml.Attr
	text     string // its character data, without that of its children
	children []*element
	// fault is why a stanza has nothing but its start tag; nil where it is whole.
	fault error
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
func appendText(b []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); {
		r, size := runeAt(s, i)
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
		case !inXML(r, size):
			as = "\uFFFD"
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

// runeAt decodes the rune at s[i]; invalid UTF-8 has size 1.
func runeAt(s string, i int) (rune, int) {
	if s[i] < utf8.RuneSelf {
		return rune(s[i]), 1
	}
	return utf8.DecodeRuneInString(s[i:])
}

// inXML reports whether XML 1.0 can carry a rune (§2.2).
func inXML(r rune, size int) bool {
	return r >= 0x20 && r != 0xfffe && r != 0xffff && (r != utf8.RuneError || size > 1) || r == '\t' || r == '\n' || r == '\r'
}

const (
	cdataStart = "<![CDATA["
	cdataEnd   = "]]>"
)

// appendJSON appends a JSON text as character data: escaped, or as CDATA where that is
// shorter. Servers bound a stanza's size, and a text full of `<` and `&` would have
// four times its own. JSON escapes control characters itself; U+FFFE and U+FFFF, which XML
// 1.0 cannot carry, can only stand within a string.
func appendJSON(b, json []byte) []byte {
	s := string(json)
	escaped := 4*strings.Count(s, "&") + 3*strings.Count(s, "<") + 3*strings.Count(s, cdataEnd)
	cdata := len(cdataStart+cdataEnd) * (1 + strings.Count(s, cdataEnd))
	within := escaped > cdata
	if within {
		b = append(b, cdataStart...)
	}
	from := 0
	for i := 0; i < len(s); {
		r, size := runeAt(s, i)
		var as string
		switch {
		case !within && r == '&':
			as = "&amp;"
		case !within && r == '<':
			as = "&lt;"
		case !within && r == '>' && strings.HasSuffix(s[:i], "]]"):
			as = "&gt;"
		case within && r == '>' && strings.HasSuffix(s[:i], "]]"):
			as = cdataEnd + cdataStart + ">"
		case r == '\r': // white space between two tokens; XML would make it a line feed
			as = "\n"
		case r == 0xfffe:
			as = `\ufffe`
		case r == 0xffff:
			as = `\uffff`
		case !inXML(r, size):
			as = "\uFFFD"
		default:
			i += size
			continue
		}
		b = append(append(b, s[from:i]...), as...)
		i += size
		from = i
	}
	b = append(b, s[from:]...)
	if within {
		b = append(b, cdataEnd...)
	}
	return b
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

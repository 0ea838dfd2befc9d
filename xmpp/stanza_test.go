package xmpp

import (
	"bytes"
	"encoding/xml"
	"strings"
	"testing"
)

// FuzzReader: whatever a server sends, the reader ends it with an error or gives stanzas
// within the bounds.
func FuzzReader(f *testing.F) {
	const head = "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='1'>"
	for _, s := range []string{
		"<iq type='set' id='a' from='b' to='c'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='n'><item/></publish></pubsub></iq>",
		"<message from='e@v'>" + strings.Repeat("<a>", 40) + strings.Repeat("</a>", 40) + "</message><presence/>", "<a from='x'>&b;</a><presence/>",
		"<presence/>", "<a><![CDATA[x]]></a>", "<a>&#x10FFFF;</a>", "</stream:stream>", "<!-- -->", "<a xmlns:b='c' b:d='e'/>",
		"<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>t</text></stream:error>",
	} {
		f.Add([]byte(head + s))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		r := newReader(bytes.NewReader(sent), 4096)
		if _, err := r.header(); err != nil {
			return
		}
		r.passOver = func(from string) bool { return from != "" }
		for {
			e, err := r.next()
			if len(r.raw) > 4096 {
				t.Fatalf("%d bytes kept", len(r.raw))
			}
			if err != nil {
				return
			}
			if d := depth(e); d > maxDepth {
				t.Fatalf("%d deep", d)
			}
			_ = e.condition()
			x := e.child(nsPubSub, "pubsub").child(nsPubSub, "publish-options").child(nsForm, "x")
			_ = x.field("secret")
		}
	})
}

func depth(e *element) int {
	most := 0
	for _, c := range e.children {
		most = max(most, depth(c))
	}
	return most + 1
}

// FuzzForm: any form can be asked for any field.
func FuzzForm(f *testing.F) {
	f.Add("<x xmlns='jabber:x:data'><field var='secret'><value>v</value></field></x>", "secret")
	f.Add("<x><field/><field var='a'/><field var='a'><value/></field></x>", "a")
	f.Fuzz(func(_ *testing.T, form, name string) {
		r := newReader(strings.NewReader("<stream:stream xmlns:stream='"+nsStream+"' id='1'>"+form), 4096)
		if _, err := r.header(); err != nil {
			return
		}
		if e, err := r.next(); err == nil {
			_ = e.field(name)
		}
	})
}

// FuzzWriter: no text can end the link or leave its element.
func FuzzWriter(f *testing.F) {
	f.Add("a", "b")
	f.Add("&", "<&<&]]>&&&&<<<<\r]]]]>>")
	f.Add("'/><iq from='evil'/>", "</notification>\x00\xff\ufffe]]>")
	f.Fuzz(func(t *testing.T, id, body string) {
		b := appendCarrier(nil, "from", "to", id, "notification", []byte(body))
		b = appendFault(b, "from", id, body, fault{"wait", "gone", body})
		b = appendForm(b, "result", formField{id, body, body})
		dec := xml.NewDecoder(bytes.NewReader(b))
		var iq struct {
			ID   string `xml:"id,attr"`
			Body string `xml:"notification"`
		}
		if err := dec.Decode(&iq); err != nil {
			t.Fatalf("%v: %q", err, b)
		}
		if clean(id) && iq.ID != id || clean(body) && iq.Body != strings.ReplaceAll(body, "\r", "\n") {
			t.Fatalf("%q, %q became %q, %q", id, body, iq.ID, iq.Body)
		}
		for {
			tok, err := dec.RawToken()
			if err != nil {
				if err.Error() != "EOF" {
					t.Fatalf("%v: %q", err, b)
				}
				return
			}
			if _, ok := tok.(xml.Comment); ok {
				t.Fatalf("a comment: %q", b)
			}
		}
	})
}

// clean reports whether XML carries s as it is.
func clean(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffd || r == 0xfffe || r == 0xffff
	})
}

package xmpp

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxDepth is how deep the elements of a stanza may nest. A publish of XEP-0357 has 8.
const maxDepth = 32

// Faults of a stream. RFC 6120 §11.1 forbids what errRestricted names.
var (
	errTooLarge   = errors.New("a stanza is larger than xmpp.max_stanza_size")
	errTooDeep    = fmt.Errorf("a stanza nests deeper than %d elements", maxDepth)
	errRestricted = errors.New("a comment, a processing instruction or a DTD in the stream")
	errText       = errors.New("text between two stanzas")
	errEnded      = errors.New("the server closed the stream")
)

// reader reads a stream: its header, then its stanzas. It finds the end of a stanza before
// it parses it, so that one that is too large or too deep can be passed over: any user
// of the server, and any stranger whose server is federated with it, can send one, and
// the link is everybody's.
type reader struct {
	src *bufio.Reader
	max int
	// passOver reports whether the sender of a faulty stanza is anyone but the server
	// itself. Nil, or false: the fault ends the stream.
	passOver func(from string) bool

	head []byte // the stream's start tag, which declares namespaces of all stanzas
	raw  []byte // the current stanza
	// tag is the stanza's start tag with those attributes only that say who sent what to
	// whom: it is there whole also where the start tag itself is too large.
	tag   []byte
	inTag bool  // the start tag is being read
	fault error // of the current stanza: the rest of it is read and not kept
}

// maxAttr bounds an attribute in tag: a JID of 3,071 bytes, each escaped with six.
const maxAttr = 20_000

func newReader(r io.Reader, maxStanza int) *reader {
	return &reader{src: bufio.NewReaderSize(r, 64<<10), max: maxStanza}
}

var errNoXMPP = errors.New("the server does not speak XMPP here: no stream header")

// header reads the stream's header and returns its id.
func (r *reader) header() (id string, err error) {
	if err := r.readHead(); err != nil {
		return "", streamFault(err)
	}
	t, err := xml.NewDecoder(bytes.NewReader(r.head)).Token()
	if err != nil {
		return "", streamFault(err)
	}
	start, ok := t.(xml.StartElement)
	if !ok || start.Name.Local != "stream" || start.Name.Space != nsStream {
		return "", errNoXMPP
	}
	e := element{attrs: start.Attr}
	if id = e.attr("id"); id == "" { // Prosody refuses an unknown component so
		if _, err := r.next(); err != nil {
			return "", err
		}
		return "", errors.New("the server's stream header has no id")
	}
	return id, nil
}

// readHead reads the XML declaration, if there is one, and the stream's start tag.
func (r *reader) readHead() error {
	for {
		r.raw, r.fault = r.raw[:0], nil
		c, err := r.skipSpace()
		if err != nil {
			return err
		}
		if c != '<' {
			return errNoXMPP
		}
		_ = r.keep(c) // there is room for one
		if c, err = r.take(); err != nil {
			return err
		}
		switch c {
		case '?':
			if err := r.until("?>"); err != nil {
				return err
			}
		case '!':
			return errRestricted
		default:
			r.tag = r.tag[:0]
			if _, err := r.startTag(c); err != nil {
				return err
			}
			r.head = bytes.Clone(r.raw)
			return nil
		}
	}
}

// next returns the next stanza, or the error that ends the stream. A stanza with a fault
// that is passed over has its start tag only.
func (r *reader) next() (*element, error) {
	if err := r.frame(); err != nil {
		return nil, streamFault(err)
	}
	if r.fault != nil {
		return r.opening(), nil //nolint:nilerr // the fault is answered, and the stream goes on; passable has seen the opening
	}
	e, err := r.parse()
	if err != nil {
		if !r.passable() {
			return nil, streamFault(err)
		}
		r.fault = err
		return r.opening(), nil
	}
	if e.name.Local == "error" && e.name.Space == nsStream {
		return nil, streamError(e)
	}
	return e, nil
}

// frame reads one stanza into raw, or its beginning where it has a fault.
func (r *reader) frame() error {
	r.raw, r.tag, r.fault = r.raw[:0], r.tag[:0], nil
	c, err := r.skipSpace()
	if err != nil {
		return err
	}
	if c != '<' {
		return errText
	}
	for depth := 0; ; {
		if err := r.keep('<'); err != nil {
			return err
		}
		if c, err = r.take(); err != nil {
			return err
		}
		switch c {
		case '?':
			return errRestricted
		case '!':
			if depth == 0 {
				return errRestricted
			}
			if err := r.cdata(); err != nil {
				return err
			}
		case '/':
			if depth == 0 {
				return errEnded
			}
			if err := r.until(">"); err != nil {
				return err
			}
			depth--
		default:
			empty, err := r.startTag(c)
			if err != nil {
				return err
			}
			if depth+1 > maxDepth && r.fault == nil {
				if !r.passable() {
					return errTooDeep
				}
				r.fault = errTooDeep
			}
			if !empty {
				depth++
			}
		}
		if depth == 0 {
			return nil
		}
		if err := r.text(); err != nil {
			return err
		}
	}
}

// take reads a byte and keeps it.
func (r *reader) take() (byte, error) {
	c, err := r.src.ReadByte()
	if err != nil {
		return 0, err
	}
	return c, r.keep(c)
}

// keep adds a byte to the stanza. A stanza that is passed over keeps its beginning.
func (r *reader) keep(c byte) error {
	if r.fault != nil {
		return nil //nolint:nilerr // the stanza is passed over, the stream goes on
	}
	if len(r.raw) >= r.max {
		if !r.inTag && !r.passable() { // a start tag is judged at its end: the sender may stand there
			return errTooLarge
		}
		r.fault = errTooLarge
		return nil
	}
	r.raw = append(r.raw, c)
	return nil
}

func (r *reader) skipSpace() (byte, error) {
	for {
		switch c, err := r.src.ReadByte(); {
		case err != nil:
			return 0, err
		case c != ' ' && c != '\t' && c != '\r' && c != '\n': // white space keeps connections alive
			return c, nil
		}
	}
}

// text reads up to the next `<`, which it takes and does not keep.
func (r *reader) text() error {
	for {
		switch c, err := r.src.ReadByte(); {
		case err != nil:
			return err
		case c == '<':
			return nil
		default:
			if err := r.keep(c); err != nil {
				return err
			}
		}
	}
}

// until reads up to and with end, which is not longer than 3 bytes.
func (r *reader) until(end string) error {
	var last [3]byte
	for {
		c, err := r.take()
		if err != nil {
			return err
		}
		last[0], last[1], last[2] = last[1], last[2], c
		if string(last[3-len(end):]) == end {
			return nil
		}
	}
}

// startTag reads the rest of a start tag after its first letter. A `>` within an attribute's
// value is not its end.
func (r *reader) startTag(letter byte) (empty bool, err error) {
	first := len(r.tag) == 0
	if first {
		r.tag, r.inTag = append(r.tag, '<', letter), true
		defer func() { r.inTag = false }()
	}
	var quote, last byte
	attr, whole := 0, true // where in tag the current attribute begins; 0: the element's name is being read
	for {
		c, err := r.take()
		if err != nil {
			return false, err
		}
		if quote == 0 && c == '>' {
			if attr > 0 {
				r.tag = r.tag[:attr]
			}
			if first && r.fault != nil && !r.passable() {
				return false, r.fault
			}
			return last == '/', nil
		}
		if first {
			if attr == 0 && (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
				attr = len(r.tag)
			}
			switch {
			case attr == 0 && (c == '/' || len(r.tag) > maxAttr): // the end, or no name of a stanza
			case len(r.tag)-attr > maxAttr:
				whole = false
			default:
				r.tag = append(r.tag, c)
			}
		}
		switch {
		case quote != 0 && c == quote:
			quote = 0
			if first && (!whole || !addressing(r.tag[attr:])) {
				r.tag = r.tag[:attr]
			}
			if first {
				attr, whole = len(r.tag), true
			}
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		}
		last = c
	}
}

// addressing reports whether an attribute is one of those that answers need.
func addressing(attr []byte) bool {
	name, _, _ := bytes.Cut(attr, []byte("="))
	switch string(bytes.TrimSpace(name)) {
	case "from", "to", "id", "type":
		return true
	}
	return false
}

// cdata reads a CDATA section whose `<!` has been read. Everything else that begins so is
// forbidden.
func (r *reader) cdata() error {
	for _, want := range []byte("[CDATA[") {
		c, err := r.take()
		if err != nil {
			return err
		}
		if c != want {
			return errRestricted
		}
	}
	return r.until("]]>")
}

// chain reads the stream's header and a stanza as one document.
type chain struct{ head, rest []byte }

func (c *chain) ReadByte() (byte, error) {
	if len(c.head) == 0 {
		c.head, c.rest = c.rest, nil
	}
	if len(c.head) == 0 {
		return 0, io.EOF
	}
	b := c.head[0]
	c.head = c.head[1:]
	return b, nil
}

func (c *chain) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := c.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = b
	return 1, nil
}

func (r *reader) parse() (*element, error) {
	dec := xml.NewDecoder(&chain{r.head, r.raw})
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	start, ok := t.(xml.StartElement)
	if !ok {
		return nil, errRestricted
	}
	return parseElement(dec, start)
}

// opening returns the stanza's start tag with its fault and the attributes that address
// it; nil if it cannot be read.
func (r *reader) opening() *element {
	tag := append(bytes.Clone(r.tag), "/>"...)
	dec := xml.NewDecoder(&chain{r.head, tag})
	_, _ = dec.Token() // the header, which has been read before
	t, err := dec.Token()
	start, ok := t.(xml.StartElement)
	if err != nil || !ok {
		return nil
	}
	return &element{name: start.Name, attrs: start.Attr, fault: r.fault}
}

// passable reports whether a stanza with a fault is passed over.
func (r *reader) passable() bool {
	if r.passOver == nil {
		return false
	}
	e := r.opening()
	return e != nil && r.passOver(e.attr("from"))
}

func parseElement(dec *xml.Decoder, start xml.StartElement) (*element, error) {
	e := &element{name: start.Name, attrs: start.Attr}
	var content strings.Builder // text between many children must not be copied for each
	for {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement: // frame has bounded the depth
			c, err := parseElement(dec, t)
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

// streamFault says that a stream broke off where the reader says only that there is no
// more.
func streamFault(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the server closed the connection")
	}
	return err
}

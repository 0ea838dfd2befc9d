package relay

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// version numbers the frames and their meaning. A node speaks to nodes of minVersion and
// above; a newer node uses only frames that both know.
const (
	version    = 6
	minVersion = 1
)

// versionEnd has the ops disconnect and end session, versionTopics all frames and ops about
// ordinary MQTT, versionWebhook the op webhook, versionKeepRoom the op keep room,
// versionReportsApp the op reports app.
const (
	versionEnd        = 2
	versionTopics     = 3
	versionWebhook    = 4
	versionKeepRoom   = 5
	versionReportsApp = 6
)

// helloPatience bounds the beginning of a stream.
const helloPatience = 5 * time.Second

// hello is the first frame of a stream, and its answer.
type hello struct {
	Version  int    `cbor:"1,keyasint"`
	From     int64  `cbor:"2,keyasint"` // lives
	To       int64  `cbor:"3,keyasint"`
	Name     string `cbor:"4,keyasint"`
	Address  string `cbor:"5,keyasint,omitempty"`
	Session  uint64 `cbor:"6,keyasint"`
	Begins   bool   `cbor:"7,keyasint,omitempty"` // the Session is new
	Received uint64 `cbor:"8,keyasint,omitempty"` // frames of it that have arrived
	// Equal is what must be the same at both, Alike what should be.
	Equal map[string]string `cbor:"9,keyasint,omitempty"`
	Alike map[string]string `cbor:"10,keyasint,omitempty"`
	// Of an answer: why there is no stream, and whether the Session has ended.
	Refused string `cbor:"11,keyasint,omitempty"`
	Ended   bool   `cbor:"12,keyasint,omitempty"`
}

func writeHello(conn net.Conn, h *hello) error {
	f := newFrame(kindHello, encode(h))
	seal(f, 0)
	_ = conn.SetWriteDeadline(time.Now().Add(helloPatience)) // fails with the write
	_, err := conn.Write(f)
	return err
}

func readHello(conn net.Conn, r *bufio.Reader) (*hello, error) {
	_ = conn.SetReadDeadline(time.Now().Add(helloPatience)) // fails with the read
	f, err := readFrame(r, func() {})
	if err != nil {
		return nil, err
	}
	h := new(hello)
	if f.kind != kindHello || decode(f.body, h) != nil {
		return nil, errors.New("no hello of a Heartline node came first")
	}
	_ = conn.SetReadDeadline(time.Time{}) // likewise
	return h, nil
}

// differences names the keys whose values differ, with both values.
func differences(ours, theirs map[string]string) (all []string) {
	for k, v := range ours {
		if w, known := theirs[k]; known && v != w {
			all = append(all, fmt.Sprintf("%s is %s here and %s there", k, v, w))
		}
	}
	slices.Sort(all)
	return all
}

// refusal says why this node has no stream with the one that h is of; "": it has.
func (o *Options) refusal(h *hello) string {
	if h.Version < minVersion {
		return fmt.Sprintf("node %s speaks version %d of the relay, this one %d to %d: upgrade it first", h.Name, h.Version, minVersion, version)
	}
	if d := differences(o.Equal, h.Equal); len(d) > 0 {
		return fmt.Sprintf("nodes %s and %s cannot work together: %s; give both the same configuration", o.Name, h.Name, strings.Join(d, ", "))
	}
	return ""
}

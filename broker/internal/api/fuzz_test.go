package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// FuzzNotificationBody: every body is accepted, or refused with a problem that has a
// location; and MQTT accepts the same bodies.
func FuzzNotificationBody(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[1]", "null", `{"account":"a","title":"x"}`, `{"account":"a","data":{"deep":[[[1e999]]]},"badge":3}`,
		`{"account":"a","ttl":"5","ack":"displayed","urgency":"normal","devices":["p","q"],"fallback":false}`, `{"account":"a","account":7}`,
		`{"ACCOUNT":"a","title":null}`, "{\"account\":\"\xff\"}", `{"account":"\ud800","title":"x"}`, `{"account":"a","data":}`,
	} {
		f.Add([]byte(seed))
	}
	reader := newBodyReader(reflect.TypeFor[wire.Notification]())
	f.Fuzz(func(t *testing.T, body []byte) {
		var n wire.Notification
		err := reader.parse(body, &n)
		if err == nil {
			if !json.Valid(body) || n.Account == "" {
				t.Fatalf("taken: %q", body)
			}
			var members map[string]json.RawMessage
			if err := json.Unmarshal(body, &members); err != nil {
				t.Fatal(err)
			}
			delete(members, "account")
			rest, err := json.Marshal(members)
			if err != nil {
				t.Fatal(err)
			}
			_, here := n.Request(n.Account)
			if _, there := wire.ParseContent(rest, n.Account); (here == nil) != (there == nil) {
				t.Fatalf("HTTP says %v, MQTT says %v", here, there)
			}
			return
		}
		p, ok := errors.AsType[*problem](err)
		if !ok || p.Status != 422 || len(p.Errors) == 0 || !strings.HasPrefix(p.Detail, "body") || len(p.Detail) > 1000*len(p.Errors) {
			t.Fatalf("%v for %q", err, body)
		}
		for _, e := range p.Errors {
			if e.Value != nil {
				t.Fatalf("%v is echoed", e.Value)
			}
		}
	})
}

// FuzzLines: lines come out as bytes.Split would have them, however they come in.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nc"))
	f.Add([]byte("\n\n"))
	f.Add(bytes.Repeat([]byte("x"), 100))
	f.Fuzz(func(t *testing.T, body []byte) {
		lines := lineReader{r: bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(body)), 16)}
		want := bytes.SplitAfter(body, []byte("\n"))
		if len(want[len(want)-1]) == 0 {
			want = want[:len(want)-1]
		}
		for _, w := range want {
			got, err := lines.next()
			if err != nil || !bytes.Equal(got, bytes.TrimRight(w, "\r\n")) {
				t.Fatalf("got %q %v, want %q", got, err, w)
			}
		}
		if _, err := lines.next(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add(seqCursor(1))
	f.Add("AAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, cursor string) {
		seq, ok := parseSeqCursor(cursor)
		if !ok {
			return
		}
		if again, ok := parseSeqCursor(seqCursor(seq)); !ok || again != seq {
			t.Fatal(cursor, seq, again)
		}
	})
}

func TestSeqIDsForget(t *testing.T) {
	var ids seqIDs
	reads := 0
	read := func(seq delivery.Seq) (*delivery.Notification, error) {
		reads++
		return &delivery.Notification{ID: "x"}, nil
	}
	for seq := range delivery.Seq(seqIDsBound + 10) {
		for range 2 {
			if _, err := ids.get(seq, read); err != nil {
				t.Fatal(err)
			}
			if _, err := ids.get(0, read); err != nil { // used all the time: stays
				t.Fatal(err)
			}
		}
	}
	if reads != seqIDsBound+10 || len(ids.bySeq) != seqIDsBound || ids.recent.Len() != seqIDsBound {
		t.Errorf("%d reads, %d and %d remembered", reads, len(ids.bySeq), ids.recent.Len())
	}
	if _, err := ids.get(1, read); err != nil || reads != seqIDsBound+11 {
		t.Error("the oldest is still there")
	}
	if _, err := ids.get(1<<40, func(delivery.Seq) (*delivery.Notification, error) { return nil, delivery.ErrNotFound }); !errors.Is(err, delivery.ErrNotFound) {
		t.Error(err)
	}
}

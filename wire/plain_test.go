package wire

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

var plainCases = []struct {
	payload string
	plain   bool
}{
	{`{"title":"Anna","body":"Dinner at eight?"}`, true},
	{` {"title" : "Änna" , "ttl":"1h","ack":"displayed","urgency":"normal","id":"a","collapse_key":"k","sound":"s","category":"c"} ` + "\n", true},
	{`{"title":"a","title":"b"}`, false},
	{`{}`, false},
	{`{"title":""}`, false},
	{`{"title":"a","account":"anna"}`, false},
	{`{"title":"a"} x`, false},
	{`{"title":"a",}`, false},
	{`{"title":"a"`, false},
	{`{"title":"line\nbreak"}`, false},
	{"{\"title\":\"tab\there\"}", false},
	{"{\"title\":\"\xff\"}", false},
	{`{"Title":"a"}`, false},
	{`{"title":"a","badge":3}`, false},
	{`{"title":"a","data":{"x":1}}`, false},
	{`{"title":null}`, false},
	{`{"nonsense":"a"}`, false},
	{`["title","a"]`, false},
	{``, false},
}

func TestPlainContent(t *testing.T) {
	for _, c := range plainCases {
		if _, plain := plainContent([]byte(c.payload), nil); plain != c.plain {
			t.Errorf("%s: plain %v", c.payload, plain)
		}
	}
}

// FuzzPlainContent: content that is read without encoding/json is read as encoding/json
// would.
func FuzzPlainContent(f *testing.F) {
	for _, c := range plainCases {
		f.Add([]byte(c.payload))
	}
	f.Add([]byte(`{"account":"anna","title":"Anna"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if got, plain := plainContent(payload, nil); plain {
			var want Content
			if err := Decode(payload, &want); err != nil {
				t.Fatalf("%q is taken, and is wrong: %v", payload, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%q: %+v, want %+v", payload, got, want)
			}
		}
		if got, plain := PlainNotification(payload); plain {
			var want Notification
			if err := Decode(payload, &want); err != nil {
				t.Fatalf("%q is taken, and is wrong: %v", payload, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%q: %+v, want %+v", payload, got, want)
			}
		}
	})
}

func FuzzAppendPseudo(f *testing.F) {
	f.Add("Anna", "Dinner at \"eight\"?\n\\<&>\u2028", "ping", "", 3, true, false)
	f.Add("", "", "", "CALL", -1, false, true)
	f.Fuzz(func(t *testing.T, title, body, sound, category string, badge int, redelivery, pushed bool) {
		valid := func(s string) string { // as the core sees to
			b, _ := json.Marshal(s)
			_ = json.Unmarshal(b, &s)
			return s
		}
		n := &delivery.Notification{
			ID: "id-1", Account: "anna", Title: valid(title), Body: valid(body), Sound: valid(sound), Category: valid(category),
			AcceptedAt: time.Date(2026, 11, 23, 8, 0, 0, 7e6, time.FixedZone("", 3600)), HasMessage: pushed, Ack: delivery.AckDisplayed,
		}
		want := Pseudo{
			ID: "id-1", Account: "anna", Tag: "id-1", Title: n.Title, Body: n.Body, Sound: n.Sound, Category: n.Category,
			AcceptedAt: "2026-11-23T07:00:00.007Z", Redelivery: redelivery, Pushed: pushed, HasMessage: pushed, Ack: "displayed",
		}
		if badge >= 0 {
			n.Badge, want.Badge = &badge, &badge
		}
		var got Pseudo
		text := AppendPseudo(nil, n, redelivery, pushed)
		if err := Decode(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	})
}

func BenchmarkParseContent(b *testing.B) {
	payload := []byte(`{"title":"Anna","body":"Dinner at eight?"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseContent(payload, "anna"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendPseudo(b *testing.B) {
	n := &delivery.Notification{ID: "0195e0b0-0000-7000-8000-000000000000", Account: "anna", Title: "Anna", Body: "Dinner at eight?", AcceptedAt: time.Now()}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendPseudo(buf[:0], n, false, false)
	}
}

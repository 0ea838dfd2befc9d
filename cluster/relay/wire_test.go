package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// fill gives every field of a value something.
func fill(v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n+i)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n+i)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"a": "b"}))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1790000000, int64(n)).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), n+i)
		}
	default:
		panic(v.Type().String())
	}
}

func roundTrip[T any](t *testing.T) {
	t.Helper()
	var is, zero, was T
	fill(reflect.ValueOf(&is).Elem(), 1)
	for _, v := range []T{is, zero} {
		was = *new(T)
		if err := decode(encode(v), &was); err != nil || !reflect.DeepEqual(was, v) {
			t.Errorf("%T: error %v\n sent %+v\n got %+v", v, err, v, was)
		}
	}
}

// Every field of every message arrives.
func TestMessages(t *testing.T) {
	roundTrip[call](t)
	roundTrip[answer](t)
	roundTrip[upReport](t)
	roundTrip[publication](t)
	roundTrip[replaced](t)
	roundTrip[[]Serving](t)
	roundTrip[claimed](t)
	roundTrip[hello](t)
	roundTrip[Filters](t)
	roundTrip[Message](t)
}

// Types of the core arrive as they were sent.
func TestTypesOfTheCore(t *testing.T) {
	var n delivery.Notification
	fill(reflect.ValueOf(&n).Elem(), 1)
	receipt := delivery.Receipt{Notification: &n, State: delivery.StatePushed, Deliveries: []delivery.DeliveryState{{Device: "d", State: delivery.StatePushed}}, Repeated: true}
	if got, err := receiptOf(&receipt).receipt(); err != nil || !reflect.DeepEqual(got, receipt) {
		t.Errorf("error %v\n sent %+v\n got %+v", err, receipt, got)
	}
	view := &delivery.View{Notification: &n, State: delivery.StateAcked, Deliveries: receipt.Deliveries, Timeline: []delivery.Event{
		{Seq: n.Seq, Number: 3, Time: time.Unix(1, 2).UTC(), Kind: delivery.EventReceived, Device: "d", Attempt: 4, Detail: "late"},
	}}
	v := viewOf(view)
	if got, err := v.view(); err != nil || !reflect.DeepEqual(got, view) {
		t.Errorf("error %v\n sent %+v\n got %+v", err, view, got)
	}
	r := delivery.Registration{Server: delivery.ServerAPNs, App: "a", Environment: "sandbox", Kind: "voip", Token: "00", RegisteredAt: time.Unix(5, 0).UTC()}
	device := delivery.DeviceView{
		Device: delivery.Device{ID: "d", Account: "a", Registrations: []delivery.Registration{r}, SeenAt: time.Unix(6, 7).UTC()},
		App:    delivery.AppForeground, Up: true, Since: time.Unix(8, 9).UTC(), LastHeartbeat: time.Unix(9, 1).UTC(), Keepalive: time.Minute, Remote: "r", Outstanding: 4,
	}
	d := deviceViewOf(&device)
	if got, err := d.view(); err != nil || !reflect.DeepEqual(got, device) {
		t.Errorf("error %v\n sent %+v\n got %+v", err, device, got)
	}
	if got, err := registration(registrationOf(&r)); err != nil || !reflect.DeepEqual(*got, r) {
		t.Errorf("error %v\n sent %+v\n got %+v", err, r, got)
	}
	if got, err := registration(registrationOf(nil)); got != nil || err != nil {
		t.Errorf("no registration: got %v, error %v", got, err)
	}
}

// An owner's error says the same to callers here: its text, its sentinels, and the
// fields at fault.
func TestErrors(t *testing.T) {
	for _, sentinel := range sentinels {
		err := failureOf(fmt.Errorf("an act: %w", sentinel)).error()
		if err.Error() != "an act: "+sentinel.Error() {
			t.Errorf("text %q", err)
		}
		for _, other := range sentinels {
			if got, want := errors.Is(err, other), errors.Is(sentinel, other); got != want {
				t.Errorf("%v is %v: %v", sentinel, other, got)
			}
		}
	}
	full := failureOf(fmt.Errorf("act: %w", &delivery.FullError{Limit: 7, RetryAfter: time.Minute})).error()
	if f, ok := errors.AsType[*delivery.FullError](full); !ok || f.Limit != 7 || f.RetryAfter != time.Minute || !errors.Is(full, delivery.ErrTooMuchOutstanding) {
		t.Errorf("a full device's error came as %#v", full)
	}
	faults := errors.Join(
		&delivery.FieldError{Field: "title", Rule: "at most 2048 bytes", Got: "3000"},
		fmt.Errorf("%w: %w", delivery.ErrInvalid, errors.New("no such app")),
		&delivery.FieldError{Field: "ttl", Rule: "must be 0 to 720h"},
	)
	err := failureOf(fmt.Errorf("%w: %w", delivery.ErrInvalid, faults)).error()
	var fields []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		if f, ok := errors.AsType[*delivery.FieldError](e); ok {
			fields = append(fields, f.Field, f.Got)
		} else {
			fields = append(fields, e.Error())
		}
	}
	if got := strings.Join(fields, " "); got != "title 3000 no such app ttl " || !errors.Is(err, delivery.ErrInvalid) {
		t.Errorf("faults %q of %v", got, err)
	}
	if (*failure)(nil).error() != nil || failureOf(nil) != nil {
		t.Error("no error is one")
	}
}

// A flipped bit anywhere in a frame is noticed, or makes it longer than what there is.
func TestDamage(t *testing.T) {
	f := newFrame(kindCall, []byte("some body"))
	seal(f, 77)
	if got, err := readFrame(bufio.NewReader(bytes.NewReader(f)), func() {}); err != nil || got.number != 77 || got.kind != kindCall || string(got.body) != "some body" {
		t.Fatalf("got %+v, error %v", got, err)
	}
	for bit := range len(f) * 8 {
		b := bytes.Clone(f)
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := readFrame(bufio.NewReader(bytes.NewReader(b)), func() {}); err == nil {
			t.Errorf("bit %d flipped: read %+v", bit, got)
		}
	}
}

// Whatever comes, a frame is handled or refused with an error.
func FuzzFrame(f *testing.F) {
	f.Add(byte(kindCall), encode(call{Op: opOnline, arguments: arguments{Online: &online{}}}))
	f.Add(byte(kindCall), encode(call{Op: opList}))
	f.Add(byte(kindUp), encode(upReport{Kind: upAcked}))
	f.Add(byte(kindAnswer), encode(answer{ID: 1, Failure: &failure{Is: []int{-1, 99}}}))
	f.Add(byte(kindPublish), encode(publication{}))
	f.Add(byte(kindServing), encode([]Serving{{Part: 65535}}))
	f.Fuzz(func(t *testing.T, k byte, body []byte) {
		m := NewMesh(Options{Local: newFake(), Patience: time.Second, Log: silent})
		defer m.Close()
		m.Begin(1)
		s := newSession(m, Member{ID: 2}, 1, false)
		m.add(s, 1)
		_ = s.call(&call{}, func(a *answer) {
			if a != nil && a.Failure != nil {
				_ = a.Failure.error().Error()
			}
		})
		if err := s.handle(frame{number: 1, kind: kind(k), body: body}); err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("got error %v, want one that wraps errDamaged", err)
		}
		s.refuse(frame{number: 1, kind: kind(k), body: body})
	})
}

package delivery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

func (w *world) tryAccept(r delivery.Request) (delivery.Receipt, error) {
	if r.Account == "" {
		r.Account = "a"
	}
	if r.Title == "" {
		r.Title = "t"
	}
	return w.core.Accept(context.Background(), r)
}

// TestFullDevice: an urgent notification displaces the oldest that is not, a
// replacement is always admitted, and a full device among others is named.
func TestFullDevice(t *testing.T) {
	opts := options()
	opts.MaxOutstanding = 3
	inWorldWith(t, opts, func(w *world) {
		w.known("phone", "")
		high := w.accept(delivery.Request{})
		chat1 := w.accept(delivery.Request{Urgency: delivery.UrgencyNormal})
		chat2 := w.accept(delivery.Request{Urgency: delivery.UrgencyNormal, CollapseKey: "k"})
		if _, err := w.tryAccept(delivery.Request{Urgency: delivery.UrgencyNormal}); !errors.Is(err, delivery.ErrTooMuchOutstanding) {
			t.Fatalf("one too many: %v", err)
		}
		fire := w.accept(delivery.Request{})
		w.wantState(fire, delivery.StateWaiting)
		w.wantState(chat1, delivery.StateCancelled)
		if v, _ := w.core.Get(context.Background(), chat1.ID); v.Timeline[len(v.Timeline)-1].Detail != "displaced" {
			t.Errorf("timeline %+v", v.Timeline)
		}
		w.accept(delivery.Request{Urgency: delivery.UrgencyNormal, CollapseKey: "k"})
		w.wantState(chat2, delivery.StateSuperseded)
		w.accept(delivery.Request{})
		if _, err := w.tryAccept(delivery.Request{}); !errors.Is(err, delivery.ErrTooMuchOutstanding) {
			t.Errorf("all are urgent: %v", err)
		}
		w.wantState(high, delivery.StateWaiting)

		w.known("tablet", "")
		receipt, err := w.tryAccept(delivery.Request{})
		if err != nil {
			t.Fatal(err)
		}
		want := "[{phone cancelled 0 false} {tablet pending 0 false}]"
		if got := fmt.Sprint(receipt.Deliveries); got != want || receipt.State != delivery.StatePending {
			t.Errorf("deliveries %s, want %s; state %v", got, want, receipt.State)
		}
	})
}

// TestLimitLowered: a device for which more is waiting than a lowered limit allows loses nothing
// but what gives its place to a newer notification.
func TestLimitLowered(t *testing.T) {
	lowered := options()
	lowered.MaxOutstanding = 2
	for name, lower := range map[string]func(w *world){
		"reload":  func(w *world) { w.core.Reconfigure(lowered.Settings()) },
		"restart": func(w *world) { w.restart(lowered) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "")
				chat := w.accept(delivery.Request{Urgency: delivery.UrgencyNormal})
				news := w.accept(delivery.Request{Urgency: delivery.UrgencyNormal, CollapseKey: "news"})
				alarm := w.accept(delivery.Request{CollapseKey: "alarm"})
				last := w.accept(delivery.Request{Urgency: delivery.UrgencyNormal})
				lower(w)
				newer := w.accept(delivery.Request{Urgency: delivery.UrgencyNormal, CollapseKey: "news"})
				again := w.accept(delivery.Request{CollapseKey: "alarm"})
				w.wantState(news, delivery.StateSuperseded)
				w.wantState(alarm, delivery.StateSuperseded)
				for _, n := range []*delivery.Notification{chat, last, newer, again} {
					w.wantState(n, delivery.StateWaiting)
				}
				// Each urgent one takes the place of the oldest that is not, and of no other.
				normal := []*delivery.Notification{chat, last, newer}
				for i := range normal {
					w.wantState(w.accept(delivery.Request{}), delivery.StateWaiting)
					for j, n := range normal {
						w.wantState(n, pick(j <= i, delivery.StateCancelled, delivery.StateWaiting))
					}
				}
				for _, r := range []delivery.Request{{}, {Urgency: delivery.UrgencyNormal}, {CollapseKey: "other"}} {
					if _, err := w.tryAccept(r); !errors.Is(err, delivery.ErrTooMuchOutstanding) {
						t.Errorf("%+v: %v", r, err)
					}
				}
				w.wantState(again, delivery.StateWaiting)
				if n := w.device("a", "phone").Outstanding; n != 4 {
					t.Errorf("%d outstanding, want 4", n)
				}
			})
		})
	}
}

// TestAdmittedStays: a notification that was admitted is not cancelled for a limit, whatever
// happens while its acceptance is on its way into the store.
func TestAdmittedStays(t *testing.T) {
	opts := options()
	opts.MaxOutstanding = 2
	inWorldWith(t, opts, func(w *world) { // the limit is lowered
		w.known("phone", "")
		w.accept(delivery.Request{})
		lowered := opts.Settings()
		lowered.MaxOutstanding = 1
		w.wantState(w.acceptWhile(func() { w.core.Reconfigure(lowered) }), delivery.StateWaiting)
	})
	inWorldWith(t, opts, func(w *world) { // another takes the place of the one that it replaces
		w.known("phone", "")
		old := w.accept(delivery.Request{Urgency: delivery.UrgencyNormal, CollapseKey: "k"})
		w.accept(delivery.Request{})
		release := w.store.hold()
		receipts := make(chan delivery.Receipt, 2)
		for _, r := range []delivery.Request{{Account: "a", Title: "t"}, {Account: "a", Title: "t", Urgency: delivery.UrgencyNormal, CollapseKey: "k"}} {
			w.core.AcceptAsync(r, func(r delivery.Receipt, err error) {
				if err != nil {
					t.Error(err)
				}
				receipts <- r
			})
			settle()
		}
		release()
		for range 2 {
			r := <-receipts
			if r.State != delivery.StatePending {
				t.Errorf("answered with state %v", r.State)
			}
			w.wantState(r.Notification, delivery.StateWaiting)
		}
		w.wantState(old, delivery.StateCancelled)
	})
}

// pick returns one of two states.
func pick(cond bool, yes, no delivery.State) delivery.State {
	if cond {
		return yes
	}
	return no
}

// TestRetryAfter: a tenth of the time that a device has been away.
func TestRetryAfter(t *testing.T) {
	opts := options()
	opts.MaxOutstanding = 1
	inWorldWith(t, opts, func(w *world) {
		ch := w.up("phone")
		w.accept(delivery.Request{})
		for _, c := range []struct{ away, want time.Duration }{
			{0, 2 * time.Second}, {time.Minute, 6 * time.Second}, {time.Hour, 6 * time.Minute}, {20 * time.Hour, 10 * time.Minute},
		} {
			if c.away > 0 {
				ch.presence.Offline("gone")
				time.Sleep(c.away - time.Since(w.device("a", "phone").Since))
			}
			_, err := w.tryAccept(delivery.Request{})
			full, ok := errors.AsType[*delivery.FullError](err)
			if !ok || full.RetryAfter != c.want {
				t.Errorf("away for %v: %v, %+v, want %v", c.away, err, full, c.want)
			}
		}
	})
}

// TestRepeats: two requests with one ID are the same if they mean the same.
func TestRepeats(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		w.known("tablet", "")
		bare := delivery.Request{ID: "bare", Title: "t", Data: json.RawMessage(`{"a":1,"b":[1.50,2]}`), Extra: json.RawMessage(`{"x":{"y":1,"z":2}}`)}
		full := delivery.Request{
			ID: "full", Title: "t", TTL: new(24 * time.Hour), Ack: delivery.AckReceived, Urgency: delivery.UrgencyHigh,
			Devices: []string{"tablet", "phone"}, Level: delivery.LevelActive, Kind: delivery.KindAlert, AckWindow: new(3 * time.Second),
		}
		w.accept(bare)
		w.accept(full)
		w.accept(delivery.Request{ID: "narrow", Devices: []string{"phone"}})
		own := delivery.Request{ID: "own", Title: "t", TTL: new(time.Hour), Ack: delivery.AckDisplayed, Urgency: delivery.UrgencyNormal, AckWindow: new(time.Minute)}
		w.accept(own)
		changed := func(r delivery.Request, change func(*delivery.Request)) delivery.Request { change(&r); return r }
		for name, c := range map[string]struct {
			r    delivery.Request
			same bool
		}{
			"as it is": {bare, true},
			"defaults written out": {changed(bare, func(r *delivery.Request) {
				r.TTL, r.Ack, r.Urgency, r.Level = new(24*time.Hour), delivery.AckReceived, delivery.UrgencyHigh, delivery.LevelActive
				r.Devices, r.AckWindow = []string{"phone", "tablet", "phone"}, new(3*time.Second)
			}), true},
			"defaults left out": {delivery.Request{ID: "full", Title: "t"}, true},
			"members in another order": {changed(bare, func(r *delivery.Request) {
				r.Data, r.Extra = json.RawMessage(`{"b": [1.50, 2], "a": 1}`), json.RawMessage(`{"x":{"z":2,"y":1}}`)
			}), true},
			"another title":     {changed(bare, func(r *delivery.Request) { r.Title = "u" }), false},
			"another TTL":       {changed(full, func(r *delivery.Request) { r.TTL = new(time.Hour) }), false},
			"other data":        {changed(bare, func(r *delivery.Request) { r.Data = json.RawMessage(`{"a":1,"b":[2,1.50]}`) }), false},
			"no data":           {changed(bare, func(r *delivery.Request) { r.Data = nil }), false},
			"one device":        {changed(full, func(r *delivery.Request) { r.Devices = []string{"phone"} }), false},
			"all devices":       {delivery.Request{ID: "narrow", Title: "t"}, false},
			"that device":       {delivery.Request{ID: "narrow", Title: "t", Devices: []string{"phone"}}, true},
			"no fallback":       {changed(full, func(r *delivery.Request) { r.NoFallback = true }), false},
			"values of its own": {own, true},
			"no TTL":            {changed(own, func(r *delivery.Request) { r.TTL = nil }), false},
			"no ack":            {changed(own, func(r *delivery.Request) { r.Ack = 0 }), false},
			"no urgency":        {changed(own, func(r *delivery.Request) { r.Urgency = 0 }), false},
			"no ack window":     {changed(own, func(r *delivery.Request) { r.AckWindow = nil }), false},
			"another account":   {changed(full, func(r *delivery.Request) { r.Account = "b" }), false},
			"a badge":           {changed(full, func(r *delivery.Request) { r.Badge = new(0) }), false},
		} {
			receipt, err := w.tryAccept(c.r)
			if c.same && (err != nil || !receipt.Repeated) || !c.same && !errors.Is(err, delivery.ErrConflict) {
				t.Errorf("%s: %+v, %v", name, receipt, err)
			}
		}
		// Another default is none of the repeat's business.
		w.stop()
		opts := options()
		opts.TTL, opts.Ack = time.Hour, delivery.AckDisplayed
		w.start(opts)
		if receipt, err := w.tryAccept(bare); err != nil || !receipt.Repeated {
			t.Errorf("after a change of defaults: %+v, %v", receipt, err)
		}
	})
}

// TestRepeatedPublish: a publish that may be a repetition is accepted once, also
// where the first is on its way, or a crash took its PUBACK.
func TestRepeatedPublish(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		mark := func(id uint16) *delivery.RequestMark {
			return &delivery.RequestMark{Client: "backend", PacketID: id, Payload: 7}
		}
		release := w.store.hold()
		first := make(chan delivery.Receipt, 1)
		w.core.AcceptAsync(delivery.Request{Account: "a", Title: "t", Mark: mark(1)}, func(r delivery.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			first <- r
		})
		second := make(chan delivery.Receipt, 1)
		w.core.AcceptAsync(delivery.Request{Account: "a", Title: "t", Mark: mark(1), Again: true}, func(r delivery.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			second <- r
		})
		settle()
		release()
		n := (<-first).Notification
		if r := <-second; !r.Repeated || r.Notification.ID != n.ID {
			t.Errorf("on its way: %+v", r)
		}
		w.core.Crash()
		w.store.powerCut(0)
		w.start(options())
		if r, err := w.tryAccept(delivery.Request{Mark: mark(1), Again: true}); err != nil || !r.Repeated || r.Notification.ID != n.ID {
			t.Errorf("after a crash: %+v, %v", r, err)
		}
		if r, err := w.tryAccept(delivery.Request{Mark: mark(2), Again: true}); err != nil || r.Repeated {
			t.Errorf("one that was never accepted: %+v, %v", r, err)
		}
		if r, err := w.tryAccept(delivery.Request{Mark: mark(1)}); err != nil || r.Repeated {
			t.Errorf("the packet ID is used again: %+v, %v", r, err)
		}
	})
}

// TestPublishLikeAnOldOne: a publish that was read for the first time, from a client that sent
// the same under the same packet ID before, is a notification of its own.
func TestPublishLikeAnOldOne(t *testing.T) {
	doorbell := &delivery.RequestMark{Client: "door", PacketID: 1, Payload: 7}
	for name, meanwhile := range map[string]func(w *world){
		"hours later": func(*world) { time.Sleep(6 * time.Hour) },
		"the packet ID was used again": func(w *world) {
			w.accept(delivery.Request{Mark: &delivery.RequestMark{Client: "door", PacketID: 1, Payload: 8}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.known("phone", "")
				first := w.accept(delivery.Request{Mark: doorbell})
				meanwhile(w)
				r, err := w.tryAccept(delivery.Request{Mark: doorbell, Again: true})
				if err != nil || r.Repeated || r.Notification.ID == first.ID {
					t.Errorf("taken as a repetition: %+v, %v", r, err)
				}
			})
		})
	}
	inWorld(t, func(w *world) {
		w.known("phone", "")
		first := w.accept(delivery.Request{Mark: doorbell})
		w.accept(delivery.Request{Mark: &delivery.RequestMark{Client: "window", PacketID: 1, Payload: 8}})
		w.accept(delivery.Request{Mark: &delivery.RequestMark{Client: "door", PacketID: 2, Payload: 8}})
		time.Sleep(9 * time.Minute)
		if r, err := w.tryAccept(delivery.Request{Mark: doorbell, Again: true}); err != nil || !r.Repeated || r.Notification.ID != first.ID {
			t.Errorf("no repetition: %+v, %v", r, err)
		}
		// A node's own mark is unique: only its payload counts.
		own := func(payload uint64) *delivery.RequestMark {
			return &delivery.RequestMark{Client: "node", Payload: payload}
		}
		first = w.accept(delivery.Request{Mark: own(1)})
		w.accept(delivery.Request{Mark: own(2)})
		time.Sleep(6 * time.Hour)
		if r, err := w.tryAccept(delivery.Request{Mark: own(1), Again: true}); err != nil || !r.Repeated || r.Notification.ID != first.ID {
			t.Errorf("no repetition of a node's own: %+v, %v", r, err)
		}
	})
}

// TestShortTTL: a device that is half open, with a TTL at the ack window or below,
// is pushed to while that is of use.
func TestShortTTL(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		w.up("phone")
		for ttl, window := range map[time.Duration]time.Duration{
			3 * time.Second: 1500 * time.Millisecond, 2 * time.Second: 1500 * time.Millisecond,
			time.Second: 500 * time.Millisecond, 50 * time.Millisecond: 25 * time.Millisecond,
		} {
			n := w.accept(delivery.Request{TTL: &ttl})
			time.Sleep(window - time.Millisecond)
			w.wantTimeline(n, "accepted, published")
			time.Sleep(2 * time.Millisecond)
			w.wantTimeline(n, "accepted, published, ack_timeout, push_requested, pushed")
			time.Sleep(ttl)
			w.wantState(n, delivery.StateExpired)
		}
	})
}

// TestTTLZero: one publish and one push at once, then final.
func TestTTLZero(t *testing.T) {
	zero := delivery.Request{TTL: new(time.Duration(0))}
	for name, c := range map[string]struct {
		token  string
		play   func(w *world) (after func())
		script []delivery.PushResult
		soon   string // at once
		end    string // after the ack window
	}{
		"offline":           {"aa", nil, nil, "accepted, push_requested, pushed, expired", ""},
		"offline, no token": {"", nil, nil, "accepted, expired", ""},
		"offline, refused":  {"aa", nil, []delivery.PushResult{{Outcome: delivery.PushRefused, Detail: "400"}}, "accepted, push_requested, push_failed, expired", ""},
		"offline, not now":  {"aa", nil, []delivery.PushResult{{Outcome: delivery.PushRetry, RetryAfter: time.Second, Detail: "503"}}, "accepted, push_requested, push_failed, expired", ""},
		"up":                {"aa", func(w *world) func() { w.up("phone"); return nil }, nil, "accepted, published, push_requested, pushed", "accepted, published, push_requested, pushed, expired"},
		"up, no token":      {"", func(w *world) func() { w.up("phone"); return nil }, nil, "accepted, published", "accepted, published, ack_timeout, expired"},
		"up, acks":          {"aa", func(w *world) func() { w.up("phone", acking); return nil }, nil, "accepted, published, push_requested, received", "accepted, published, push_requested, received"},
		"up, slow push":     {"aa", func(w *world) func() { w.up("phone"); w.apple.hold = true; return w.apple.release }, nil, "accepted, published, push_requested", "accepted, published, push_requested, pushed, expired"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.apple.script = c.script
				w.known("phone", c.token)
				var after func()
				if c.play != nil {
					after = c.play(w)
				}
				n := w.accept(zero)
				// The ack and the push's answer come at the same moment.
				pushedFirst := strings.Replace(c.soon, "push_requested, received", "push_requested, pushed, received", 1)
				if got := strings.Join(w.timeline(n), ", "); got != c.soon && got != pushedFirst && got != strings.Replace(c.soon, "push_requested, received", "push_requested, received, pushed", 1) {
					t.Errorf("at once:\n got %s\nwant %s", got, c.soon)
				}
				time.Sleep(4 * time.Second)
				if after != nil {
					after()
				}
				if c.end != "" {
					if got := strings.Join(w.timeline(n), ", "); got != c.end && got != c.end+", pushed" && got != pushedFirst {
						t.Errorf("in the end:\n got %s\nwant %s", got, c.end)
					}
				}
				left := 0
				if err := w.store.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { left++; return true }); err != nil || left > 0 {
					t.Errorf("%d unfinished, %v", left, err)
				}
				w.restart(options())
				time.Sleep(time.Minute)
				if len(w.apple.asked) > 1 {
					t.Errorf("%d pushes", len(w.apple.asked))
				}
				w.apple.script = nil
			})
		})
	}
}

// TestAckWindowOfItsOwn: 0 asks for the push at once, and publishes, too.
func TestAckWindowOfItsOwn(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "aa")
		ch := w.up("phone")
		n := w.accept(delivery.Request{AckWindow: new(time.Duration(0))})
		w.wantTimeline(n, "accepted, published, push_requested, pushed")
		w.wantState(n, delivery.StatePushed)
		ch.ack(0)
		w.wantState(n, delivery.StateAcked)
		// Later publishes have the configured one.
		n = w.accept(delivery.Request{AckWindow: new(time.Duration(0))})
		time.Sleep(10*time.Second + 2900*time.Millisecond)
		w.wantTimeline(n, "accepted, published, push_requested, pushed, fallback_timeout, redelivered")
		time.Sleep(200 * time.Millisecond)
		w.wantTimeline(n, "accepted, published, push_requested, pushed, fallback_timeout, redelivered, ack_timeout, waiting")
		// So has the first where no push can be had.
		n = w.accept(delivery.Request{AckWindow: new(time.Duration(0)), NoFallback: true})
		time.Sleep(2900 * time.Millisecond)
		w.wantTimeline(n, "accepted, published")
		time.Sleep(200 * time.Millisecond)
		w.wantTimeline(n, "accepted, published, ack_timeout, waiting")

		n = w.accept(delivery.Request{AckWindow: new(10 * time.Second)})
		time.Sleep(9 * time.Second)
		w.wantTimeline(n, "accepted, published")
		w.restart(options())
		w.up("phone")
		time.Sleep(9 * time.Second)
		w.wantTimeline(n, "accepted, published, redelivered")
		time.Sleep(2 * time.Second)
		w.wantTimeline(n, "accepted, published, redelivered, ack_timeout, push_requested, pushed")
	})
}

// TestAcceptAsyncDoesNotWait: not for another acceptance of the ID, not for a read
// of the store; and requests for one account keep their order.
func TestAcceptAsyncDoesNotWait(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		w.stop()
		out := &slowReads{Outbox: w.store, gate: make(chan struct{})}
		w.core = newCore(options(), out, nil, slog.New(slog.DiscardHandler))
		if err := w.core.Start(); err != nil {
			t.Fatal(err)
		}
		var got []string
		done := make(chan struct{}, 10)
		returned := make(chan struct{})
		go func() {
			for i, id := range []string{"x", "", "x", "y", ""} {
				w.core.AcceptAsync(delivery.Request{Account: "a", Title: fmt.Sprint(i), ID: id}, func(r delivery.Receipt, err error) {
					if err == nil {
						got = append(got, r.Notification.Title)
					}
					done <- struct{}{}
				})
			}
			close(returned)
		}()
		synctest.Wait()
		select {
		case <-returned:
		default:
			t.Error("it waits for the store")
		}
		close(out.gate)
		for range 5 {
			<-done
		}
		if fmt.Sprint(got) != "[0 1 3 4]" { // 2 has the ID of 0, and another title
			t.Errorf("accepted %v", got)
		}
	})
}

// slowReads answers nothing until its gate is open.
type slowReads struct {
	delivery.Outbox
	gate chan struct{}
}

func (o *slowReads) AccountDevices(account string) ([]delivery.Device, error) {
	<-o.gate
	return o.Outbox.AccountDevices(account)
}

func (o *slowReads) Lookup(id string) (delivery.Seq, error) {
	<-o.gate
	return o.Outbox.Lookup(id)
}

// TestFaultsOfARequest: each names its field, in the order of the contract.
func TestFaultsOfARequest(t *testing.T) {
	inWorld(t, func(w *world) {
		_, err := w.core.Accept(context.Background(), delivery.Request{
			Account: "..", Title: strings.Repeat("x", 3000), ID: "?", TTL: new(-time.Second), Badge: new(-1), Link: strings.Repeat("l", 3000),
			Image: "http://x", Extra: json.RawMessage(`[1]`), AckWindow: new(2 * time.Hour), Subtitle: strings.Repeat("s", 257),
			Kind: "liveactivity:" + strings.Repeat("x", delivery.MaxName),
		})
		var fields []string
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			f, ok := errors.AsType[*delivery.FieldError](e)
			if !ok || !errors.Is(e, delivery.ErrInvalid) {
				t.Fatalf("%v is no fault of a field", e)
			}
			fields = append(fields, f.Field)
		}
		if want := "[account title id ttl badge subtitle link image extra ack_window apns.kind]"; fmt.Sprint(fields) != want {
			t.Errorf("fields %v, want %s", fields, want)
		}
		for _, account := range []string{"+4915112345", "ann+work@example.org", "a/b", "#", "ä"} {
			if err := delivery.ValidAccount(account); err != nil {
				t.Error(err)
			}
		}
		for _, account := range []string{"", ".", "..", "a\x00", "a\n", "\xff", strings.Repeat("x", 129)} {
			if delivery.ValidAccount(account) == nil {
				t.Errorf("account %q is taken", account)
			}
		}
	})
}

// TestCancelHeld: a notification for an account without devices can be cancelled.
func TestCancelHeld(t *testing.T) {
	opts := options()
	opts.HoldUnknown = true
	inWorldWith(t, opts, func(w *world) {
		n := w.accept(delivery.Request{ID: "n"})
		if err := w.core.Cancel(context.Background(), "n"); err != nil {
			t.Fatal(err)
		}
		w.wantState(n, delivery.StateCancelled)
		w.up("phone").wantIDs(false)
	})
}

// TestEraseWhileHeldIsAccepted: nothing of the erased notification is left for the account's
// next first device.
func TestEraseWhileHeldIsAccepted(t *testing.T) {
	opts := options()
	opts.HoldUnknown = true
	inWorldWith(t, opts, func(w *world) {
		before := w.accept(delivery.Request{})
		erased := make(chan error, 1)
		meant := w.acceptWhile(func() { go func() { erased <- w.core.EraseAccount(context.Background(), "a") }() })
		if err := <-erased; err != nil {
			t.Fatal(err)
		}
		for _, n := range []*delivery.Notification{before, meant} {
			if _, err := w.core.Get(context.Background(), n.ID); !errors.Is(err, delivery.ErrUnknownNotification) {
				t.Errorf("read after it was erased: %v", err)
			}
		}
		after := w.accept(delivery.Request{})
		phone := w.up("phone")
		phone.wantIDs(false, after.ID)
		if n := w.device("a", "phone").Outstanding; n != 1 {
			t.Errorf("%d outstanding", n)
		}
	})
}

// TestCrashBeforeHeldIsAssigned: the device is on the disk, and a notification that was held
// for its account is not assigned to it yet.
func TestCrashBeforeHeldIsAssigned(t *testing.T) {
	opts := options()
	opts.HoldUnknown = true
	// crash leaves the device in the store, and a notification that was accepted for it after n.
	crash := func(w *world, n *delivery.Notification, token string) {
		w.core.Crash()
		dev := delivery.Device{ID: "phone", Account: "a", SeenAt: time.Now()}
		if token != "" {
			dev.Registrations = []delivery.Registration{{Server: delivery.ServerAPNs, App: "app", Kind: delivery.KindAlert, Token: token, Claims: true}}
		}
		done := make(chan error, 2)
		w.store.Commit(&delivery.Batch{PutDevices: []delivery.Device{dev}, Sync: true}, func(err error) { done <- err })
		w.store.Commit(&delivery.Batch{Accept: []delivery.Acceptance{{Notification: &delivery.Notification{
			Seq: n.Seq + 1000*delivery.Seq(max(*shards, 1)), ID: "last", Account: "a", Title: "t", CollapseKey: "k", Ack: delivery.AckReceived,
			Urgency: delivery.UrgencyHigh, AcceptedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), Devices: []string{"phone"},
		}}}, Sync: true}, func(err error) { done <- err })
		if err := errors.Join(<-done, <-done); err != nil {
			w.Fatal(err)
		}
		w.store.powerCut(0)
		w.start(opts)
	}
	inWorldWith(t, opts, func(w *world) {
		w.accept(delivery.Request{ID: "first"})
		time.Sleep(time.Second)
		replaced := w.accept(delivery.Request{ID: "replaced", CollapseKey: "k"})
		time.Sleep(time.Second)
		crash(w, replaced, "")
		w.up("phone", acking).wantIDs(false, "first", "last")
		w.wantState(replaced, delivery.StateSuperseded)
		w.restart(opts)
		w.up("phone").wantIDs(false)
	})
	inWorldWith(t, opts, func(w *world) {
		n := w.accept(delivery.Request{ID: "first"})
		time.Sleep(time.Second)
		crash(w, n, "token")
		w.wantTimeline(n, "accepted, waiting")
		time.Sleep(4 * time.Second)
		w.wantTimeline(n, "accepted, waiting, push_requested, pushed")
		w.restart(opts)
		w.wantState(n, delivery.StatePushed)
	})
}

// TestRepeatNamesAFullDevice: the answer to a repetition says what the first one said.
func TestRepeatNamesAFullDevice(t *testing.T) {
	opts := options()
	opts.MaxOutstanding = 1
	inWorldWith(t, opts, func(w *world) {
		w.known("full", "")
		w.up("phone", acking)
		w.accept(delivery.Request{Devices: []string{"full"}})
		r := delivery.Request{Account: "a", Title: "t", ID: "n"}
		first, err := w.tryAccept(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.tryAccept(r)
		if err != nil || !again.Repeated {
			t.Fatalf("%+v, %v", again, err)
		}
		if again.State != first.State || !slices.Equal(again.Deliveries, first.Deliveries) || first.Deliveries[0].State != delivery.StateCancelled {
			t.Errorf("first %v %v, then %v %v", first.State, first.Deliveries, again.State, again.Deliveries)
		}
	})
}

// TestRepeatSaysTheFirstAnswer: whatever has become of the deliveries since.
func TestRepeatSaysTheFirstAnswer(t *testing.T) {
	hold := options()
	hold.HoldUnknown = true
	crowded := options()
	crowded.MaxOutstanding = 1
	ctx := context.Background()
	known := func(w *world) { w.known("phone", "") }
	for name, c := range map[string]struct {
		opts   delivery.Options
		before func(w *world)
		then   func(w *world) error
	}{
		"cancelled": {options(), known, func(w *world) error { return w.core.Cancel(ctx, "n") }},
		"removed":   {options(), known, func(w *world) error { return w.core.ForgetDevice(ctx, "a", "phone") }},
		"read elsewhere": {options(), func(w *world) { w.known("phone", ""); w.up("tablet", acking) }, func(w *world) error {
			return w.core.AckByID("n", "tablet", "a", delivery.AckRead)
		}},
		"displaced":            {crowded, known, func(w *world) error { w.accept(delivery.Request{}); return nil }},
		"held, then given":     {hold, func(*world) {}, func(w *world) error { w.known("phone", ""); return nil }},
		"held, then cancelled": {hold, func(*world) {}, func(w *world) error { return w.core.Cancel(ctx, "n") }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWith(t, c.opts, func(w *world) {
				c.before(w)
				r := delivery.Request{ID: "n", Urgency: delivery.UrgencyNormal}
				first, err := w.tryAccept(r)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.then(w); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				for range 2 {
					again, err := w.tryAccept(r)
					if err != nil || !again.Repeated || again.State != first.State || !slices.Equal(again.Deliveries, first.Deliveries) {
						t.Errorf("first %v %v, then %v %v, %v", first.State, first.Deliveries, again.State, again.Deliveries, err)
					}
					w.restart(c.opts)
				}
			})
		})
	}
}

// TestDeviceChangesMeanwhile: while the acceptance is on its way into the store, a held notification
// gets a device, or a device leaves. The request has one answer all the same.
func TestDeviceChangesMeanwhile(t *testing.T) {
	hold := options()
	hold.HoldUnknown = true
	for name, c := range map[string]struct {
		opts      delivery.Options
		before    func(w *world)
		meanwhile func(w *world)
	}{
		"comes":  {hold, func(*world) {}, func(w *world) { w.up("phone", acking) }},
		"leaves": {options(), func(w *world) { w.known("phone", "") }, func(w *world) { go func() { _ = w.core.ForgetDevice(context.Background(), "a", "phone") }() }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWith(t, c.opts, func(w *world) {
				c.before(w)
				release := w.store.hold()
				r := delivery.Request{ID: "n"}
				answer := make(chan delivery.Receipt, 1)
				go func() {
					first, err := w.tryAccept(r)
					if err != nil {
						t.Error(err)
					}
					answer <- first
				}()
				settle()
				c.meanwhile(w)
				settle()
				release()
				first := <-answer
				synctest.Wait()
				again, err := w.tryAccept(r)
				if err != nil || again.State != first.State || !slices.Equal(again.Deliveries, first.Deliveries) {
					t.Errorf("first %v %v, then %v %v, %v", first.State, first.Deliveries, again.State, again.Deliveries, err)
				}
			})
		})
	}
}

// TestLatePubackOfTTLZero adds a line to the timeline, once, and changes nothing else.
func TestLatePubackOfTTLZero(t *testing.T) {
	inWorld(t, func(w *world) {
		phone := w.up("phone")
		n := w.accept(delivery.Request{TTL: new(time.Duration)})
		time.Sleep(10 * time.Second)
		w.wantState(n, delivery.StateExpired)
		phone.ack(0)
		w.wantState(n, delivery.StateExpired)
		w.wantTimeline(n, "accepted, published, ack_timeout, expired, received late")
	})
}

// TestRepeatAtStop: the answer to the repetition of a request does not say that the core accepts nothing.
func TestRepeatAtStop(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		w.accept(delivery.Request{ID: "n"})
		settle()
		release := w.store.hold()
		w.core.AcceptAsync(delivery.Request{Account: "a", Title: "t"}, func(delivery.Receipt, error) {})
		answer := make(chan error, 1)
		w.core.AcceptAsync(delivery.Request{ID: "n", Account: "a", Title: "t"}, func(_ delivery.Receipt, err error) { answer <- err })
		settle()
		w.core.Crash()
		// Bare, ErrStopped says that. Nodes make of it that the request is in doubt.
		if err := <-answer; err == delivery.ErrStopped || !errors.Is(err, delivery.ErrStopped) && !errors.Is(err, delivery.ErrInDoubt) {
			t.Errorf("error %v", err)
		}
		release()
		w.start(options())
	})
}

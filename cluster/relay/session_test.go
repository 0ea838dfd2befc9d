package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.DiscardHandler)

// fake is the node behind a Mesh: it accepts everything, and counts.
type fake struct {
	mu       sync.Mutex
	accepted []string
	ups      []*fakeUp
	ends     []string
	reports  []string
	begun    []*Session
	ended    []*Session
	changed  chan struct{}          // closed at each change
	stale    bool                   // no term is current
	hold     chan struct{}          // Flush waits for it
	memory   *delivery.Notification // what InMemory returns
}

func newFake() *fake { return &fake{changed: make(chan struct{})} }

func (f *fake) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	close(f.changed)
	f.changed = make(chan struct{})
}

// until waits until ok says so.
func (f *fake) until(ok func() bool) {
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			return
		}
		<-changed
	}
}

func (f *fake) session() *Session {
	f.until(func() bool { return len(f.begun) > len(f.ended) })
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.begun[len(f.begun)-1]
}

func (f *fake) AcceptAt(_ uint16, _ uint64, q delivery.Request, done func(delivery.Receipt, error)) {
	f.change(func() { f.accepted = append(f.accepted, q.Title) })
	done(delivery.Receipt{Notification: &delivery.Notification{Title: q.Title, Body: q.Body}}, nil)
}

func (f *fake) Owner(uint16, uint64) (Owner, <-chan struct{}, error) { return f.owner(), nil, nil }
func (f *fake) owner() Owner                                         { return fakeOwner{f: f} }
func (f *fake) Flush(ctx context.Context) error                      { <-f.hold; return nil }
func (f *fake) Current(uint16, uint64) bool                          { return !f.stale }
func (f *fake) InMemory(delivery.Seq) *delivery.Notification         { return f.memory }
func (f *fake) OnUp(s *Session)                                      { f.change(func() { f.begun = append(f.begun, s) }) }
func (f *fake) OnDown(s *Session)                                    { f.change(func() { f.ended = append(f.ended, s) }) }
func (f *fake) End(device, account string, session bool) bool {
	f.change(func() { f.ends = append(f.ends, fmt.Sprint(device, " of ", account, ", session ", session)) })
	return device == "phone"
}
func (f *fake) OnServing(*Session, []Serving)    {}
func (f *fake) OnClaimed(uint16, delivery.Claim) {}

// fakeOwner is the Core of a fake.
type fakeOwner struct {
	Owner
	f *fake
}

func (o fakeOwner) Online(info delivery.OnlineInfo) (delivery.Up, error) {
	up := &fakeUp{f: o.f, info: info}
	o.f.change(func() { o.f.ups = append(o.f.ups, up) })
	return up, nil
}

func (o fakeOwner) ReportsApp(id, account string) error {
	o.f.change(func() { o.f.reports = append(o.f.reports, id+" of "+account) })
	return nil
}

// fakeUp notes what the device's connection says.
type fakeUp struct {
	f    *fake
	info delivery.OnlineInfo
	said []string
}

func (u *fakeUp) say(format string, args ...any) {
	u.f.change(func() { u.said = append(u.said, fmt.Sprintf(format, args...)) })
}

func (u *fakeUp) Heartbeat()                           { u.say("heartbeat") }
func (u *fakeUp) SetSubscribed(m, d bool)              { u.say("subscribed %v %v", m, d) }
func (u *fakeUp) SetApp(s delivery.AppState) error     { u.say("app %v", s); return nil }
func (u *fakeUp) Offline(why string)                   { u.say("offline %s", why) }
func (u *fakeUp) Acked(r delivery.Ref)                 { u.say("acked %d.%d", r.Seq, r.Attempt) }
func (u *fakeUp) Nacked(r delivery.Ref, reason string) { u.say("nacked %d %s", r.Seq, reason) }

// pair is two nodes. The younger, two, dials; wrap stands between it and each stream.
type pair struct {
	one, two *fake
	a, b     *Mesh
	log      *lockedBuffer
	wrap     func(net.Conn) net.Conn
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newPair(change func(one, two *Options)) *pair {
	p := &pair{one: newFake(), two: newFake(), log: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(p.log, nil))
	one := Options{Name: "one", Local: p.one, Patience: 7 * time.Second, Log: log}
	two := Options{Name: "two", Local: p.two, Patience: 7 * time.Second, Log: log}
	two.Dial = func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		p.a.Handle(there)
		if p.wrap != nil {
			return p.wrap(here), nil
		}
		return here, nil
	}
	if change != nil {
		change(&one, &two)
	}
	p.a, p.b = NewMesh(one), NewMesh(two)
	p.a.Begin(1)
	p.b.Begin(2)
	return p
}

func (p *pair) begin() {
	p.b.Update([]Member{{ID: 1, Name: "one", Address: "one"}})
	p.a.Update([]Member{{ID: 2, Name: "two"}})
}

func (p *pair) close() {
	p.b.Close()
	p.a.Close()
}

// hostile is a connection on which a byte is damaged, or that ends, after a number of
// bytes in either direction.
type hostile struct {
	net.Conn
	mu     sync.Mutex
	left   int
	damage bool
}

func (h *hostile) take(b []byte) (may int, cut bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left < 0 || h.left >= len(b) {
		h.left -= min(len(b), max(h.left, 0))
		return len(b), false
	}
	may, h.left = h.left, -1
	if h.damage {
		b[may] ^= 0x10
		return len(b), false
	}
	return may, true
}

func (h *hostile) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if may, cut := h.take(b[:n]); cut {
		_ = h.Close()
		return may, io.ErrUnexpectedEOF
	}
	return n, err
}

func (h *hostile) Write(b []byte) (int, error) {
	b = bytes.Clone(b)
	may, cut := h.take(b)
	n, err := h.Conn.Write(b[:may])
	if err == nil && cut {
		_ = h.Close()
		err = io.ErrShortWrite
	}
	return n, err
}

// Everything arrives once and in order, whatever the stream does: it is cut, or a byte of
// it is damaged, anywhere.
func TestOnceInOrder(t *testing.T) {
	for _, damage := range []bool{false, true} {
		for seed := range uint64(30) {
			testtool.Bubble(t, func(t *testing.T) { onceInOrder(t, seed, damage) })
		}
	}
}

func onceInOrder(t *testing.T, seed uint64, damage bool) {
	const n = 300
	random := rand.New(rand.NewPCG(seed, 0))
	// A damaged length may say that more follows than does: only the missing signs of life tell.
	p := newPair(func(one, two *Options) { one.Beat, two.Beat = time.Second, time.Second })
	streams, cuts := 0, rand.New(rand.NewPCG(seed, 1))
	p.wrap = func(c net.Conn) net.Conn {
		if streams++; streams > 40 {
			return c
		}
		return &hostile{Conn: c, left: cuts.IntN(8000), damage: damage}
	}
	p.begin()
	defer p.close()
	there := p.two.session()
	owner := there.Owner(3, 1)
	channel := &fakeChannel{}
	up, err := owner.Online(delivery.OnlineInfo{Device: "phone", Account: "ann", Channel: channel})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var answered []string
	all := make(chan struct{})
	for i := range n {
		title := fmt.Sprint(i)
		owner.AcceptAsync(delivery.Request{Title: title, Body: strings.Repeat("b", random.IntN(200))}, func(r delivery.Receipt, err error) {
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if answered = append(answered, r.Notification.Title); len(answered) == n {
				close(all)
			}
		})
		up.(delivery.Acker).Acked(delivery.Ref{Seq: delivery.Seq(i), Attempt: 1})
		p.one.mu.Lock()
		remote := p.one.ups[0]
		p.one.mu.Unlock()
		if err := remote.info.Channel.Publish(delivery.Publication{Ref: delivery.Ref{Seq: delivery.Seq(i), Attempt: 2}}); err != nil {
			t.Error(err)
		}
		if i%50 == 0 {
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
		}
	}
	<-all
	p.one.until(func() bool { return len(p.one.ups[0].said) == n })
	channel.until(n)
	want := make([]string, n)
	for i := range want {
		want[i] = fmt.Sprint(i)
	}
	p.one.mu.Lock()
	defer p.one.mu.Unlock()
	if !slices.Equal(p.one.accepted, want) || !slices.Equal(answered, want) {
		t.Errorf("seed %d: accepted %d, answered %d, in another order or not once", seed, len(p.one.accepted), len(answered))
	}
	for i, said := range p.one.ups[0].said {
		if said != fmt.Sprintf("acked %d.1", i) {
			t.Fatalf("seed %d: the %dth report is %q", seed, i, said)
		}
	}
	for i, pub := range channel.got {
		if pub.Seq != delivery.Seq(i) || pub.Attempt != 2 {
			t.Fatalf("seed %d: the %dth publication is %d.%d", seed, i, pub.Seq, pub.Attempt)
		}
	}
	// One whose answer to the first hello was lost has another; nothing was sent on it.
	if len(p.one.begun) != len(p.one.ended)+1 || len(p.two.begun) != 1 {
		t.Errorf("seed %d: sessions %d, of which %d ended, and %d; want one", seed, len(p.one.begun), len(p.one.ended), len(p.two.begun))
	}
}

// fakeChannel is a device's connection.
type fakeChannel struct {
	mu       sync.Mutex
	got      []delivery.Publication
	refuse   error
	replaced bool
	more     chan struct{}
}

func (c *fakeChannel) Publish(p delivery.Publication) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return c.refuse
	}
	c.got = append(c.got, p)
	if c.more != nil {
		close(c.more)
		c.more = nil
	}
	return nil
}

func (c *fakeChannel) Closed() bool { return false }

func (c *fakeChannel) Replaced() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replaced = true
}

func (c *fakeChannel) until(n int) {
	for {
		c.mu.Lock()
		if len(c.got) >= n {
			c.mu.Unlock()
			return
		}
		if c.more == nil {
			c.more = make(chan struct{})
		}
		more := c.more
		c.mu.Unlock()
		<-more
	}
}

// A frame of a kind, or a call of an operation, that a node does not know is told in the
// log and skipped; the call is answered, and nothing behind it is lost.
func TestUnknownFrame(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(nil)
		p.begin()
		defer p.close()
		s := p.two.session()
		if err := s.send(kind(200), nil, maxQueued); err != nil {
			t.Fatal(err)
		}
		_, err := s.ask(t.Context(), &call{Op: 200})
		if !errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("got error %v, want ErrUnavailable", err)
		}
		s.Owner(0, 1).AcceptAsync(delivery.Request{Title: "behind"}, func(delivery.Receipt, error) {})
		p.one.until(func() bool { return len(p.one.accepted) == 1 })
		synctest.Wait()
		if log := p.log.String(); !strings.Contains(log, "unknown kind 200") || !strings.Contains(log, "unknown operation 200") || !strings.Contains(log, "node=two") {
			t.Error("the log does not say what was skipped:", log)
		}
		if len(p.two.begun) != 1 {
			t.Error("sessions:", len(p.two.begun))
		}
	})
}

// A node says that a device reports the state of its app. One of the version before is not asked.
func TestReportsApp(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(nil)
		p.begin()
		defer p.close()
		there := p.two.session()
		for _, v := range []int64{version, versionKeepRoom} {
			there.version.Store(v)
			if err := there.Owner(1, 1).ReportsApp("phone", "ann"); err != nil {
				t.Errorf("a node of version %d: %v", v, err)
			}
		}
		if want := []string{"phone of ann"}; !slices.Equal(p.one.reports, want) {
			t.Errorf("reported at one: %q", p.one.reports)
		}
	})
}

// A node ends a device's connection, or its session, for another, and says whether there was
// one. One of the version before is not asked.
func TestEnd(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(nil)
		p.begin()
		defer p.close()
		there, back := p.two.session(), p.one.session()
		for _, c := range []struct {
			s       *Session
			device  string
			session bool
			want    bool
		}{{there, "phone", false, true}, {there, "phone", true, true}, {there, "pad", true, false}, {back, "phone", true, true}} {
			if ended, err := c.s.End(t.Context(), c.device, "ann", c.session); err != nil || ended != c.want {
				t.Errorf("%+v: %v, error %v", c, ended, err)
			}
		}
		there.version.Store(1)
		if ended, err := there.End(t.Context(), "phone", "ann", true); !errors.Is(err, delivery.ErrUnavailable) || ended {
			t.Errorf("a node of version 1: %v, error %v", ended, err)
		}
		want := []string{"phone of ann, session false", "phone of ann, session true", "pad of ann, session true"}
		if !slices.Equal(p.one.ends, want) || !slices.Equal(p.two.ends, []string{want[1]}) {
			t.Errorf("ended at one: %q, at two: %q", p.one.ends, p.two.ends)
		}
	})
}

// What a device's connection says reaches the owner, and the owner's publications, and
// what becomes of them, come back.
func TestPresence(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(nil)
		p.begin()
		defer p.close()
		s := p.two.session()
		channel := &fakeChannel{}
		sent := delivery.OnlineInfo{
			Device: "phone", Account: "ann", Channel: channel, ReceiveMaximum: 7, Messages: true, Dismissals: true,
			App: delivery.AppForeground, Keepalive: time.Minute, Remote: "192.0.2.1:5", Via: "xmpp", Address: "a@b/c", Connected: time.Now(),
		}
		up, err := s.Owner(0, 1).Online(sent)
		if err != nil {
			t.Fatal(err)
		}
		remote := p.one.ups[0]
		got := remote.info
		got.Channel = sent.Channel
		if got != sent {
			t.Errorf("the owner heard of %+v, want %+v", got, sent)
		}
		publish := func(seq delivery.Seq) {
			if err := remote.info.Channel.Publish(delivery.Publication{Ref: delivery.Ref{Seq: seq, Attempt: 3}, ExpiresAt: time.Now().Add(time.Hour), Pushed: true, Unread: 2}); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		content := &delivery.Notification{Seq: 1, ID: "n1", Account: "ann", Title: "t", Devices: []string{"phone"}}
		p.one.memory = content
		publish(1)
		p.one.memory = nil
		if c := channel.got[0].Content; c == nil || c.ID != content.ID || c.Title != content.Title || c.Account != content.Account {
			t.Errorf("the publication came with %+v, want what the owner has in memory: %+v", c, content)
		}
		if left := time.Until(channel.got[0].ExpiresAt); left <= 59*time.Minute || left > time.Hour {
			t.Errorf("%s are left of the TTL, want an hour", left)
		}
		channel.got[0].Acked()
		channel.got[0].Nacked("0x97 full")
		channel.refuse = errors.New("no room")
		publish(2)
		channel.refuse = nil
		p.two.stale = true
		publish(3) // of an owner that has a successor
		p.two.stale = false
		up.Heartbeat()
		up.SetSubscribed(true, false)
		if err := up.SetApp(delivery.AppBackground); err != nil {
			t.Error(err)
		}
		if err := up.SetApp(9); !errors.Is(err, delivery.ErrInvalid) {
			t.Errorf("got error %v, want ErrInvalid", err)
		}
		remote.info.Channel.(delivery.Replaceable).Replaced()
		synctest.Wait()
		if !channel.replaced || !remote.info.Channel.Closed() || len(channel.got) != 1 {
			t.Errorf("replaced %v, closed %v, publications %d", channel.replaced, remote.info.Channel.Closed(), len(channel.got))
		}
		up.Offline("gone")
		publish(4) // nobody's
		want := "acked 1.3, nacked 1 0x97 full, nacked 2 not queued: no room, heartbeat, subscribed true false, app background, offline gone"
		if got := strings.Join(remote.said, ", "); got != want {
			t.Errorf("the owner heard\n%s, want\n%s", got, want)
		}
	})
}

// A Session ends when no stream can be had for as long as it lasts: its calls fail as
// those of an owner that has stopped, its devices go offline, and another one begins.
func TestLostForLong(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(nil)
		p.one.hold = make(chan struct{})
		var last net.Conn
		var away atomic.Bool
		p.wrap = func(c net.Conn) net.Conn {
			if away.Load() {
				_ = c.Close()
			}
			last = c
			return c
		}
		p.begin()
		defer p.close()
		s := p.two.session()
		if _, err := s.Owner(0, 1).Online(delivery.OnlineInfo{Device: "phone", Account: "ann", Channel: &fakeChannel{}}); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() { failed <- s.FlushAll(t.Context()) }()
		synctest.Wait()
		away.Store(true)
		_ = last.Close()
		begun := time.Now()
		if err := <-failed; !errors.Is(err, delivery.ErrStopped) {
			t.Errorf("got error %v, want ErrStopped", err)
		}
		if took := time.Since(begun); took < 7*time.Second || took > 10*time.Second {
			t.Error("the session ended after", took)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := strings.Join(p.one.ups[0].said, ", "); got != "offline connection to the device's node lost" {
			t.Error("the owner heard", got)
		}
		close(p.one.hold)
		away.Store(false)
		if next := p.two.session(); next == s {
			t.Error("the session that has ended is the current one")
		} else if err := next.FlushAll(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.FlushAll(t.Context()); !errors.Is(err, delivery.ErrStopped) {
			t.Errorf("the session that has ended: error %v, want ErrStopped", err)
		}
	})
}

// A peer that takes nothing holds only its own queue. Calls and publications above the
// bound are refused; when not even reports fit the Session ends.
func TestSlowPeer(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		f := newFake()
		m := NewMesh(Options{Local: f, Patience: time.Second, Log: silent})
		defer m.Close()
		m.Begin(1)
		s := newSession(m, Member{ID: 2}, 1, false)
		m.add(s, 1)
		refused, failed := 0, 0
		for range maxCalls + 10 {
			s.Owner(0, 1).AcceptAsync(delivery.Request{Title: "t"}, func(_ delivery.Receipt, err error) {
				if errors.Is(err, delivery.ErrUnavailable) {
					refused++
				} else if errors.Is(err, delivery.ErrStopped) {
					failed++
				}
			})
		}
		if refused != 10 {
			t.Errorf("%d calls refused, want 10", refused)
		}
		channel := &presence{s: s, number: 1}
		large := delivery.Publication{DismissedID: strings.Repeat("x", 1<<20)}
		for i := range 20 {
			if err := channel.Publish(large); (i >= 15) != errors.Is(err, errFull) {
				t.Errorf("publication %d: %v", i, err)
			}
		}
		up := &Up{r: s.Owner(0, 1)}
		for range 64 {
			up.Nacked(delivery.Ref{}, large.DismissedID)
		}
		synctest.Wait()
		if len(f.ended) != 1 || failed != maxCalls {
			t.Errorf("%d sessions ended, %d calls failed; want 1 and %d", len(f.ended), failed, maxCalls)
		}
	})
}

// TestLargeFrames: large frames are confirmed before they fill the queue, also where the peer has
// nothing to send.
func TestLargeFrames(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(nil) // without signs of life
		p.begin()
		defer p.close()
		channel := &presence{s: p.one.session(), number: 1}
		for i := range 40 {
			if err := channel.Publish(delivery.Publication{DismissedID: strings.Repeat("x", 1<<20)}); err != nil {
				t.Fatalf("publication %d: %v", i, err)
			}
			synctest.Wait() // it has arrived
		}
	})
}

// TestReceiptThatDoesNotFit: the peer does not learn that nothing was accepted.
func TestReceiptThatDoesNotFit(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		m := NewMesh(Options{Local: newFake(), Patience: time.Second, Log: silent})
		defer m.Close()
		m.Begin(1)
		s := newSession(m, Member{ID: 2}, 1, false)
		m.add(s, 1)
		s.keptBytes = maxKept - largeAnswer
		if err := s.onCall(&call{ID: 1, Op: opAccept, arguments: arguments{Request: &request{Body: strings.Repeat("x", 2*largeAnswer)}}}); err != nil {
			t.Fatal(err)
		}
		var a answer
		if err := decode(s.kept[0][headSize:], &a); err != nil {
			t.Fatal(err)
		}
		if err := a.Failure.error(); !errors.Is(err, delivery.ErrInDoubt) || errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("%v, want ErrInDoubt", err)
		}
	})
}

// throttled is a connection that takes 1 MB a second.
type throttled struct{ net.Conn }

func (c throttled) Write(b []byte) (written int, err error) {
	for step := range slices.Chunk(b, 1000) {
		time.Sleep(time.Duration(len(step)) * time.Microsecond)
		n, err := c.Conn.Write(step)
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// A slow connection is not cut while its bytes pass: many small frames, or a long one.
func TestSlowConnection(t *testing.T) {
	for name, frames := range map[string][]int{"many small frames": slices.Repeat([]int{1000}, 10_000), "a long frame": {8 << 20}} {
		t.Run(name, func(t *testing.T) {
			testtool.Bubble(t, func(t *testing.T) {
				p := newPair(func(one, two *Options) { one.Beat, two.Beat = time.Second, time.Second })
				var streams atomic.Int32
				p.wrap = func(c net.Conn) net.Conn {
					streams.Add(1)
					return throttled{c}
				}
				p.begin()
				defer p.close()
				up, err := p.two.session().Owner(0, 1).Online(delivery.OnlineInfo{Device: "phone", Account: "ann", Channel: &fakeChannel{}})
				if err != nil {
					t.Fatal(err)
				}
				for i, size := range frames {
					up.(delivery.Acker).Nacked(delivery.Ref{Seq: delivery.Seq(i)}, strings.Repeat("x", size))
				}
				time.Sleep(30 * time.Second)
				synctest.Wait()
				p.one.mu.Lock()
				defer p.one.mu.Unlock()
				if said := p.one.ups[0].said; len(said) != len(frames) || streams.Load() != 1 {
					t.Errorf("%d of %d frames came over %d streams, want all over one", len(said), len(frames), streams.Load())
				}
			})
		})
	}
}

// An answer that is too large for the relay is refused, and the relay goes on.
func TestTooLargeAnswer(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(nil)
		p.one.hold = make(chan struct{}) // the call has no other answer
		p.begin()
		defer p.close()
		defer close(p.one.hold)
		answers := make(chan *answer, 1)
		c := &call{Op: opFlushAll}
		if err := p.two.session().call(c, func(a *answer) { answers <- a }); err != nil {
			t.Fatal(err)
		}
		p.one.session().answer(c.ID, results{Account: strings.Repeat("x", 65<<20)}, nil)
		if a := <-answers; a == nil || !errors.Is(a.Failure.error(), delivery.ErrOverloaded) {
			t.Errorf("the answer is %+v, want ErrOverloaded", a)
		}
		if len(p.one.ended)+len(p.two.ended) > 0 {
			t.Error("the relay has ended")
		}
	})
}

// Nodes that must not work together do not, and say why; those that differ do, and say so.
func TestHello(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(func(one, two *Options) {
			one.Alike, two.Alike = map[string]string{"delivery.ack_window": "3s", "x": "1"}, map[string]string{"delivery.ack_window": "4s", "x": "1"}
		})
		p.begin()
		p.two.session()
		synctest.Wait()
		p.close()
		if log := p.log.String(); !strings.Contains(log, "delivery.ack_window is 3s here and 4s there") || strings.Contains(log, "x is") {
			t.Error("log:", log)
		}
		p = newPair(func(one, two *Options) {
			one.Equal, two.Equal = map[string]string{"mqtt.topic_prefix": "a"}, map[string]string{"mqtt.topic_prefix": "b"}
		})
		p.begin()
		time.Sleep(time.Minute)
		p.close()
		if log := p.log.String(); strings.Count(log, "mqtt.topic_prefix is a here and b there") != 2 || len(p.two.begun)+len(p.one.begun) > 0 {
			t.Error("sessions", len(p.two.begun), "log:", log)
		}
		p = newPair(nil) // the dialler means a life that has ended
		p.a.End()
		p.a.Begin(7)
		p.b.Update([]Member{{ID: 1, Name: "one", Address: "one"}})
		time.Sleep(time.Minute)
		p.close()
		if log := p.log.String(); !strings.Contains(log, "life 1 is not that of node one") || len(p.two.begun) > 0 {
			t.Error("sessions", len(p.two.begun), "log:", log)
		}
	})
}

// A life that is not among the members any more has its Session ended at once.
func TestLifeEnds(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		p := newPair(nil)
		p.begin()
		p.two.session()
		p.one.session()
		p.b.Update(nil)
		p.two.until(func() bool { return len(p.two.ended) == 1 })
		p.a.Update([]Member{{ID: 2, Name: "two"}})
		p.a.Update(nil)
		time.Sleep(8 * time.Second)
		synctest.Wait()
		if len(p.one.ended) != 1 || len(p.b.Sessions()) != 0 || len(p.a.Sessions()) != 0 {
			t.Error("the session goes on", len(p.one.ended), len(p.b.Sessions()), len(p.a.Sessions()))
		}
		p.close()
	})
}

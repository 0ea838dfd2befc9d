package bench

import (
	"testing"
	"time"
)

// rig is an account of one sender and devices that are called by hand.
type rig struct {
	*account
	boxes []*inbox
}

func newRig(devices, lanes int) *rig {
	r := &rig{account: newAccount(1, devices, lanes, false)}
	for i := range devices {
		r.boxes = append(r.boxes, &inbox{device: i})
	}
	return r
}

// send has a lane send n messages, all of which are accepted.
func (r *rig) send(lane, n int) {
	for range n {
		l := r.lanes[lane]
		seq := l.next()
		r.wrote(l, []int64{0}, 0)
		r.answered(l, []answer{{seq: seq, accepted: true}}, 0)
	}
}

func (r *rig) arrive(device, lane int, seqs ...uint64) {
	for _, seq := range seqs {
		r.arrived(r.boxes[device], appendStamp(nil, stamp{run: 1, lane: uint32(lane), seq: seq}), 5)
	}
}

func (r *rig) lost() (lost []uint64) {
	r.missing(func(int) bool { return true }, func(_ *lane, seq uint64) { lost = append(lost, seq) })
	return lost
}

func TestAccountFindsWhatWentWrong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		arrive func(r *rig)
		want   counts // sent, accepted, due and came aside
		lost   int
	}{
		{"all well", func(r *rig) { r.arrive(0, 0, 0, 2, 4); r.arrive(1, 0, 1, 3, 5) }, counts{delivered: 6}, 0},
		{"one lost", func(r *rig) { r.arrive(0, 0, 0, 4); r.arrive(1, 0, 1, 3, 5) }, counts{delivered: 5}, 1},
		{"the last ones lost", func(r *rig) { r.arrive(0, 0, 0, 2) }, counts{delivered: 2}, 4},
		{"one twice", func(r *rig) { r.arrive(0, 0, 0, 2, 2, 4); r.arrive(1, 0, 1, 3, 5) }, counts{delivered: 6, duplicated: 1}, 0},
		{"one again later", func(r *rig) { r.arrive(0, 0, 0, 2, 4, 0); r.arrive(1, 0, 1, 3, 5) }, counts{delivered: 6, duplicated: 1}, 0},
		{"two swapped", func(r *rig) { r.arrive(0, 0, 0, 4, 2); r.arrive(1, 0, 1, 3, 5) }, counts{delivered: 6, outOfOrder: 1}, 0},
		{"one at the end comes first", func(r *rig) { r.arrive(0, 0, 4, 0, 2); r.arrive(1, 0, 1, 3, 5) }, counts{delivered: 6, outOfOrder: 2}, 0},
		{"at the wrong device", func(r *rig) { r.arrive(0, 0, 0, 1, 2, 4); r.arrive(1, 0, 3, 5) }, counts{delivered: 5, misrouted: 1}, 1},
		{"never sent", func(r *rig) { r.arrive(0, 0, 0, 2, 4, 1<<40); r.arrive(1, 0, 1, 3, 5); r.arrive(1, 9, 0) }, counts{delivered: 6, foreign: 2}, 0},
		{"of another run", func(r *rig) { r.arrived(r.boxes[0], appendStamp(nil, stamp{run: 2}), 0) }, counts{foreign: 1}, 6},
		{"without a stamp", func(r *rig) { r.arrived(r.boxes[0], []byte("hello"), 0) }, counts{foreign: 1}, 6},
		{"repeated to who never acknowledges", func(r *rig) { r.boxes[0].silent = true; r.arrive(0, 0, 0, 0, 2, 4); r.arrive(1, 0, 1, 3, 5) }, counts{delivered: 6, repeated: 1}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(2, 1)
			r.send(0, 6)
			tt.arrive(r)
			got, _ := r.counts()
			if got.sent != 6 || got.accepted != 6 || got.due != 6 || got.came != got.delivered {
				t.Errorf("got %+v", got)
			}
			got.sent, got.accepted, got.due, got.came = 0, 0, 0, 0
			if got != tt.want || len(r.lost()) != tt.lost {
				t.Errorf("got %+v and %d lost, want %+v and %d", got, len(r.lost()), tt.want, tt.lost)
			}
		})
	}
}

// TestRefusedIsNotLost: nobody has promised to deliver it.
func TestRefusedIsNotLost(t *testing.T) {
	r := newRig(1, 1)
	r.send(0, 1)
	r.answered(r.lanes[0], []answer{{seq: r.lanes[0].next()}}, 0)
	if got, _ := r.counts(); got.refused != 1 || got.accepted != 1 || got.due != 1 {
		t.Errorf("got %+v", got)
	}
	if lost := r.lost(); len(lost) != 1 || lost[0] != 0 {
		t.Errorf("lost %v", lost)
	}
}

// TestLanesKeepTheirOwnOrder: of two senders, either may come first.
func TestLanesKeepTheirOwnOrder(t *testing.T) {
	r := newRig(2, 2)
	r.send(0, 4)
	r.send(1, 4)
	for _, l := range r.lanes {
		if l.device(0) == l.device(1) || l.device(0) != l.device(2) {
			t.Errorf("lane %d does not go round", l.index)
		}
	}
	r.arrive(0, 0, 2, 0)
	r.arrive(0, 1, 1, 3)
	if got, _ := r.counts(); got.outOfOrder != 1 || got.delivered != 4 {
		t.Errorf("got %+v", got)
	}
}

// TestManyMessages: what becomes of a message is found behind the first chunk, too.
func TestManyMessages(t *testing.T) {
	r := newRig(3, 1)
	const n = chunkSize*2 + 1000
	r.send(0, n)
	for seq := range uint64(n) {
		if seq != 70_000 {
			r.arrive(int(seq%3), 0, seq)
		}
	}
	if lost := r.lost(); len(lost) != 1 || lost[0] != 70_000 {
		t.Errorf("lost %v", lost)
	}
	if got, _ := r.counts(); got.delivered != n-1 || got.outOfOrder != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestCoordinatedOmission: a server that stands still for a second while 1000 a second
// are due has made a thousand wait half a second in the middle, whatever was sent.
func TestCoordinatedOmission(t *testing.T) {
	a := newAccount(1, 1, 1, false)
	r := &run{o: &Options{Rate: 1000}, account: a}
	l := a.lanes[0]
	p := r.newPace(l)
	defer p.close()
	if n := p.wait(nil); n < 1 || n > 500 {
		t.Fatalf("at the start %d are due", n)
	}
	a.start = a.start.Add(-time.Second) // the server stands still
	n := p.wait(nil)
	if n < 1000 || n > 1500 {
		t.Fatalf("after a second %d are due", n)
	}
	in := &inbox{}
	at := a.now()
	for range n {
		m := stamp{run: 1, seq: l.next(), intended: p.due()}
		a.wrote(l, []int64{m.intended}, at)
		a.answered(l, []answer{{m.seq, m.intended, true}}, at)
		a.arrived(in, appendStamp(nil, m), at)
	}
	delivery, accept, lag := a.histograms()
	for name, h := range map[string]Latency{"delivery": newLatency(delivery), "accept": newLatency(accept), "lag": newLatency(lag)} {
		if h.Count != int64(n) || h.P50 < 400 || h.P50 > 800 || h.Max < 1000 || h.P99 < 900 {
			t.Errorf("%s: got %+v", name, h)
		}
	}
}

// TestWarmupDoesNotCount: only messages due in the measured time count.
func TestWarmupDoesNotCount(t *testing.T) {
	r := newRig(1, 1)
	r.send(0, 3)
	r.from.Store(100)
	r.to.Store(200)
	for seq, due := range []int64{99, 100, 200} {
		r.arrived(r.boxes[0], appendStamp(nil, stamp{run: 1, seq: uint64(seq), intended: due}), 300)
	}
	delivery, _, _ := r.histograms()
	if got, _ := r.counts(); delivery.TotalCount() != 1 || got.delivered != 3 {
		t.Errorf("%d latencies of %+v", delivery.TotalCount(), got)
	}
}

func TestPaceOfLanes(t *testing.T) {
	r := &run{o: &Options{Rate: 100, Count: 7}, account: newAccount(1, 1, 3, false)}
	r.account.start = r.account.start.Add(-time.Minute)
	var due []int64
	shares := []int{3, 2, 2}
	for i, l := range r.account.lanes {
		p := r.newPace(l)
		defer p.close()
		if n := p.wait(nil); n != shares[i] {
			t.Errorf("lane %d: %d are due, want %d", i, n, shares[i])
		}
		for range shares[i] {
			due = append(due, p.due()/1e6)
		}
		if n := p.wait(nil); n != 0 {
			t.Errorf("lane %d: %d are due once it has sent its share", i, n)
		}
	}
	want := []int64{0, 30, 60, 10, 40, 20, 50}
	for i := range want {
		if due[i] != want[i] {
			t.Fatalf("due at %v ms, want %v", due, want)
		}
	}
	stop := make(chan struct{})
	close(stop)
	if n := (&run{o: &Options{}, account: r.account}).newPace(r.account.lanes[0]).wait(stop); n != 0 {
		t.Errorf("%d are due after the end", n)
	}
}

// TestNothingAllocatedForAMessage: the generator must not dominate the measurement.
func TestNothingAllocatedForAMessage(t *testing.T) {
	r := &run{o: &Options{Payload: 256, Mode: ModeNotifications, Version: version5}, account: newAccount(1, 1, 1, false)}
	d := &device{link: link{r: r, id: "phone"}, target: "heartline/accounts/phone/notifications"}
	w := newWindow(r.account, r.account.lanes[0], 4)
	payload, buf := make([]byte, 0, 512), make([]byte, 0, 1024)
	ids, answers := make([]uint16, 0, 4), make([]answer, 0, 4)
	d.acks = make([]byte, 0, 64)
	w.lane.next() // the first makes room for those after it
	allocations := testing.AllocsPerRun(1000, func() {
		ids = w.reserve(ids[:0], 1, nil)
		m := w.open(ids[0], 1)
		payload = r.appendPayload(payload[:0], d, m)
		buf = append(appendPublishHead(buf[:0], version5, ids[0], d.target, len(payload)), payload...)
		p, _, _ := split(buf)
		if _, err := d.take(p, 2); err != nil {
			t.Fatal(err)
		}
		d.acks = d.acks[:0]
		w.mu.Lock()
		a, _ := w.close(ids[0], true)
		w.mu.Unlock()
		answers = append(answers[:0], a)
		r.account.answered(w.lane, answers, 2)
	})
	if allocations != 0 {
		t.Errorf("%.1f allocations a message", allocations)
	}
	if got, _ := r.account.counts(); got.delivered != 1001 || got.accepted != 1001 {
		t.Errorf("got %+v", got)
	}
}

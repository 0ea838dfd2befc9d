package bench

import (
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// account records each message sent, its receiver and its fate.
type account struct {
	run    uint32
	start  time.Time // what times are counted from
	begun  int64     // when sending did; written before the senders are started
	kept   []bool    // by device: what is accepted for it may stay with the broker
	lanes  []*lane
	shards []shard
	// closeLoop notifies a lane of each delivery.
	closeLoop bool
	// from and to are the times, in ns since start, between which a message has to be
	// due for its latency to count.
	from, to atomic.Int64
}

func newAccount(run uint32, devices, lanes int, closeLoop bool) *account {
	a := &account{run: run, start: time.Now(), kept: make([]bool, devices), closeLoop: closeLoop}
	a.to.Store(math.MaxInt64)
	for i := range lanes {
		l := &lane{index: i, first: i * max(1, devices/lanes), devices: devices, wake: make(chan struct{}, 1)}
		l.chunks.Store(&[]*chunk{})
		a.lanes = append(a.lanes, l)
	}
	a.shards = make([]shard, 2*runtime.GOMAXPROCS(0))
	for i := range a.shards {
		a.shards[i].delivery, a.shards[i].accept, a.shards[i].lag = newHistogram(), newHistogram(), newHistogram()
	}
	return a
}

// now is the time since start in ns.
func (a *account) now() int64 { return int64(time.Since(a.start)) }

// newHistogram takes 1 µs to 10 min with three digits. A latency of less than a
// microsecond does not exist here, and one of more has had its effect.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxMicros, 3) }

const maxMicros = int64(10 * time.Minute / time.Microsecond)

func record(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns/1000, 1), maxMicros)) // it is within bounds
}

// shard is a part of the counters, so that devices do not wait for one another.
type shard struct {
	mu       sync.Mutex
	delivery *hdrhistogram.Histogram // due until read from the device's connection
	accept   *hdrhistogram.Histogram // due until acknowledged to the sender
	lag      *hdrhistogram.Histogram // due until written: how late the generator itself was
	counts
	last int64 // when the latest new message was delivered
	_    [64]byte
}

// counts add up over the shards.
type counts struct {
	sent       int64
	accepted   int64
	due        int64 // accepted, for devices that are to get it
	refused    int64
	delivered  int64 // each once
	came       int64 // of them, to devices that are to get it
	duplicated int64
	repeated   int64 // copies for devices that never acknowledge, which ask for them
	outOfOrder int64
	misrouted  int64
	foreign    int64 // no stamp of this run
}

func (c *counts) add(o counts) {
	c.sent += o.sent
	c.accepted += o.accepted
	c.due += o.due
	c.refused += o.refused
	c.delivered += o.delivered
	c.came += o.came
	c.duplicated += o.duplicated
	c.repeated += o.repeated
	c.outOfOrder += o.outOfOrder
	c.misrouted += o.misrouted
	c.foreign += o.foreign
}

// counts of all shards, and the time of the latest delivery.
func (a *account) counts() (sum counts, last int64) {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		sum.add(s.counts)
		last = max(last, s.last)
		s.mu.Unlock()
	}
	return sum, last
}

// lane is one sender, whose messages to one device arrive in the order in which it
// has sent them. Message n goes to device first+n, all the way round.
type lane struct {
	index     int
	first     int
	devices   int
	sent      uint64        // written by the sender alone
	delivered atomic.Uint64 // with account.closeLoop
	wake      chan struct{} // something of it has come; holds one
	chunks    atomic.Pointer[[]*chunk]
}

// chunk is what became of chunkSize messages, a bit each.
type chunk struct {
	accepted [chunkSize / 64]atomic.Uint64
	seen     [chunkSize / 64]atomic.Uint64
}

const chunkSize = 1 << 16

func (l *lane) device(seq uint64) int { return (l.first + int(seq%uint64(l.devices))) % l.devices }

// next is the number of a new message, for which it makes room.
func (l *lane) next() uint64 {
	seq := l.sent
	if chunks := *l.chunks.Load(); seq/chunkSize == uint64(len(chunks)) {
		longer := append(slices.Clone(chunks), new(chunk)) // others are reading the one before
		l.chunks.Store(&longer)
	}
	l.sent++
	return seq
}

func (l *lane) chunk(seq uint64) *chunk {
	chunks := *l.chunks.Load()
	if seq/chunkSize >= uint64(len(chunks)) {
		return nil // never sent
	}
	return chunks[seq/chunkSize]
}

// mark sets the bit of a message and reports whether it was new.
func mark(bits *[chunkSize / 64]atomic.Uint64, seq uint64) bool {
	bit := uint64(1) << (seq % 64)
	return bits[seq%chunkSize/64].Or(bit)&bit == 0
}

func marked(bits *[chunkSize / 64]atomic.Uint64, seq uint64) bool {
	return bits[seq%chunkSize/64].Load()&(1<<(seq%64)) != 0
}

// signal wakes the lane's sender, which finds the new messages itself.
func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (a *account) laneShard(l *lane) *shard { return &a.shards[l.index%len(a.shards)] }

// wrote says that messages went out at a time; due has when each was to.
func (a *account) wrote(l *lane, due []int64, at int64) {
	s := a.laneShard(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent += int64(len(due))
	for _, d := range due {
		if a.counted(d) {
			record(s.lag, at-d)
		}
	}
}

// counted says whether the latency of a message due then is of the measured time.
func (a *account) counted(due int64) bool { return due >= a.from.Load() && due < a.to.Load() }

// answer is what the broker said to the sender of one message.
type answer struct {
	seq      uint64
	due      int64
	accepted bool
}

func (a *account) answered(l *lane, answers []answer, at int64) {
	s := a.laneShard(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range answers {
		if !w.accepted {
			s.refused++
			continue
		}
		s.accepted++
		if !a.kept[l.device(w.seq)] {
			s.due++
		}
		mark(&l.chunk(w.seq).accepted, w.seq)
		if a.counted(w.due) {
			record(s.accept, at-w.due)
		}
	}
}

// inbox is one device's part of the account. One goroutine at a time has it.
type inbox struct {
	device int
	silent bool
	order  []uint64 // of each lane, the number of its latest message here, plus one
}

// arrived is called with every copy that a device has read.
func (a *account) arrived(in *inbox, payload []byte, at int64) {
	s := &a.shards[in.device%len(a.shards)]
	m, ok := findStamp(payload)
	var l *lane
	var c *chunk
	if ok && m.run == a.run && int(m.lane) < len(a.lanes) {
		l = a.lanes[m.lane]
		c = l.chunk(m.seq)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c == nil:
		s.foreign++
		return
	case l.device(m.seq) != in.device:
		s.misrouted++
		return
	case !mark(&c.seen, m.seq):
		if in.silent {
			s.repeated++
		} else {
			s.duplicated++
		}
		return
	}
	if in.order == nil {
		in.order = make([]uint64, len(a.lanes))
	}
	if m.seq+1 < in.order[m.lane] {
		s.outOfOrder++
	} else {
		in.order[m.lane] = m.seq + 1
	}
	s.delivered++
	if !a.kept[in.device] {
		s.came++
	}
	s.last = max(s.last, at)
	if a.counted(m.intended) {
		record(s.delivery, at-m.intended)
	}
	if a.closeLoop {
		l.delivered.Add(1)
		l.signal()
	}
}

// missing calls fn for each message that was accepted, was for a device that due
// takes, and has not been seen. The senders have ended.
func (a *account) missing(due func(device int) bool, fn func(l *lane, seq uint64)) {
	for _, l := range a.lanes {
		for seq := range l.sent {
			c := l.chunk(seq)
			if marked(&c.accepted, seq) && !marked(&c.seen, seq) && due(l.device(seq)) {
				fn(l, seq)
			}
		}
	}
}

// histograms are those of all shards in one.
func (a *account) histograms() (delivery, accept, lag *hdrhistogram.Histogram) {
	delivery, accept, lag = newHistogram(), newHistogram(), newHistogram()
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		delivery.Merge(s.delivery)
		accept.Merge(s.accept)
		lag.Merge(s.lag)
		s.mu.Unlock()
	}
	return delivery, accept, lag
}

package bench

import (
	"math"
	"time"
)

// pace says when a lane's messages are due. At a fixed rate each has its time, kept
// to or not: latency counted from when a late message went out would leave out the
// wait that a slow server has caused (coordinated omission). Without a rate a message
// is due when it can be sent.
type pace struct {
	a        *account
	interval float64 // ns between two messages of this lane; 0 without a rate
	offset   float64 // ns, when its first is due: the lanes take turns
	share    uint64  // of the lane; 0 is without end
	next     uint64
	alarm    alarm // at a fixed rate
}

func (r *run) newPace(l *lane) *pace {
	p := &pace{a: r.account}
	if r.o.Rate > 0 {
		lanes := float64(len(r.account.lanes))
		p.interval = 1e9 / r.o.Rate * lanes
		p.offset = float64(r.account.begun) + 1e9/r.o.Rate*float64(l.index)
		p.alarm = newAlarm()
	}
	if r.o.Count > 0 {
		p.share = uint64(r.o.Count / len(r.account.lanes))
		if l.index < r.o.Count%len(r.account.lanes) {
			p.share++
		}
	} else {
		p.share = math.MaxUint64
	}
	return p
}

// wait returns how many messages are due now, once one is; 0 is the end.
func (p *pace) wait(stop <-chan struct{}) int {
	for {
		select {
		case <-stop:
			return 0
		default:
		}
		left := p.share - p.next
		if left == 0 {
			return 0
		}
		if p.interval == 0 {
			return int(min(left, math.MaxInt32))
		}
		early := p.time(p.next) - p.a.now()
		if early <= 0 {
			due := uint64((float64(p.a.now())-p.offset)/p.interval) + 1
			return int(min(left, max(due, p.next+1)-p.next))
		}
		if early > int64(5*time.Millisecond) {
			select {
			case <-stop:
				return 0
			case <-time.After(time.Duration(early) - 2*time.Millisecond):
			}
			continue
		}
		p.alarm.sleep(time.Duration(early))
	}
}

// due is when the next message is to be sent, which thereby has been taken.
func (p *pace) due() int64 {
	p.next++
	if p.interval == 0 {
		return p.a.now()
	}
	return p.time(p.next - 1)
}

func (p *pace) close() { p.alarm.close() }

func (p *pace) time(n uint64) int64 { return int64(p.offset + float64(n)*p.interval) }

package ordinary

import (
	"container/list"
	"time"
)

// removedFor is how long a removal is remembered: longer than other servers are cut off and
// come back.
const removedFor = time.Hour

// removedBytes bounds the memory of either kind of removals. One takes about
// removalOverhead and its topic's name.
const (
	removedBytes    = 8 << 20
	removalOverhead = 200
)

// removals are the stamps of retained messages that were removed, by topic, for servers that
// may have the messages still. The oldest are forgotten where there are too many. Those of a
// topic that had no message here have a bound of their own: they cost nothing to publish,
// and are of use only for a message that is on its way here. A nil *removals is of a server
// that is alone.
type removals struct{ real, void removalList }

// stamp returns the stamp of a topic's removal, 0 if none is remembered.
func (r *removals) stamp(topicName string) int64 {
	if r == nil {
		return 0
	}
	return max(r.real.stamp(topicName), r.void.stamp(topicName))
}

// add remembers a removal. had says whether the topic had a message here.
func (r *removals) add(topicName string, stamp int64, had bool) {
	if r == nil {
		return
	}
	kind := &r.void
	if had || r.real.stamp(topicName) > 0 {
		kind = &r.real
	}
	r.forget(topicName)
	kind.add(topicName, stamp)
}

// forget is for a topic that has a message again.
func (r *removals) forget(topicName string) {
	if r == nil {
		return
	}
	r.real.remove(topicName)
	r.void.remove(topicName)
}

// expire forgets removals from before a stamp, of each kind so many at most.
func (r *removals) expire(before int64, most int) {
	if r == nil {
		return
	}
	r.real.expire(before, most)
	r.void.expire(before, most)
}

// messages returns them as messages.
func (r *removals) messages() (all []*Message) {
	if r == nil {
		return nil
	}
	for _, l := range []*removalList{&r.real, &r.void} {
		for e := l.order.Front(); e != nil; e = e.Next() {
			x := e.Value.(removal)
			all = append(all, &Message{TopicName: x.topicName, Retain: true, Stamp: x.stamp})
		}
	}
	return all
}

// removalList is removals of one kind, in the order in which this server has heard of them,
// which is about that of their stamps.
type removalList struct {
	places map[string]*list.Element // by topic name
	order  list.List                // of removal
	bytes  int
}

type removal struct {
	topicName string
	stamp     int64
}

func (x removal) size() int { return removalOverhead + len(x.topicName) }

func (l *removalList) stamp(topicName string) int64 {
	if e := l.places[topicName]; e != nil {
		return e.Value.(removal).stamp
	}
	return 0
}

func (l *removalList) add(topicName string, stamp int64) {
	if l.places == nil {
		l.places = map[string]*list.Element{}
	}
	x := removal{topicName, stamp}
	l.places[topicName] = l.order.PushBack(x)
	for l.bytes += x.size(); l.bytes > removedBytes; {
		l.drop(l.order.Front())
	}
}

func (l *removalList) remove(topicName string) {
	if e := l.places[topicName]; e != nil {
		l.drop(e)
	}
}

func (l *removalList) expire(before int64, most int) {
	for e := l.order.Front(); e != nil && most > 0 && e.Value.(removal).stamp < before; e = l.order.Front() {
		l.drop(e)
		most--
	}
}

func (l *removalList) drop(e *list.Element) {
	x := l.order.Remove(e).(removal)
	delete(l.places, x.topicName)
	l.bytes -= x.size()
}

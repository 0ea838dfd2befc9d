package ordinary

import (
	"container/list"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Disk is where retained messages are when they are not in the memory.
type Disk interface {
	// Load reads a retained message; nil: there is none.
	Load(topicName string) (*Message, error)
}

// retained is the retained messages. Their names are in the memory, in an order that
// a replay follows; of their content, as much as the cache takes and what the disk does
// not have yet.
type retained struct {
	disk  Disk  // nil: all content stays in the memory
	cache int64 // bytes of content that are on the disk, too

	mu      sync.Mutex
	names   names
	entries map[string]*kept // by topic name
	bytes   map[string]int64 // by account
	total   int64
	cached  int64     // bytes of content in recent
	recent  list.List // of *kept with content on the disk and in the memory, oldest first
	system  int       // of $SYS
	swept   string    // where the search for expired ones goes on
	removed *removals // nil: there is no other server
	server  int64     // below stampStep: makes the stamps of this server its own
}

// kept is one retained message.
type kept struct {
	topicName string
	msg       *Message // nil: on the disk alone
	size      int64
	account   string
	expiry    int64
	stamp     int64
	place     *list.Element // in recent; nil: not there
}

func newRetained(disk Disk, cache int64) *retained {
	return &retained{disk: disk, cache: cache, entries: map[string]*kept{}, bytes: map[string]int64{}}
}

// ConnectionTopics is what the topics begin with where bridges tell their state. They
// are the only ones of $SYS that clients write.
const ConnectionTopics = "$SYS/broker/connection/"

// ofServer reports whether a topic is the server's own: it costs nobody anything and
// is never stored.
func ofServer(topicName string) bool {
	return strings.HasPrefix(topicName, "$SYS/") && !strings.HasPrefix(topicName, ConnectionTopics)
}

// admit reports why a message may not be retained. limit is the account's budget, 0:
// none. room, if there is one, says why the disk must not fill up further.
func (r *retained) admit(m *Message, limit int64, room func() error) error {
	if len(m.Payload) == 0 || ofServer(m.TopicName) {
		return nil
	}
	size := int64(m.size())
	r.mu.Lock()
	grows, used := size, r.bytes[m.Account]
	if old := r.entries[m.TopicName]; old != nil {
		if grows -= old.size; old.account == m.Account {
			used -= old.size
		}
	}
	r.mu.Unlock()
	if limit > 0 && m.Account != "" && grows > 0 && used+size > limit {
		return &LimitError{Key: "mqtt.limits.retained_bytes", Reason: fmt.Sprintf("the account's retained messages may have %d bytes", limit)}
	}
	if grows > 0 && room != nil && r.disk != nil {
		if err := room(); err != nil {
			return &LimitError{Key: "store.min_free", Reason: "no room for another retained message"}
		}
	}
	return nil
}

// stampStep is the distance of stamps in nanoseconds: the rest of a division by it says which
// server has made the stamp.
const stampStep = 1024

// set retains a message, or removes the topic's where it has no payload [MQTT-3.3.1-6]. latest
// is false where it does nothing: of a message from another server a later one may be here. One
// of this server's own gets its stamp, which is later than all that are known here. changed:
// there was a message or there is one now. The topic's lock is held.
func (r *retained) set(m *Message, now time.Time) (latest, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.removed.stamp(m.TopicName)
	if k := r.entries[m.TopicName]; k != nil {
		before = k.stamp
	}
	if !m.relayed {
		m.Stamp = max(now.UnixNano(), before+stampStep)/stampStep*stampStep + r.server
	} else if m.Stamp <= before {
		return false, false
	}
	had := r.removeLocked(m.TopicName)
	m.TopicName = strings.Clone(m.TopicName) // it stays when the content goes, and must not keep that in memory
	if len(m.Payload) > 0 {
		r.removed.forget(m.TopicName)
		r.addLocked(&kept{topicName: m.TopicName, msg: m, size: int64(m.size()), account: m.Account, expiry: m.Expiry, stamp: m.Stamp})
		return true, true
	}
	if !ofServer(m.TopicName) {
		r.removed.add(m.TopicName, m.Stamp, had)
	}
	return true, had
}

// removeRetained removes the retained message of a message's topic, here and at the other
// servers. No client hears of it. The topic's lock is held.
func (h *Hub) removeRetained(m *Message) {
	if !h.retained.has(m.TopicName) {
		return
	}
	removal := &Message{TopicName: m.TopicName, Account: m.Account, Retain: true, Quiet: true}
	h.retained.set(removal, h.sharedNow())
	h.opts.Journal.Retained(m.Account, m.TopicName)
	h.forward(removal)
}

func (r *retained) has(topicName string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entries[topicName] != nil
}

func (r *retained) addLocked(k *kept) {
	r.entries[k.topicName] = k
	r.names.add(keyOf(k.topicName))
	if ofServer(k.topicName) {
		r.system++
		return
	}
	r.total += k.size
	if k.account != "" {
		r.bytes[k.account] += k.size
	}
}

func (r *retained) removeLocked(topicName string) bool {
	k := r.entries[topicName]
	if k == nil {
		return false
	}
	delete(r.entries, topicName)
	r.names.remove(keyOf(topicName))
	r.uncacheLocked(k)
	if ofServer(topicName) {
		r.system--
		return true
	}
	r.total -= k.size
	if k.account == "" {
		return true
	}
	if r.bytes[k.account] -= k.size; r.bytes[k.account] <= 0 {
		delete(r.bytes, k.account)
	}
	return true
}

// get returns the retained message of a topic, nil if there is none. The topic's lock
// is held.
func (r *retained) get(topicName string, now int64) (*Message, error) {
	r.mu.Lock()
	k := r.entries[topicName]
	if k == nil || k.expiry > 0 && k.expiry <= now {
		r.mu.Unlock()
		return nil, nil
	}
	if m := k.msg; m != nil {
		if k.place != nil {
			r.recent.MoveToBack(k.place)
		}
		r.mu.Unlock()
		return m, nil
	}
	r.mu.Unlock()
	m, err := r.disk.Load(k.topicName)
	if err != nil || m == nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k.msg == nil && r.entries[topicName] == k {
		k.msg = m
		r.cacheLocked(k)
	}
	return m, nil
}

// cacheLocked counts content that the disk has, and drops the oldest where it is too
// much.
func (r *retained) cacheLocked(k *kept) {
	if k.place == nil {
		k.place = r.recent.PushBack(k)
		r.cached += k.size
	}
	for r.cached > r.cache && r.recent.Len() > 0 {
		oldest := r.recent.Front().Value.(*kept)
		r.uncacheLocked(oldest)
		oldest.msg = nil
	}
}

func (r *retained) uncacheLocked(k *kept) {
	if k.place != nil {
		r.recent.Remove(k.place)
		k.place = nil
		r.cached -= k.size
	}
}

// written notes that the disk has a message.
func (r *retained) written(m *Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.entries[m.TopicName]; k != nil && k.msg == m && r.disk != nil {
		r.cacheLocked(k)
	}
}

// next returns the first topic after a key that a filter matches; see names.next.
func (r *retained) next(filter []string, after string, looks *int) (key string, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names.next(filter, after, looks)
}

// figures are how many messages clients have had retained, and their bytes.
func (r *retained) figures() (messages int, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries) - r.system, r.total
}

// expire looks at some of the messages and returns the topics of those that have
// expired. It goes on where the last call ended.
func (r *retained) expire(now int64, most int) (topics []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed.expire(now*int64(time.Second)-int64(removedFor), most)
	for range most {
		looks := looksAtOnce
		key, ok := r.names.next(allTopics, r.swept, &looks)
		if !ok {
			r.swept = ""
			return topics
		}
		r.swept = key
		if k := r.entries[nameOf(key)]; k.expiry > 0 && k.expiry <= now {
			topics = append(topics, k.topicName)
		}
	}
	return topics
}

// replay is the retained messages for a new subscription, on their way into the
// session's queue. It holds a place in the order of the names and no message.
type replay struct {
	filter  string
	levels  []string
	sub     Subscription
	held    bool                // the subscription is being made
	after   string              // key of the last topic that it has passed
	skipped map[string]struct{} // topics after that which need no visit any more
}

// ahead reports whether the replay is still to come to a topic.
func (r *replay) ahead(topicName string) bool {
	if keyOf(topicName) <= r.after || !Matches(r.filter, topicName) {
		return false
	}
	_, skip := r.skipped[topicName]
	return !skip
}

// skip notes that a topic needs no visit, as its retained message is in the queue.
func (r *replay) skip(topicName string) {
	if r.skipped == nil {
		r.skipped = map[string]struct{}{}
	}
	r.skipped[strings.Clone(topicName)] = struct{}{} // not a part of a packet
}

// visit takes that back: there is no retained message there any more, so that the set
// holds no more names than there are retained messages.
func (r *replay) visit(topicName string) { delete(r.skipped, topicName) }

// pass goes on to a topic and reports whether it is still to be sent.
func (r *replay) pass(key, topicName string) bool {
	r.after = key
	_, skip := r.skipped[topicName]
	delete(r.skipped, topicName)
	return !skip
}

// feedAt is how many bytes wait to be sent at most when a replay goes on.
const feedAt = 64 << 10

// feedMost bounds what one Feed adds.
const feedMost = 128

// Feed moves retained messages of a session's replays into its queue, as many as the
// client takes soon. It may wait for the disk. It reports whether it has moved on: call
// Fill then. Not even a client that acknowledges nothing gets more queued than its budget.
func (s *Session) Feed(link Link) bool {
	for n := range feedMost {
		looks := looksAtOnce
		r, key, due := s.upcoming(link, &looks)
		if !due {
			return n > 0
		}
		if key != "" {
			s.hub.replayOne(s, link, r, key)
		}
	}
	return true
}

// Feeds reports whether Feed has something to do. It ends replays that have nothing to
// come, if it finds that out soon, and reads no message: others wait for the caller.
func (s *Session) Feeds(link Link) bool {
	for looks := looksAtOnce; looks > 0; looks-- { // one is the price of a replay that has nothing
		if _, key, due := s.upcoming(link, &looks); !due || key != "" {
			return due
		}
	}
	return true
}

// upcoming returns the next topic of the replay that may go on now, as its key; "": it has not
// been found with so many looks, or there was none and the replay has ended. due is false where
// no replay may go on.
func (s *Session) upcoming(link Link, looks *int) (r *replay, key string, due bool) {
	if s.hub == nil {
		return nil, "", false
	}
	r, after := s.feeding(link)
	if r == nil {
		return nil, "", false
	}
	key, found := s.hub.retained.next(r.levels, after, looks)
	if found {
		return r, key, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case key == "":
		s.endReplayLocked(r)
	case len(s.replays) > 0 && s.replays[0] == r && r.after == after: // else a later connection is ahead
		r.after = key
	}
	return nil, "", true
}

// feeding returns the replay that may go on now.
func (s *Session) feeding(link Link) (*replay, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != link || s.held || len(s.replays) == 0 || s.waiting >= feedAt || s.overLocked() {
		return nil, ""
	}
	r := s.replays[0]
	if r.held {
		return nil, ""
	}
	return r, r.after
}

// endReplayLocked ends the first replay, if it is r. Its cost does not depend on how many
// there are: a SUBSCRIBE can begin a quarter of a million.
func (s *Session) endReplayLocked(r *replay) {
	if len(s.replays) == 0 || s.replays[0] != r {
		return
	}
	s.replayingLocked(r.filter, false)
	if s.kept {
		s.hub.opts.Journal.Subscription(s.Account, s.ID, r.filter)
	}
	s.replays[0] = nil
	if s.replays = s.replays[1:]; len(s.replays) == 0 {
		s.replays = nil
	}
}

// endReplaysLocked ends those that match.
func (s *Session) endReplaysLocked(match func(*replay) bool) {
	kept := s.replays[:0]
	for _, r := range s.replays {
		if match(r) {
			s.replayingLocked(r.filter, false)
			continue
		}
		kept = append(kept, r)
	}
	clear(s.replays[len(kept):])
	if s.replays = kept; len(kept) == 0 {
		s.replays = nil
	}
}

// retainedLocked queues a retained message for a subscription (MQTT 5 §3.3.1.3).
func (s *Session) retainedLocked(r *replay, m *Message) {
	if r.sub.NoLocal && m.Origin == s.ID {
		return
	}
	e := &entry{msg: m, qos: min(m.QoS, r.sub.QoS), retain: true} // [MQTT-3.3.1-8]
	if r.sub.Identifier > 0 {
		e.identifiers = []int{r.sub.Identifier} // [MQTT-3.3.4-3]
	}
	if e.qos == 0 && s.link == nil {
		return
	}
	s.pushLocked(e)
}

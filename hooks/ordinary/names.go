package ordinary

import (
	"slices"
	"strings"
)

// names is an ordered set of topic names, level by level: it keeps them with a zero
// byte for each slash, which no topic name has. Its chunks bound what an insertion
// moves.
type names struct {
	chunks [][]string
	len    int
}

const chunkLen = 512

// keyOf is a topic name as names orders it.
func keyOf(topicName string) string { return strings.ReplaceAll(topicName, "/", "\x00") }

// nameOf is the inverse of keyOf.
func nameOf(key string) string { return strings.ReplaceAll(key, "\x00", "/") }

// find returns the chunk that key belongs to.
func (n *names) find(key string) int {
	at, found := slices.BinarySearchFunc(n.chunks, key, func(chunk []string, key string) int { return strings.Compare(chunk[0], key) })
	if !found && at > 0 {
		at--
	}
	return at
}

func (n *names) add(key string) {
	if len(n.chunks) == 0 {
		n.chunks = [][]string{{key}}
		n.len = 1
		return
	}
	c := n.find(key)
	at, found := slices.BinarySearch(n.chunks[c], key)
	if found {
		return
	}
	n.len++
	n.chunks[c] = slices.Insert(n.chunks[c], at, key)
	if chunk := n.chunks[c]; len(chunk) > chunkLen {
		upper := slices.Clone(chunk[chunkLen/2:])
		clear(chunk[chunkLen/2:])
		n.chunks[c] = chunk[:chunkLen/2]
		n.chunks = slices.Insert(n.chunks, c+1, upper)
	}
}

func (n *names) remove(key string) {
	if len(n.chunks) == 0 {
		return
	}
	c := n.find(key)
	at, found := slices.BinarySearch(n.chunks[c], key)
	if !found {
		return
	}
	n.len--
	if n.chunks[c] = slices.Delete(n.chunks[c], at, at+1); len(n.chunks[c]) == 0 {
		n.chunks = slices.Delete(n.chunks, c, c+1)
	}
}

// ceil returns the first key that is not before key.
func (n *names) ceil(key string) (string, bool) {
	if len(n.chunks) == 0 {
		return "", false
	}
	c := n.find(key)
	at, _ := slices.BinarySearch(n.chunks[c], key)
	if at < len(n.chunks[c]) {
		return n.chunks[c][at], true
	}
	if c+1 < len(n.chunks) {
		return n.chunks[c+1][0], true
	}
	return "", false
}

// looksAtOnce bounds the keys that one search looks at before it lets others have the lock.
const looksAtOnce = 1000

// allTopics are the levels of a filter for which two looks do: one may be at a topic of $SYS.
var allTopics = []string{"#"}

// next returns the first key after a key that a filter, given by its levels, matches.
// It skips what cannot match: it looks at no more keys than it has to, and at no more than
// looks, which it lessens by those. Where these do not do, found is false, and the search goes
// on after key; "": there is none.
func (n *names) next(filter []string, after string, looks *int) (key string, found bool) {
	from := after + "\x00" // its first successor: a level of no characters below it
	if after == "" {
		from = ""
	}
	for {
		key, ok := n.ceil(from)
		if !ok {
			return "", false
		}
		*looks--
		seek, match := compare(filter, key)
		switch {
		case match:
			return key, true
		case seek == "":
			return "", false
		case *looks <= 0:
			return key, false
		}
		from = seek
	}
}

// compare reports whether a filter matches a key, and if not the first key after it
// that may match; "" for none.
func compare(filter []string, key string) (seek string, match bool) {
	if filter[0] == "#" || filter[0] == "+" {
		if strings.HasPrefix(key, "$") {
			return "%", false // past $: [MQTT-4.7.2-1]
		}
	}
	// Where the level of the last + ends: everything below it can be skipped, and nothing
	// else. The seek key is made once: one for each + would cost the square of the levels.
	plus := -1
	past := func() string {
		if plus < 0 {
			return ""
		}
		return key[:plus] + "\x01"
	}
	at := 0
	for i, level := range filter {
		if level == "#" {
			return "", true
		}
		if at > len(key) { // the key has no such level
			below := key + "\x00"
			if level != "+" {
				below += level
			}
			return below, false
		}
		end := strings.IndexByte(key[at:], 0)
		if end < 0 {
			end = len(key)
		} else {
			end += at
		}
		name := key[at:end]
		switch {
		case level == "+":
			plus = end
		case name < level:
			return key[:at] + level, false
		case name > level:
			return past(), false
		}
		at = end + 1
		if at > len(key) && i+1 < len(filter) && filter[i+1] == "#" {
			return "", true // the parent level, too: §4.7.1.2
		}
	}
	if at > len(key) {
		return "", true
	}
	return past(), false // the key has more levels
}

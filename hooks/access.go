package hooks

import (
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
)

// AccessRule is a rule about ordinary topics. mochi's own ledger of such rules is
// not used: it keeps filters in a map, so that which of two decides is chance, and
// lets a rule for `a` speak of `a/b`.
type AccessRule struct {
	Username    string // "": everyone
	TopicFilter string // in which the levels %u and %c stand for the client's own names
	Read, Write bool
}

// access is the rules as they are asked: the first that fits decides, and what none
// speaks of is allowed.
type access []accessRule

type accessRule struct {
	AccessRule
	levels []string
}

func newAccess(rules []AccessRule) access {
	var a access
	for _, r := range rules {
		a = append(a, accessRule{r, strings.Split(r.TopicFilter, "/")})
	}
	return a
}

// writes reports whether the client may publish to a topic.
func (a access) writes(cl *mqtt.Client, topicName string) bool {
	return a.ask(cl, topicName, func(r AccessRule) bool { return r.Write })
}

// reads reports whether the client may have what is published to a topic, and of a
// filter with wildcards whether there is a topic of which it may: what it may not
// have of the others is kept from it when it is delivered.
func (a access) reads(cl *mqtt.Client, topicFilter string) bool {
	if mqtt.IsSharedFilter(topicFilter) {
		_, topicFilter, _ = strings.Cut(topicFilter, "/")
		_, topicFilter, _ = strings.Cut(topicFilter, "/")
	}
	return a.ask(cl, topicFilter, func(r AccessRule) bool { return r.Read })
}

func (a access) ask(cl *mqtt.Client, filter string, allows func(AccessRule) bool) bool {
	if len(a) == 0 {
		return true
	}
	levels := strings.Split(filter, "/")
	for _, r := range a {
		if r.Username != "" && r.Username != string(cl.Properties.Username) {
			continue
		}
		switch all, some := r.match(cl, levels); {
		case all:
			return allows(r.AccessRule)
		case some && allows(r.AccessRule):
			return true
		}
	}
	return true
}

// match reports whether the rule speaks of all topics that a filter matches, and of
// some of them. A topic name is a filter that matches itself.
func (r *accessRule) match(cl *mqtt.Client, filter []string) (all, some bool) {
	if servers(filter[0]) && wild(r.levels[0]) || servers(r.levels[0]) && wild(filter[0]) {
		return false, false // [MQTT-4.7.2-1]
	}
	all = true
	for i, own := range r.levels {
		if own == "#" {
			return all, true // the level above, too: §4.7.1.2
		}
		if i == len(filter) {
			return false, false
		}
		asked := filter[i]
		if asked == "#" {
			return false, true
		}
		switch own {
		case "+":
			continue
		case "%u":
			own = string(cl.Properties.Username)
		case "%c":
			own = cl.ID
		}
		// A name that is a wildcard, or has a slash in it, is that of no level.
		switch {
		case asked == "+":
			all = false
		case asked != own:
			return false, false
		}
	}
	if len(filter) == len(r.levels)+1 && filter[len(r.levels)] == "#" {
		return false, true // a/# is about a as well
	}
	return all && len(filter) == len(r.levels), len(filter) == len(r.levels)
}

func servers(level string) bool { return strings.HasPrefix(level, "$") }

func wild(level string) bool { return level == "+" || level == "#" }

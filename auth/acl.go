package auth

import "strings"

// ACLRule is a rule about ordinary topics.
type ACLRule struct {
	Username    string // "": everyone
	TopicFilter string // in which a level {account} or %u, {device} or %c stands for the client's own names
	Read, Write bool
}

// ACL decides about ordinary topics: the first rule that fits decides. What no rule
// speaks of is allowed, but where the ACL is closed to services only; and so are the
// server's own topics ($SYS), whatever the rules say.
type ACL struct {
	closed bool
	rules  []aclRule
}

type aclRule struct {
	ACLRule
	levels []string
}

// Client is a client that uses an ordinary topic.
type Client struct {
	Account, ID string
	Service     bool
}

// Why a closed ACL refuses, for the reason string.
const (
	WhyClosed = "ordinary topics are closed to devices unless auth.acl opens them"
	WhyRule   = "auth.acl does not allow this topic"
)

// NewACL returns an ACL. closed is for servers with authentication.
func NewACL(rules []ACLRule, closed bool) *ACL {
	a := &ACL{closed: closed}
	for _, r := range rules {
		a.rules = append(a.rules, aclRule{r, strings.Split(r.TopicFilter, "/")})
	}
	return a
}

// Why is the reason for a refusal, for the reason string of an answer.
func (a *ACL) Why() string {
	if a.closed && len(a.rules) == 0 {
		return WhyClosed
	}
	return WhyRule
}

// Writes reports whether a client may publish to a topic.
func (a *ACL) Writes(c Client, topicName string) bool {
	return a.ask(c, topicName, func(r ACLRule) bool { return r.Write })
}

// Reads reports whether a client may have messages of a topic, and of a filter with
// wildcards whether there is a topic of which it may: the others are kept from it at
// delivery.
func (a *ACL) Reads(c Client, topicFilter string) bool {
	if shared, rest, ok := strings.Cut(topicFilter, "/"); ok && strings.EqualFold(shared, "$share") {
		_, topicFilter, _ = strings.Cut(rest, "/")
	}
	return a.ask(c, topicFilter, func(r ACLRule) bool { return r.Read })
}

func (a *ACL) ask(c Client, filter string, allows func(ACLRule) bool) bool {
	if a.closed && !c.Service && serverTopic(filter) {
		return false
	}
	if len(a.rules) == 0 {
		return !a.closed || c.Service
	}
	levels := strings.Split(filter, "/")
	for i := range a.rules {
		r := &a.rules[i]
		if r.Username != "" && r.Username != c.Account {
			continue
		}
		switch all, some := r.match(c, levels); {
		case all:
			return allows(r.ACLRule)
		case some && allows(r.ACLRule):
			return true
		}
	}
	return !a.closed || c.Service
}

// match reports whether the rule speaks of all topics that a filter matches, and of
// some of them. A topic name is a filter that matches itself.
func (r *aclRule) match(c Client, filter []string) (all, some bool) {
	if serverTopic(filter[0]) && wildcard(r.levels[0]) || serverTopic(r.levels[0]) && wildcard(filter[0]) {
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
			own = c.Account
		case "{account}":
			own = topicLevel(c.Account)
		case "%c":
			own = c.ID
		case "{device}":
			own = topicLevel(c.ID)
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

func serverTopic(level string) bool { return strings.HasPrefix(level, "$") }

func wildcard(level string) bool { return level == "+" || level == "#" }

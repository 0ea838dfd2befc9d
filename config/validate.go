package config

import (
	"fmt"
	"slices"
	"time"
)

// Validate checks every rule and returns an Errors with every finding, or nil. It
// looks at the files that the configuration names, where the configuration makes
// use of them. Load has called it already; it is for a Config made in Go.
func (c *Config) Validate() error {
	return Errors(c.check(nil)).orNil()
}

// rule is one thing that must hold. Each is checked on its own and none hides
// another, but for one case: a key that already has a finding (its text could not
// be read) keeps quiet the rules that need it.
type rule struct {
	key   string   // that a finding is about
	needs []string // others that check reads
	// check returns what must hold, where it does not, and the value that is there.
	check func(c *Config) (broken string, got any)
}

func (c *Config) check(unreadable map[string]bool) []Finding {
	var out []Finding
	for _, r := range allRules(c) {
		if anyOf(unreadable, append(r.needs, r.key)) {
			continue
		}
		if broken, got := r.check(c); broken != "" {
			f := Finding{Key: r.key, Rule: broken}
			if got != nil {
				f.Got, f.HasGot = show(got), true
			}
			out = append(out, f)
		}
	}
	return out
}

func anyOf(set map[string]bool, keys []string) bool {
	for _, k := range keys {
		if set[k] {
			return true
		}
	}
	return false
}

func show(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return formatDuration(v)
	default:
		return fmt.Sprint(v)
	}
}

// allRules returns the rules of every section, in the order of their findings.
func allRules(c *Config) []rule {
	return slices.Concat(
		mqttRules(), httpRules(), authRules(), deliveryRules(), apnsRules(), fcmRules(), webPushRules(), receiptsRules(), xmppRules(), storeRules(),
		aclRules(c), apnsAppRules(c), fcmAppRules(c), webPushAppRules(c), webhookRules(c), xmppComponentRules(c),
	)
}

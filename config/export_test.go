package config

// RuleKeys are the keys of all rules, in order; those of a list stand once an entry.
func RuleKeys(c *Config) []string {
	var keys []string
	for _, r := range allRules(c) {
		keys = append(keys, r.key)
	}
	return keys
}

// BrokenRules are the indices in RuleKeys of the rules that c breaks.
func BrokenRules(c *Config) []int {
	var broken []int
	for i, r := range allRules(c) {
		if text, _ := r.check(c); text != "" {
			broken = append(broken, i)
		}
	}
	return broken
}

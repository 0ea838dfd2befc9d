package config

// RuleKeys are the keys of all rules, in order; appRules stand once.
func RuleKeys(c *Config) []string {
	var keys []string
	for _, r := range append(rules(), appRules(c)...) {
		keys = append(keys, r.key)
	}
	return keys
}

// BrokenRules are the indices in RuleKeys of the rules that c breaks.
func BrokenRules(c *Config) []int {
	var broken []int
	for i, r := range append(rules(), appRules(c)...) {
		if text, _ := r.check(c); text != "" {
			broken = append(broken, i)
		}
	}
	return broken
}

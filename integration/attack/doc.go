// Package attack holds the attack matrix: attempts to get in, to get at the data
// of others, or to get in the way, over every transport and in every mode of
// authentication. Each attempt asserts that it is refused and that its victim, a phone
// that stays connected, notices nothing. `make attack` runs it.
package attack

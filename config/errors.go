package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Finding is one thing wrong with a configuration.
type Finding struct {
	Key    string // the key at fault, or the file or variable where no key is
	Rule   string // what must hold, as a sentence that says what to change
	Got    string // the value, as it was written; see HasGot
	HasGot bool   // false: no value is shown, because there is none or it may be secret
	From   string // the flag or variable that the value came from; "" is the file or a default
}

func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(printable(f.Key))
	b.WriteString(": ")
	b.WriteString(printable(f.Rule))
	if f.HasGot {
		b.WriteString(", got ")
		b.WriteString(showValue(f.Got))
	}
	if f.From != "" {
		fmt.Fprintf(&b, " (from %s)", f.From)
	}
	return b.String()
}

// Errors is every finding about a configuration. Nothing starts while there is
// one. Error is one line a finding.
type Errors []Finding

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// orNil keeps an empty list from becoming an error that is not nil.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// printable escapes what could end the line, or the terminal's patience: a key that
// nobody knows may hold anything.
func printable(s string) string {
	if s == "" {
		return `""`
	}
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// showValue keeps a finding on one line whatever the value holds.
func showValue(s string) string {
	const most = 120
	r := []rune(s)
	if len(r) > most {
		s = string(r[:most]) + "…"
	}
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || r == '"' || r == utf8.RuneError || !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

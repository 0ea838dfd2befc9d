package wire

import "strings"

// Level writes an account as a level of a topic name or a segment of a path: its
// bytes %, /, + and # are percent-encoded, and nothing else (contract §1).
func Level(account string) string { return levelEscaper.Replace(account) }

var levelEscaper = strings.NewReplacer("%", "%25", "/", "%2F", "+", "%2B", "#", "%23")

// ParseLevel is the inverse of Level. ok is false for a level that no account is
// written as.
func ParseLevel(level string) (account string, ok bool) {
	if !strings.Contains(level, "%") {
		return level, true
	}
	var b strings.Builder
	for {
		i := strings.IndexByte(level, '%')
		if i < 0 {
			b.WriteString(level)
			return b.String(), true
		}
		if len(level) < i+3 {
			return "", false
		}
		b.WriteString(level[:i])
		switch strings.ToUpper(level[i+1 : i+3]) {
		case "25":
			b.WriteByte('%')
		case "2F":
			b.WriteByte('/')
		case "2B":
			b.WriteByte('+')
		case "23":
			b.WriteByte('#')
		default:
			return "", false
		}
		level = level[i+3:]
	}
}
